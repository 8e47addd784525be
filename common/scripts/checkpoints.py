"""Checkpoints that a restarted job goes on from: sharded, written whole or not at all, two kept.

The engine is torch.distributed.checkpoint. A checkpoint is a folder `step-000123` that is renamed
into place when every process has written its part; `position.json` in it says where training was
and how large each file is, so that one torn in half later is noticed.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from common.engine.errors import UserError
from common.gpt.shape import Shape
from common.scripts.world import World
from common.workloads.train.build import Run

KEEP = 2
POSITION = "position.json"


@dataclass(frozen=True)
class Position:
    """Where training is: `batches` of the epoch and `steps` in all are done."""

    epoch: int = 1
    batches: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Found:
    """A whole checkpoint of this shape."""

    path: Path
    position: Position
    batch_size: int


class Checkpoints:
    """The checkpoints in one folder, of one model shape and number of processes."""

    def __init__(self, folder: Path, world: World, shape: Shape, say: Callable[[str], None]):
        self.folder, self.world, self.say = folder, world, say
        self.identity = {"shape": asdict(shape), "processes": world.size}

    def save(self, run: Run, position: Position) -> None:
        """Write a checkpoint; all processes call it together. The older ones beyond two go."""
        final = self.folder / f"step-{position.steps:06d}"
        partial = self.folder / f"{final.name}.partial"
        if final.exists():
            return
        if self.world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.wait()
        dcp.save(self.state(run), checkpoint_id=str(partial), no_dist=self.world.size == 1)
        self.wait()
        if self.world.rank == 0:
            sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
            told = asdict(position) | {"batch_size": run.recipe.batch_size, "files": sizes}
            (partial / POSITION).write_text(json.dumps(self.identity | told))
            partial.rename(final)
            for old in self.folders()[KEEP:]:
                shutil.rmtree(old)
        self.wait()

    def state(self, run: Run) -> dict:
        """What a step depends on: parameters, moments, and each process's random numbers."""
        model, optimizer = get_state_dict(run.model, run.optimizer)
        random = {f"cpu_{self.world.rank}": torch.get_rng_state()}
        if run.device.type == "cuda":
            random[f"cuda_{self.world.rank}"] = torch.cuda.get_rng_state(run.device)
        return {"model": model, "optimizer": optimizer, "random": random}

    def folders(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-??????"), reverse=True)

    def latest(self) -> Found | None:
        """The newest whole checkpoint, or None. Says which ones it passes over.

        Raises UserError if it is of another shape or number of processes.
        """
        for path in self.folders():
            try:
                told = json.loads((path / POSITION).read_text())
                whole = all((path / n).stat().st_size == s for n, s in told["files"].items())
            except (OSError, ValueError, KeyError):
                whole = False
            if not whole:
                self.say(f"{path} is not whole; going back to the one before it")
                continue
            for key, own in self.identity.items():
                if told[key] != own:
                    raise UserError(
                        f"--checkpoint {self.folder}: {path.name} is of another {key} "
                        f"({told[key]}, not {own}); give another folder"
                    )
            position = Position(told["epoch"], told["batches"], told["steps"])
            return Found(path, position, told["batch_size"])
        return None

    def load(self, run: Run, found: Found) -> Position:
        """Put the run where the checkpoint was. Returns the position it is then at."""
        state = self.state(run)
        dcp.load(state, checkpoint_id=str(found.path), no_dist=self.world.size == 1)
        set_state_dict(
            run.model,
            run.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        torch.set_rng_state(state["random"][f"cpu_{self.world.rank}"])
        if run.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][f"cuda_{self.world.rank}"], run.device)
        self.say(f"going on from {found.path}")
        return found.position

    def wait(self) -> None:
        if self.world.size > 1:
            dist.barrier()
