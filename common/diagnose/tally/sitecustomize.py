"""Put on the path of a watched Python process, where it counts steps and times waits for data.

Imports nothing of this project. Does nothing in a process that never imports torch, and its errors
are never the program's: it stops counting instead. The user's own sitecustomize runs as ever.

Counted are optimizer steps (torch's global hook) and the seconds in which a torch DataLoader was
asked for its next batch. They are written to a small file, one of each process, at most five times
a second; the folder is in LADDER_TALLY.
"""

import atexit
import functools
import os
import sys
import time
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

FOLDER = os.environ.get("LADDER_TALLY")
EVERY_S = 0.2
# not pathlib, whose import takes a while in programs that have nothing to do with torch
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120


class Counts:
    """What this process did so far. Times are of the monotonic clock, which processes share."""

    def __init__(self):
        self.waited_s = self.started_s = 0.0  # for batches; of that, while workers were started
        self.marks = {}  # "steps" and "batches": how many, and the counts at the first and last one
        self.loaders = {}  # what a loader is: seconds waited for it
        self.batches, self.optimizer = 0, None  # asked for; whose steps are counted
        self.facts, self.written, self.broken = {}, 0.0, False

    def mark(self, what):
        now = (time.monotonic(), self.waited_s, self.started_s, self.batches)
        first, _, done = self.marks.get(what, (now, now, 0))
        self.marks[what] = (first, now, done + 1)
        if now[0] - self.written > EVERY_S:
            self.write()

    def write(self):
        if self.broken or not self.marks:
            return
        self.written = time.monotonic()
        try:
            import json

            loader = max(self.loaders, key=self.loaders.get, default=None)
            told = {"marks": self.marks, "loader": dict(loader or ()), **self.facts}
            path = os.path.join(FOLDER, f"{os.getpid()}.json")  # noqa: PTH118
            with open(f"{path}.new", "w") as file:  # noqa: PTH123
                json.dump(told, file)
            os.replace(f"{path}.new", path)  # noqa: PTH105
        except Exception:  # the folder is gone, say
            self.broken = True


COUNTS = Counts()


def stopwatch():
    """Seconds since now that the thread was not kept waiting for a core: that is no wait for data.

    Source: Linux, Documentation/scheduler/sched-stats.rst; elsewhere all seconds count.
    """
    begun, kept = time.monotonic(), without_core()
    return lambda: max(0.0, time.monotonic() - begun - (without_core() - kept))


def without_core():
    """Seconds that this thread was ready to run and had no core; 0 where that is not told."""
    try:
        with open("/proc/thread-self/schedstat") as file:  # noqa: PTH123
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def quietly(count):
    """The function, whose errors end the counting and nothing else."""

    def counted(*arguments):
        if not COUNTS.broken:
            try:
                count(*arguments)
            except Exception:
                COUNTS.broken = True

    return counted


def in_optimizer(module):
    """Count the steps of the first optimizer that steps: of several each takes one an update."""
    import torch

    @quietly
    def count(optimizer):
        if not COUNTS.facts:
            parameter = optimizer.param_groups[0]["params"][0]
            facts = {"device": parameter.device.type, "threads": torch.get_num_threads()}
            if parameter.device.type == "cuda":
                index = parameter.device.index
                facts |= {"index": index, "name": torch.cuda.get_device_name(index)}
            COUNTS.facts, COUNTS.optimizer = facts, id(optimizer)
        if COUNTS.optimizer == id(optimizer):
            COUNTS.mark("steps")

    def hook(optimizer, *arguments):
        if not torch.compiler.is_compiling():  # a traced step is not to see it
            count(optimizer)

    module.register_optimizer_step_post_hook(hook)


def in_loader(module):
    """Time whoever asks a DataLoader for an iterator, and that for the next batch."""
    base, loader_class = module._BaseDataLoaderIter, module.DataLoader
    begin, following = loader_class.__iter__, base.__next__

    @quietly
    def began(loader, iterator, seconds):
        facts = {
            "workers": loader.num_workers,
            "batch_size": loader.batch_size,
            "persistent": loader.persistent_workers,
        }
        iterator._ladder_facts = tuple(facts.items())
        COUNTS.waited_s += seconds
        COUNTS.started_s += seconds

    @quietly
    def waited(iterator, seconds):
        key = iterator.__dict__.get("_ladder_facts")
        COUNTS.waited_s, COUNTS.batches = COUNTS.waited_s + seconds, COUNTS.batches + 1
        COUNTS.loaders[key] = COUNTS.loaders.get(key, 0.0) + seconds
        COUNTS.mark("batches")

    @functools.wraps(begin)
    def timed_iter(loader):
        seconds = stopwatch()
        iterator = begin(loader)
        began(loader, iterator, seconds())
        return iterator

    @functools.wraps(following)
    def timed_next(iterator):
        seconds = stopwatch()
        batch = following(iterator)
        waited(iterator, seconds())
        return batch

    loader_class.__iter__, base.__next__ = timed_iter, timed_next


WANTED = {"torch.optim.optimizer": in_optimizer, "torch.utils.data.dataloader": in_loader}


class Finder:
    """Sees the two modules being imported, and lets the import go its usual way."""

    def find_spec(self, name, path=None, target=None):
        change = WANTED.get(name)
        spec = change and PathFinder.find_spec(name, path, target)
        if not spec or not spec.loader:
            return None
        execute = spec.loader.exec_module

        def then_change(module):
            execute(module)
            quietly(change)(module)

        spec.loader.exec_module = then_change
        return spec


def install():
    def begin_anew():  # in a forked process: what its parent did is not its own
        COUNTS.__init__()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin_anew)
    sys.meta_path.insert(0, Finder())
    atexit.register(COUNTS.write)


def run_the_next():
    """The sitecustomize that Python would have found without this one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]  # noqa: PTH100
    spec = PathFinder.find_spec(__name__, sys.path)
    if spec and spec.loader:
        sys.modules[__name__] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    if FOLDER:
        try:
            install()
        except Exception:
            COUNTS.broken = True
    run_the_next()
