"""What an hour of a rented GPU should measure first: python -m steps.campaign --minutes 30

Measures by worth, most first, and stops after --each minutes; the same command goes on where it
stopped until --minutes are spent. All of it is left in one folder to bring home.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean

import psutil
import torch

from common.accelerator.compiler import missing_compiler
from common.accelerator.device import describe_in_child, pick_type
from common.cli import run as runner
from common.cli.limit import interrupted_after
from common.cli.runs import slug
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.gpu_watch import GpuWatch
from common.engine.machine import PROJECT
from common.engine.options import Parser, minutes, output_folder, writable_folder
from common.engine.records import (
    WRONG,
    append_line,
    as_records_of,
    json_lines,
    sole_writer,
    write_atomically,
)
from common.gpt.text import read_text, read_tokens, split, vocabulary_folder
from common.workloads.train.options import Chosen, add_workload_options, chosen, typed

DONE, CUT, FAILED, TOO_LONG = "done", "cut", "failed", "too long"
ENDED = (DONE, FAILED, TOO_LONG)  # statuses of tasks that are not taken up again
DRAWING_S = 20.0  # of a piece, kept for tables and pictures
LEAST_S = 15.0  # no task begins with less: a process alone takes 5 to 10 s to start
GRACE_S = 10.0  # for a script to end by itself when its time is over
PAIRS = 2  # of 01 and 02, in turns
TURNS = ("--resolution", "1%", "--budget", "3m")
AVERAGE = re.compile(r"Avg tok/sec: (\d+)")


@dataclass(frozen=True)
class Task:
    """One thing to measure. `work(campaign, seconds)` returns one of the statuses above."""

    name: str
    what: str
    work: Callable[["Campaign", float], str]


def ladder(*arguments: str, folder: str) -> Callable[["Campaign", float], str]:
    """A task's work: climb a ladder into a folder, or go on there."""

    def work(campaign: "Campaign", seconds: float) -> str:
        out = campaign.out / folder
        records = out / "records.jsonl"
        before = len(lines(records))
        command = [*arguments, *campaign.workload_options, "--resume", "--out", str(out)]
        with interrupted_after(seconds) as limit:
            status = runner.main(command)
        if not limit.reached and status == runner.INTERRUPTED:
            raise KeyboardInterrupt  # by hand: it was meant for the whole campaign
        if not limit.reached:
            return DONE
        return CUT if len(lines(records)) > before or not campaign.whole(seconds) else TOO_LONG

    return work


def lines(path: Path) -> list[dict]:
    """What was recorded there so far; nothing where there is no file yet."""
    return json_lines(path) if os.path.lexists(path) else []


def scripts(campaign: "Campaign", seconds: float) -> str:
    """01 and 02 with one process, in turns: what starting through DDP costs."""
    folder, end = campaign.out / "scripts", time.monotonic() + seconds
    rows = folder / "scripts.jsonl"
    work = campaign.work
    steps = work.defaults.warmup + work.defaults.steps
    given = ["--batch-size", work.recipe.batch_size, "--max-steps", steps, "--eval-every", steps]
    given += ["--epochs", steps, "--plot", folder / "loss.png", *campaign.workload_options]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    single = ["01_opt_single_gpu.py", *given]
    several = [*torchrun, "02_opt_multi_gpu_ddp.py", *given, "--record", folder / "ddp.jsonl"]
    for place in range(len(lines(rows)), 2 * PAIRS):
        command = [sys.executable, *map(str, several if place % 2 else single)]
        name = "02, one process" if place % 2 else "01"
        left = end - time.monotonic()
        if left < LEAST_S:
            return CUT
        print(f"{name}: run {place // 2 + 1} of {PAIRS}", flush=True)
        status, said = run_for(command, left)
        if status is None:
            return TOO_LONG if campaign.whole(left) else CUT
        rates = AVERAGE.findall(said)
        if status or not rates:
            write_atomically(folder / f"run-{place}.log", said.encode())
            return FAILED
        append_line(rows, {"script": name, "tok_per_s": int(rates[-1]), "command": command[1:]})
    return DONE


def run_for(command: list[str], seconds: float) -> tuple[int | None, str]:
    """A command's exit status, None if its time ran out, and what it said."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # 02 alone would take one
    with subprocess.Popen(command, cwd=PROJECT, env=os.environ | threads, **pipes) as child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.terminate()  # on which torchrun ends its workers; killed, it would leave them
            try:
                said, _ = child.communicate(timeout=GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                said, _ = child.communicate()
            return None, said
    return child.returncode, said


def share_kept(path: Path) -> str:
    """02's rate with one process over 01's, by pair, in words; empty without a whole pair."""
    with as_records_of(path):
        rates = [float(row["tok_per_s"]) for row in lines(path)]
    pairs = [two / one for one, two in zip(rates[::2], rates[1::2], strict=False)]
    each = ", ".join(f"{pair:.3f}" for pair in pairs)
    return f"02 with one process over 01: {geometric_mean(pairs):.3f} ({each})" if pairs else ""


TASKS = (  # by worth
    Task(
        "steps",
        "the steps, a first round, with profiles",
        ladder("--rounds", "1", "--profile", folder="steps"),
    ),
    Task(
        "again",
        "the steps, a second round: verdicts",
        ladder("--rounds", "2", "--profile", folder="steps"),
    ),
    Task(
        "beyond",
        "beyond the steps' top, one round, with profiles",
        ladder("--ladder", "beyond", "--rounds", "1", "--profile", folder="beyond"),
    ),
    Task("scripts", "02 with one process beside 01", scripts),
    Task(
        "parallel",
        "the parallel ladder with one process",
        ladder("--ladder", "parallel", "--nproc", "1", "--rounds", "1", folder="parallel"),
    ),
    Task(
        "inference",
        "the inference ladder, in turns",
        ladder("--ladder", "inference", *TURNS, folder="inference"),
    ),
    Task(
        "memory",
        "the memory ladder, one round",
        ladder("--ladder", "memory", "--rounds", "1", folder="memory"),
    ),
    Task("data", "the data ladder, in turns", ladder("--ladder", "data", *TURNS, folder="data")),
    Task(
        "starved",
        "the data ladder with samples that cost much, in turns",
        ladder("--ladder", "data", "--starved", *TURNS, folder="data-starved"),
    ),
    Task(
        "third",
        "the steps, a third round: narrower intervals",
        ladder("--rounds", "3", "--profile", folder="steps"),
    ),
    Task(
        "attribution",
        "each of the steps alone and left out",
        ladder("--rounds", "1", "--attribute", folder="steps"),
    ),
)


@dataclass
class Campaign:
    """A budget, what was spent of it, and how each task stands; kept in campaign.json."""

    out: Path
    work: Chosen
    workload_options: list[str]  # as they were typed
    each_s: float
    began: float  # of this piece, seconds since the epoch
    spent_s: float = 0.0  # by the pieces before
    tasks: dict[str, str] = field(default_factory=dict)  # statuses
    seconds: dict[str, float] = field(default_factory=dict)  # spent, by task

    @property
    def path(self) -> Path:
        return self.out / "campaign.json"

    def load(self) -> None:
        """Take up what the pieces before left. Raises UserError if that is no campaign of ours."""
        if not os.path.lexists(self.path):
            return
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8-sig"))
            self.spent_s = float(kept["spent_s"])
            self.tasks = {name: str(was) for name, was in kept["tasks"].items()}
            self.seconds = {name: float(spent) for name, spent in kept["seconds"].items()}
            options = [str(option) for option in kept["options"]]
            if not all(0 <= spent < math.inf for spent in (self.spent_s, *self.seconds.values())):
                raise ValueError("seconds that cannot be")
        except (OSError, *WRONG) as error:
            raise UserError(f"{self.path}: cannot be read as a campaign ({error})") from error
        if options != self.workload_options:
            was = " ".join(options) or "no workload options"
            raise UserError(f"--out {self.out}: holds a campaign with {was}; give another folder")

    def save(self, spent_s: float) -> None:
        kept = {
            "spent_s": round(spent_s, 1),
            "tasks": self.tasks,
            "seconds": {name: round(spent, 1) for name, spent in self.seconds.items()},
            "options": self.workload_options,
        }
        write_atomically(self.path, json.dumps(kept, indent=1).encode())

    def whole(self, seconds: float) -> bool:
        """Whether a task was given nearly all of a piece: it will never be given more."""
        return seconds > 0.7 * self.each_s

    def piece(self, budget_s: float, wanted: list[Task]) -> None:
        """Run what fits. A piece that is killed counts as a whole one."""
        end = self.began + min(self.each_s, budget_s - self.spent_s)
        if end <= time.time():
            return
        reserve = min(DRAWING_S, 0.1 * self.each_s)
        self.save(self.spent_s + self.each_s)
        try:
            for task in wanted:
                left = end - reserve - time.time()
                if self.tasks.get(task.name) in ENDED:
                    continue
                if left < min(LEAST_S, 0.25 * self.each_s):
                    break
                print(f"\n== {task.what} ==", flush=True)
                begin = time.monotonic()
                self.tasks[task.name] = CUT  # until it is known better
                self.tasks[task.name] = self.guarded(task, left)
                spent = self.seconds.get(task.name, 0.0) + time.monotonic() - begin
                self.seconds[task.name] = spent
                self.save(self.spent_s + self.each_s)
        finally:
            self.spent_s += time.time() - self.began
            self.save(self.spent_s)

    def guarded(self, task: Task, left: float) -> str:
        """A task that is refused costs itself, not what comes after it."""
        try:
            return task.work(self, left)
        except UserError as error:
            print(f"{task.name}: {error}", flush=True)
            return FAILED


def missing(device: DeviceFacts, options) -> list[str]:
    """What is not here and can be done without. Raises UserError for what cannot."""
    shape = chosen(options, device).shape
    split(read_tokens(read_text(options.text)), shape)  # text and tokens, or where to get them
    found = []
    try:
        vocabulary_folder()
    except UserError as error:
        found.append(f"{error}; without it 01 and 02 cannot print a sample, and are left out")
    if reason := missing_compiler(device):
        found.append(f"torch.compile: {reason}; rungs that need it do not apply")
    if device.vendor == "nvidia" and GpuWatch(device.type, device.name).handle is None:
        found.append("NVML does not answer: no clocks, throttling, or energy (nvidia-ml-py)")
    return found


def make_parser() -> Parser:
    parser = Parser(prog="python -m steps.campaign", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=minutes, default=30.0, metavar="M", help="in all; default: 30")
    add("--each", type=minutes, metavar="M", help="of one command; default: all at once")
    names = ", ".join(task.name for task in TASKS)
    add("--only", metavar="T[,T…]", help=f"of: {names}")
    add("--out", type=output_folder, metavar="DIR", help="default: results/campaign-DEVICE")
    add_workload_options(parser)
    return parser


def chosen_tasks(names: str | None) -> list[Task]:
    if names is None:
        return list(TASKS)
    known = {task.name: task for task in TASKS}
    for name in (wanted := names.split(",")):
        if name not in known:
            raise UserError(f"--only {name}: unknown; allowed: {', '.join(known)}")
    return [task for task in TASKS if task.name in wanted]


def main(arguments: list[str] | None = None) -> int:
    began = psutil.Process().create_time() if arguments is None else time.time()
    options = make_parser().parse_args(arguments)
    each, wanted = options.each or options.minutes, chosen_tasks(options.only)
    device = describe_in_child(pick_type(options.device))
    out = options.out or Path("results") / f"campaign-{slug(device.name)}"
    for lack in missing(device, options):
        print(f"missing: {lack}")
    campaign = Campaign(
        out=writable_folder("--out", out),
        work=chosen(options, device),
        workload_options=typed(options),
        each_s=60 * each,
        began=began,
    )
    campaign.load()
    interrupted = False
    with sole_writer(out):
        try:
            campaign.piece(60 * options.minutes, wanted)
        except KeyboardInterrupt:
            interrupted = True
    conclude(campaign, wanted, options.minutes)
    return runner.INTERRUPTED if interrupted else 0


def conclude(campaign: Campaign, wanted: list[Task], budget_min: float) -> None:
    """Say how things stand, and what to do next."""
    print()
    for task in wanted:
        status = campaign.tasks.get(task.name, "not begun")
        spent = campaign.seconds.get(task.name, 0.0)
        print(f"{task.name:<12} {status:<10} {spent:>6.0f} s  {task.what}")
    if told := share_kept(campaign.out / "scripts" / "scripts.jsonl"):
        print(told)
    ended = all(campaign.tasks.get(task.name) in ENDED for task in wanted)
    spent_min = campaign.spent_s / 60
    if ended:
        then = "all is measured"
    elif spent_min >= budget_min:
        then = "the time is spent; more --minutes go on from here"
    else:
        then = "the same command goes on from here"
    print(
        f"{spent_min:.1f} of {budget_min:g} minutes are spent: {then}. Bring home: {campaign.out}"
    )
