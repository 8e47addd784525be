"""Each token's time over the length of the prompt before it: `--lengths`, as a table and a picture.

What a cache gains over computing everything again grows with the prompt. A token with a cache takes
longer, too, but slowly: keys and values are read once, and the weights are most of what is read.
"""

from dataclasses import dataclass
from statistics import median

from common.engine.plan import LADDER
from common.engine.rungs import shown
from common.workloads.generate.metrics import describe, ms_per_token


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A rung's milliseconds a token by the prompt's tokens: the median of its rounds."""

    rung: int
    name: str
    ms: dict[int, float]

    def gains(self, base: "Curve") -> dict[int, float]:
        """How many times as fast as another rung after the same prompts."""
        return {tokens: base.ms[tokens] / ms for tokens, ms in self.ms.items() if tokens in base.ms}


def curves(records: list[dict]) -> list[Curve]:
    """Of every rung that was measured after prompts of several lengths, in the ladder's order."""
    found: dict[int, list[dict]] = {}
    for record in records:
        told = record["measurement"].get("step_s_after") if record["status"] == "ok" else None
        if told and record["series"] == LADDER:
            found.setdefault(record["rung"], []).append(record)
    return [curve(found[rung]) for rung in sorted(found)]


def curve(rounds: list[dict]) -> Curve:
    ms: dict[int, list[float]] = {}
    for record in rounds:
        measured, own = record["measurement"], record["settings"]["prompt_tokens"]
        ms.setdefault(own, []).append(ms_per_token(record))
        for tokens, step_s in measured["step_s_after"].items():
            if int(tokens) != own:
                after = {**record, "measurement": measured | {"step_s": step_s}}
                ms.setdefault(int(tokens), []).append(ms_per_token(after))
    by_length = {tokens: median(ms[tokens]) for tokens in sorted(ms)}
    return Curve(rung=rounds[0]["rung"], name=rounds[0]["name"], ms=by_length)


def called(one: Curve) -> str:
    return f"{shown(one.rung)} {one.name}"


def result(found: list[Curve]) -> str:
    """What the curves say, in a sentence; empty where there is nothing to compare."""
    base, *others = found
    if not others or len(base.ms) < 2:
        return ""
    fastest = best(others)
    gains, least, most = fastest.gains(base), min(base.ms), max(base.ms)
    return (
        f"{fastest.name}: {times(gains[least])} times as fast as {base.name} after {least:,} "
        f"tokens, {times(gains[most])} times after {most:,}"
    )


def times(gain: float) -> str:
    return f"{gain:.1f}" if gain < 100 else f"{gain:,.0f}"


def best(found: list[Curve]) -> Curve:
    """The fastest after the longest prompt."""
    return min(found, key=lambda one: one.ms[max(one.ms)])


def to_text(records: list[dict]) -> str:
    """For a terminal, in 80 columns; empty where nothing was measured."""
    if not (found := curves(records)):
        return ""
    lengths = sorted({tokens for one in found for tokens in one.ms})
    head = f"{'each token, ms, after':<28}" + "".join(f"{tokens:>7,}" for tokens in lengths)
    rows = [
        f"{shown(one.rung):>2} {one.name:<25.25}"
        + "".join(f"{in_ms(one.ms.get(tokens)):>7}" for tokens in lengths)
        for one in found
    ]
    return "\n".join([head, *rows])


def in_ms(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.2f}" if ms < 100 else f"{ms:,.0f}"


def to_markdown(records: list[dict]) -> str:
    """Milliseconds, and how many times as fast as the lowest rung that was measured."""
    from common.report.tables import markdown_table  # pandas takes half a second to import

    found = curves(records)
    lengths = sorted({tokens for one in found for tokens in one.ms})
    head = {"#": "--:", "each token, ms, after a prompt of": ":--"}
    head |= {f"{tokens:,}": "--:" for tokens in lengths}
    rows = []
    for one in found:
        gains = {} if one is found[0] else one.gains(found[0])
        cells = (
            in_ms(one.ms.get(tokens)) + (f" (x{times(gains[tokens])})" if tokens in gains else "")
            for tokens in lengths
        )
        rows.append([shown(one.rung), one.name, *cells])
    return f"# {describe(records)}\n\n{markdown_table(head, rows)}\n"
