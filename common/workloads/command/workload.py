"""Somebody's command, timed by its lines: the workload of the ladder `environment`."""

import hashlib
import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from common.engine.contract import NotEquivalent, Numerics
from common.engine.device import DeviceFacts
from common.engine.errors import UserError
from common.engine.job import Against
from common.engine.options import seconds, whole
from common.engine.plan import Plan
from common.engine.records import is_file
from common.engine.workload import Check, Planned, Workload
from common.workloads.command.lines import Line, Seen
from common.workloads.command.metrics import METRICS
from common.workloads.command.program import Program
from common.workloads.command.recipe import CommandRecipe
from common.workloads.command.session import CommandSession
from common.workloads.command.settings import Settings

HOW = 'as: --command "python train.py" --line "step \\d+"'
LOSSES = 5  # the first ones, which are compared: rounding grows from update to update
LIMITS = {Numerics.ROUNDING: 1e-3, Numerics.LOWER_PRECISION: 1e-2}  # relative; below 1 absolute
BURST = 0.1  # the median gap between lines as a share of the mean: less, and they were held back


@dataclass(frozen=True, kw_only=True)
class Commands(Workload):
    """One process tree that is not ours: only its environment is changed."""

    recipe: type[CommandRecipe] = CommandRecipe
    settings: type[Settings] = Settings

    def notes(self, records: list[dict]) -> str:
        settings = records[0]["settings"]
        printed = Line(settings["line"]).rate is not None
        rate = "the number that it prints, by its own clock" if printed else "its lines per second"
        return f"{super().notes(records)}. `{settings['command']}`; the rate is {rate}"

    def unlike(self, a: dict, b: dict) -> str:
        names = ("command", "line")
        differ = [name for name in names if a["settings"][name] != b["settings"][name]]
        return f"different {' and '.join(differ)}s" if differ else ""

    def options(self, parser: ArgumentParser) -> None:
        add = parser.add_argument_group("your command").add_argument
        what = "started again and again, and ended after enough lines; no shell reads it"
        add("--command", metavar="COMMAND", help=what)
        line = "regular expression for the line of a step; a group in it is the rate"
        add("--line", metavar="PATTERN", help=line)
        add("--steps", type=whole(2, 10**6), default=20, metavar="N", help="lines, timed")
        before = "lines before them; default: 5"
        add("--warmup", type=whole(2, 10**6), default=5, metavar="N", help=before)
        wait = "for each line; default: 60"
        add("--patience", type=seconds, default=60.0, metavar="SECONDS", help=wait)

    def facts(self, device: DeviceFacts) -> dict:
        import torch  # as `plan` did

        facts = super().facts(device)
        facts["machine"]["instruction_set"] = torch.backends.cpu.get_cpu_capability()
        return facts

    def plan(self, options: Namespace) -> Planned:
        from common.accelerator.device import describe_in_child, pick_type  # imports torch

        if options.resolution is not None or options.budget is not None:
            raise UserError("--resolution and --budget: a command cannot take turns; --rounds N")
        words = split(options.command)
        if options.line is None:
            raise UserError(f"--line: is needed with --command, {HOW}")
        Line(options.line)
        device = describe_in_child(pick_type("auto"))
        settings = Settings(
            device=device.type,
            steps=options.steps,
            warmup=options.warmup,
            command=options.command,
            line=options.line,
            patience_s=options.patience,
            sha256=hash_of(words),
        )
        about = f"{settings.steps} lines that match, after {settings.warmup}"
        return Planned(
            device=device,
            recipe=CommandRecipe(),
            settings=settings,
            about=(about,),
            rounds=3,
            turns=False,
        )

    def prepare(self, plan: Plan) -> Plan:
        """Try the command as it is, so that what is wrong with it is said once. Raises UserError.

        Where lines have a loss, it runs twice: what differs by itself cannot be compared.
        """
        print("trying the command as it is", file=sys.stderr, flush=True)
        try:
            self.try_out(plan.settings, plan.baseline)
        except KeyboardInterrupt:
            raise UserError("interrupted before the first rung; nothing was recorded") from None
        return plan

    def try_out(self, settings: Settings, recipe: CommandRecipe) -> None:
        seen = read(settings, recipe, settings.needed)
        if seen[0].rate is None:
            refuse_bursts(settings, seen)
        if seen[0].loss is not None:
            error, number = worst([one.loss for one in seen], losses(settings, recipe))
            if error > (limit := LIMITS[Numerics.ROUNDING]):
                raise UserError(
                    f"--line {settings.line}: the same command twice has losses that differ by "
                    f"{error:.1e} at line {number}, more than {limit:g}; seed it, or leave out "
                    "(?P<loss>...)"
                )

    def dump(self, recipe: CommandRecipe) -> dict:
        """As JSON gives it back, which knows no tuples: a resumed run compares them."""
        return {name: list(value) for name, value in asdict(recipe).items()}

    def load(self, values: dict) -> CommandRecipe:
        return CommandRecipe(**{name: tuple(value) for name, value in values.items()})

    @contextmanager
    def place(self, recipe: CommandRecipe, settings: Settings) -> Iterator[ExitStack]:
        """Ends what `build` starts."""
        with ExitStack() as stack:
            yield stack

    def check(
        self, recipe: CommandRecipe, against: Against, settings: Settings, place: ExitStack
    ) -> Check | None:
        """The first losses, where lines have some, beside the unchanged command's."""
        if Line(settings.line).loss is None or recipe == against.baseline:
            return None
        without, own = losses(settings, against.baseline), losses(settings, recipe)
        (error, number), limit = worst(without, own), LIMITS[against.numerics]
        if error > limit:
            raise NotEquivalent(
                f"line {number} has the loss {own[number - 1]:g}, without any change "
                f"{without[number - 1]:g}: {error:.1e} is above {limit:g}"
            )
        return Check(claim=against.numerics, error=error, where=f"line {number}", limit=limit)

    def build(self, recipe: CommandRecipe, settings: Settings, place: ExitStack) -> CommandSession:
        program = place.enter_context(Program(settings, recipe.environment))
        return CommandSession(recipe, settings, program)


def split(command: str | None) -> list[str]:
    """The command's words. Raises UserError if it is not there."""
    try:
        words = shlex.split(command or "")
    except ValueError as error:
        raise UserError(f"--command {command}: cannot be split ({error})") from error
    if not words:
        raise UserError(f"--command: a command is needed, {HOW}")
    if shutil.which(words[0]) is None:
        raise UserError(f"--command {command}: there is no command {words[0]}")
    return words


def hash_of(words: list[str]) -> str:
    """Of a command, and of the files that it names."""
    files = [path for path in map(Path, words[1:]) if is_file(path)]
    parts = shlex.join(words).encode(), *(path.read_bytes() for path in files)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def read(settings: Settings, recipe: CommandRecipe, lines: int) -> list[Seen]:
    """The first lines that match."""
    with Program(settings, recipe.environment) as program:
        return [program.next() for _ in range(lines)]


def losses(settings: Settings, recipe: CommandRecipe) -> list[float]:
    """Those of the first lines, which are compared."""
    return [one.loss for one in read(settings, recipe, min(LOSSES, settings.needed))]


def worst(a: list[float], b: list[float]) -> tuple[float, int]:
    """By how much losses differ most, and at which line, from 1."""
    errors = [abs(x - y) / max(1.0, abs(x)) for x, y in zip(a, b, strict=False)]
    return max((error, number) for number, error in enumerate(errors, start=1))


def refuse_bursts(settings: Settings, seen: list[Seen]) -> None:
    """Raises UserError where lines came together that were not printed together."""
    times = [one.at for one in seen[settings.warmup - 1 :]]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    if median(gaps) < BURST * fmean(gaps):
        raise UserError(
            f"--line {settings.line}: the lines came in bursts, so their times say nothing; flush "
            "each one as it is printed, or name the line of a whole burst"
        )


COMMAND = Commands(address="common.workloads.command.workload:COMMAND", metrics=METRICS)
