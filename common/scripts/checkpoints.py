"""Checkpoints that a restarted job goes on from: sharded, written whole or not at all, two kept.

The engine is torch.distributed.checkpoint. A checkpoint is a folder `step-000123` that is renamed
into place when every process has written its part; `position.json` in it says what was trained on
what, where training was, its loss curve, and how large each file is, so that one torn in half later
is noticed. Any number of processes goes on from it.
"""

import json
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from common.engine.errors import UserError
from common.gpt.weights import in_short
from common.scripts.position import POSITION, Found, Position, read, unlike
from common.scripts.world import World
from common.workloads.train.build import Run, seed_dropout

# torch says of every checkpoint of a single process that it is one
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

KEEP = 2
STEP = re.compile(r"step-\d{6,}")
STALE = re.compile(r"step-\d{6,}\.partial")
SHARED_S = 5.0  # for a file that one machine made to be seen on another one: NFS is slow at it
TORCH_WRITER = "inline_container.cc"  # told without the system's reason, of another process


class Checkpoints:
    """The checkpoints in one folder, of one training. All processes call its methods together."""

    def __init__(self, folder: Path, world: World, identity: dict, say: Callable[[str], None]):
        self.folder, self.world, self.identity, self.say = folder, world, identity, say

    def find(self) -> Found | None:
        """The newest whole checkpoint, as the first process finds it.

        Raises UserError if the processes do not share the folder, or it is of another training.
        """
        if self.world.size > 1:
            self.prove_shared()
        return self.world.from_first(self.latest)

    def prove_shared(self) -> None:
        """Every process must see what the first one writes. Raises UserError otherwise."""
        sign = self.folder / self.world.from_first(self.leave_sign)
        seen = self.world.from_all(appears(sign))
        if self.world.rank == 0:
            sign.unlink()
        if blind := [str(rank) for rank, sees in enumerate(seen) if not sees]:
            raise UserError(
                f"--checkpoint {self.folder}: what rank 0 writes there is not seen by rank "
                f"{', '.join(blind)}; give one folder that all processes share"
            )

    def leave_sign(self) -> str:
        with self.writing(), tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            return Path(file.name).name

    def latest(self) -> Found | None:
        """The newest whole checkpoint, or None. Says which ones it passes over.

        Raises UserError if it is of another training.
        """
        for path in self.folders():
            found = read(path)
            if found is None:
                self.say(f"{path} is not whole; going back to the one before it")
            elif other := unlike(found.identity, self.identity):
                raise UserError(
                    f"--checkpoint {self.folder}: {path.name} is of {other}; give another folder, "
                    "or train as it was trained"
                )
            else:
                return found
        self.say(f"no checkpoint in {self.folder} yet: training from the start")
        return None

    def folders(self) -> list[Path]:
        """Newest first."""
        steps = [path for path in self.folder.glob("step-*") if STEP.fullmatch(path.name)]
        return sorted(steps, key=lambda path: int(path.name[5:]), reverse=True)

    def save(self, run: Run, position: Position, history: list) -> None:
        """Write a checkpoint, unless it is there. The older ones beyond two go.

        Raises UserError if it cannot be written; the older ones are then still there.
        """
        final = self.folder / f"step-{position.steps:06d}"
        partial = self.folder / f"{final.name}.partial"
        if not self.world.from_first(lambda: self.make_room(final, partial)):
            return
        told = self.identity | asdict(position)
        told |= {"batch_size": run.recipe.batch_size, "processes": self.world.size}
        told |= {"device": run.device.type, "history": history}
        told |= {"updates": run.rates.schedule.updates}
        try:
            with self.writing():
                dcp.save(self.state(run), checkpoint_id=str(partial), **self.together())
            self.world.from_first(lambda: self.put_in_place(partial, final, told))
        except UserError:
            if self.world.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)  # a full disk is full of it, too
            raise

    def make_room(self, final: Path, partial: Path) -> bool:
        """An empty folder to write to. False where the checkpoint is there, and whole."""
        if read(final):
            return False
        with self.writing():
            if final.exists() and not is_ours(final):
                raise UserError(f"--checkpoint {final}: no checkpoint; give another folder")
            for stale in self.folder.glob("step-*.partial"):
                if STALE.fullmatch(stale.name):
                    shutil.rmtree(stale, ignore_errors=True)
            partial.mkdir(parents=True)
        return True

    def put_in_place(self, partial: Path, final: Path, told: dict) -> None:
        """Give the written checkpoint its name, and remove the torn and the third oldest."""
        with self.writing():
            sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
            text = json.dumps(told | {"files": sizes})
            (partial / POSITION).write_text(text, encoding="utf-8")
            if final.exists():  # a torn one
                shutil.rmtree(final)
            partial.rename(final)
        whole = [path for path in self.folders() if read(path)]
        for path in self.folders():
            if path in whole[KEEP:] or (path not in whole and is_ours(path)):
                shutil.rmtree(path, ignore_errors=True)

    def state(self, run: Run, random: bool = True) -> dict:
        """What a step depends on: parameters, moments, and each process's random numbers."""
        model, optimizer = get_state_dict(run.model, run.optimizer)
        state = {"model": model, "optimizer": optimizer}
        if random:
            state["random"] = {
                f"{kind}_{self.world.rank}": generator.get_rng_state()
                for kind, generator in generators(run.device).items()
            }
        return state

    def load(self, run: Run, found: Found) -> None:
        """Give the run the checkpoint's parameters, moments, and, if it can have them, its random
        numbers: each process of as many has its own on each device."""
        same = (found.processes, found.device) == (self.world.size, run.device.type)
        state = self.state(run, random=same)
        try:
            dcp.load(state, checkpoint_id=str(found.path), **self.together())
        except dcp.CheckpointException as error:
            raise UserError(
                f"--checkpoint {self.folder}: {found.path.name} cannot be read ({reason(error)}); "
                "remove it to go on from the one before it"
            ) from error
        set_state_dict(
            run.model,
            run.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        seed_dropout(self.world.rank, found.position.steps)
        for key, numbers in state.get("random", {}).items():
            generators(run.device)[key.partition("_")[0]].set_rng_state(numbers)
        self.say(f"going on from {found.path}")

    def together(self) -> dict:
        """torch.distributed.checkpoint's arguments for how processes work together."""
        return {"no_dist": self.world.size == 1, "process_group": self.world.saving}

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, dcp.CheckpointException) as error:
            failures = [pair[0] for pair in getattr(error, "failures", {}).values()]
            if not all(isinstance(failure, OSError | RuntimeError) for failure in failures):
                raise  # RuntimeError: torch's own writer
            raise UserError(
                f"--checkpoint {self.folder}: cannot be written ({reason(error)}); the checkpoints "
                "that were there are kept"
            ) from error


def generators(device: torch.device) -> dict:
    """By kind of device, what has its random numbers: the host, and this process's device."""
    found = {"cpu": torch}
    if device.type != "cpu":
        found[device.type] = torch.get_device_module(device)
    return found


def appears(path: Path) -> bool:
    deadline = time.monotonic() + SHARED_S
    while not (there := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return there


def is_ours(path: Path) -> bool:
    """Whether a folder that is not whole is what is left of a checkpoint, and may go."""
    names = {file.name for file in path.iterdir()} if path.is_dir() else {"a file"}
    return not names or POSITION in names or any(name.endswith(".distcp") for name in names)


def reason(error: BaseException) -> str:
    """What went wrong, in short; of several processes' failures, the first."""
    failures = list(getattr(error, "failures", {}).values())
    words = in_short(failures[0][0] if failures else error)
    return f"{words}; is the disk full?" if TORCH_WRITER in words else words
