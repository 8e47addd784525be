"""The files in launch/ start what its README's lines start, and survive what those survive."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SLURM, KUBEFLOW = PROJECT / "launch" / "slurm.sh", PROJECT / "launch" / "kubeflow.yaml"
TELL = '#!/usr/bin/env bash\nprintf "%s\\n" "$0" "$@" "TORCH=$TORCH_DISABLE_SHARE_RDZV_TCP_STORE"\n'


@pytest.fixture
def commands(tmp_path) -> Path:
    """A folder of commands in place of the cluster's: srun runs its task, torchrun tells."""
    stubs = {
        "torchrun": TELL,
        "scontrol": "#!/usr/bin/env bash\nprintf 'node-a\\nnode-b\\n'\n",
        "srun": '#!/usr/bin/env bash\necho "srun $1"\nshift\nexec "$@"\n',
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def started(commands: Path, line: list[str], **variables: str) -> list[str]:
    """The words of the torchrun that a machine's command starts."""
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | variables | {"PATH": path}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def slurm(commands: Path, node: int, job: int = 4_200_123, *more: str) -> list[str]:
    return started(
        commands,
        ["bash", str(SLURM), *more],
        SLURM_JOB_NODELIST="node-[a-b]", SLURM_JOB_ID=str(job), SLURM_NNODES="2",
        SLURM_NODEID=str(node), SLURM_CPUS_PER_TASK="32", SLURM_SUBMIT_DIR="/shared/my ladder",
    )  # fmt: skip


def kubeflow_command() -> list[str]:
    """The container's command: the block of words behind "-c" is one."""
    block = re.search(r"- >-\n((?: {8}\S.*\n)+)", KUBEFLOW.read_text())[1]
    return ["bash", "-c", " ".join(block.split())]


def kubeflow(commands: Path, node: int) -> list[str]:
    return started(
        commands, kubeflow_command(),
        PET_NNODES="2", PET_NODE_RANK=str(node), PET_MASTER_ADDR="ladder-node-0-0.ladder",
        PET_MASTER_PORT="29400", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )  # fmt: skip


def readme_options() -> set[str]:
    """The options of its torchrun commands, over several machines and over restarts."""
    text = (PROJECT / "launch/README.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("torchrun --n")]
    assert any("--nnodes" in line for line in lines)
    words = {word.partition("=")[0] for line in lines for word in shlex.split(line, comments=True)}
    return {word.replace("_", "-") for word in words if word.startswith("--")}


@pytest.mark.parametrize("machine", [slurm, kubeflow])
@pytest.mark.parametrize("node", [0, 1])
def test_a_machine_starts_what_readme_says(commands, machine, node):
    said = machine(commands, node)
    words = {word.partition("=")[0] for word in said}
    assert readme_options() - {"--batch-size"} <= words
    assert "--rdzv-backend=c10d" in said  # it meets again after a restart
    assert "--max-restarts=3" in said and "--nnodes=2" in said and "--nproc-per-node=4" in said
    assert f"--rdzv-conf=is_host={int(node == 0)}" in said
    assert said[-1] == "TORCH=1"  # no dead process's address after a restart
    assert said[said.index("--checkpoint") - 1] == "02_opt_multi_gpu_ddp.py"


def test_under_slurm_each_job_has_a_port_and_all_cores(commands):
    said = slurm(commands, 1, 4_200_123, "--epochs", "2 of mine")
    assert said[0] == "srun --cpus-per-task=32"
    assert "--rdzv-endpoint=node-a:20123" in said
    assert said[-5:-1] == ["--checkpoint", "/shared/my ladder/checkpoints", "--epochs", "2 of mine"]
    assert "--rdzv-endpoint=node-a:20124" in slurm(commands, 0, 4_200_124)


def test_under_kubeflow_the_checkpoints_and_nccl_have_their_volumes():
    text = KUBEFLOW.read_text()
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in text
    mounts = dict(re.findall(r"\{name: (\w+), mountPath: (\S+)\}", text))
    assert mounts == {"checkpoints": "/checkpoints", "shm": "/dev/shm"}
    assert "/checkpoints" in kubeflow_command()[-1].split()
    volumes = text[text.index("volumes:") :]
    assert re.search(r"- name: checkpoints\n\s+persistentVolumeClaim: \{claimName: ", volumes)
    assert re.search(r"- name: shm .*\n\s+emptyDir: \{medium: Memory", volumes)
