"""Two machines, made of network namespaces on this one, train together."""

import contextlib
import os
import re
import subprocess
import sys

import psutil
import pytest

from tests.conftest import PROJECT
from tests.test_distributed import EAGER, TINY, assert_alike, losses, wait_until, workers_of

HOSTS = tuple(f"ladder-{os.getpid()}-{name}" for name in "ab")  # other tests have theirs
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def may_make_hosts() -> str | None:
    """Why network namespaces cannot be made here, or None."""
    try:
        ip("netns", "add", HOSTS[0])
        ip("netns", "delete", HOSTS[0])
    except FileNotFoundError:
        return "no ip command (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted: {error.stderr.strip()}"
    return None


@pytest.fixture
def hosts():
    """Two hosts with an address each, joined by a virtual cable."""
    if reason := may_make_hosts():
        pytest.skip(reason)
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "wire-a", "netns", HOSTS[0], "type", "veth",
           "peer", "name", "wire-b", "netns", HOSTS[1])  # fmt: skip
        for host, wire, address in zip(HOSTS, ("wire-a", "wire-b"), ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", wire)
            ip("-n", host, "link", "set", wire, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:
            listed = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
            for pid in listed.stdout.split():
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(int(pid)).kill()
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def start(folder, place: int, *options: str) -> subprocess.Popen:
    """torchrun on one host, with two processes, as launch/README.md types it."""
    host, wire = HOSTS[place], f"wire-{'ab'[place]}"
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes=2", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-id=ladder"]
    command += [f"--rdzv-endpoint={ADDRESSES[0]}:29400", f"--local-addr={ADDRESSES[place]}"]
    # torchrun knows its own machine by name; a namespace has none
    command += [f"--rdzv-conf=is_host={int(place == 0)}"]
    command += ["02_opt_multi_gpu_ddp.py", *TINY, "--batch-size", "1", *options]
    command += ["--plot", str(folder / f"{host}.png"), "--record", str(folder / "ddp.jsonl")]
    with (folder / host).open("w") as log:
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=EAGER | {"GLOO_SOCKET_IFNAME": wire, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def test_two_hosts_agree_with_one_process(hosts, alone, tmp_path):
    pair = [start(tmp_path, place, "--max-steps", "8") for place in (0, 1)]
    assert [host.wait(120) for host in pair] == [0, 0], (tmp_path / HOSTS[0]).read_text()
    said = (tmp_path / HOSTS[0]).read_text() + (tmp_path / HOSTS[1]).read_text()
    assert_alike(losses(said), alone)


def test_a_cut_cable_ends_in_a_sentence_on_both_hosts(hosts, tmp_path):
    pair = [start(tmp_path, place, "--epochs", "50", "--ddp-timeout", "5") for place in (0, 1)]

    def said() -> list[str]:
        return [(tmp_path / host).read_text() for host in HOSTS]

    def reached(step: int) -> bool:
        assert {host.poll() for host in pair} == {None}, said()
        return max(losses("".join(said())), default=-1) >= step

    wait_until(lambda: reached(3))
    workers = [worker for host in pair for worker in workers_of(host).values()]
    assert len(workers) == 4
    ip("-n", HOSTS[0], "link", "set", "wire-a", "down")  # nothing is refused: only silence
    # not by torchrun: the far host's still waits for the rendezvous, which is on the near one
    wait_until(lambda: not any(map(works, workers)), 30)
    for text in said():
        assert re.search(r"^error: rank \d: .* did not answer within --ddp-timeout 5 s", text, re.M)
    for host in pair:
        host.kill()
        host.wait()


def works(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # one whose torchrun has not noticed
    except psutil.NoSuchProcess:
        return False
