"""Where in the source a tensor's memory was asked for."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

# whoever calls torch is asked for, not torch, nor this tracker
HIDDEN = (*(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__)), "<")
DEPTH = 16  # frames that are kept of a stack, without the hidden ones


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source, in a function."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        """As an editor finds it, from the current folder where it lies below that."""
        near = os.path.relpath(self.file)
        return f"{self.file if near.startswith('..') else near}:{self.number}"


@dataclass(frozen=True, slots=True)
class Site:
    """The line that asked for memory, and the autograd node, where a backward pass did."""

    line: Line | None  # None: it was there before the tracker, or a thread without Python asked
    node: str = ""  # "MmBackward0"

    def __str__(self) -> str:
        where = str(self.line) if self.line else "" if self.node else "before tracking"
        return " ".join(filter(None, (where, self.node and f"({self.node})")))


BEFORE = Site(None)


def lines_from(frame: FrameType | None) -> Iterator[Line]:
    """The lines of a stack from the innermost on, without torch's own.

    Walked by hand: traceback.extract_stack reads source files, at every allocation.
    """
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(HIDDEN):
            yield Line(code.co_filename, frame.f_lineno, code.co_qualname)
        frame = frame.f_back


def trail_here() -> tuple[Line, ...]:
    """The lines that led here, the innermost first."""
    return tuple(line for line, _ in zip(lines_from(sys._getframe(1)), range(DEPTH), strict=False))


def node_here() -> str:
    """The name of the autograd node that is running its backward pass; empty outside of one."""
    node = torch._C._current_autograd_node()
    return "" if node is None else node.name()


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    return torch._C._current_graph_task_id() != -1


def caller(trail: tuple[Line, ...]) -> Line | None:
    """Who had the innermost line run: the nearest one of another file, else the next."""
    others = (line for line in trail[1:] if line.file != trail[0].file)
    return next(others, trail[1] if len(trail) > 1 else None)
