"""The picture of `--lengths`: time and gain over the prompt's length."""

from pathlib import Path

from matplotlib.ticker import LogLocator

from common.report.canvas import (
    MIDDLE,
    PALE,
    PALETTE,
    SMALL,
    TEXT,
    canvas,
    frame_texts,
    head,
    save,
)
from common.workloads.generate.lengths import Curve, best, called, curves, result
from common.workloads.generate.metrics import describe

NAMED = 5  # curves that are told apart; of more, the first two and the fastest


def plot(records: list[dict], path: Path) -> None:
    """Draw it to a PNG. All axes are logarithmic."""
    found = curves(records)
    figure, panels = canvas(3.6, (1, 1))
    ms, gains = panels
    for one, look in styles(found):
        ms.plot(*zip(*one.ms.items(), strict=True), **look)
        gains.plot(*zip(*one.gains(found[0]).items(), strict=True), **look)
    head(ms, "each token, ms", 40)
    head(gains, f"times as fast as {found[0].name}", 40)
    for axes in panels:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(lengths := [*found[0].ms], [f"{tokens:,}" for tokens in lengths])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set_xlabel("tokens before the first new one", fontsize=TEXT)
    ms.legend(frameon=False, fontsize=SMALL)
    frame_texts(figure, result(found), [describe(records)])
    save(figure, path)


def styles(found: list[Curve]) -> list[tuple[Curve, dict]]:
    """How each curve looks: those that are not named are pale, below the others."""
    own = found if len(found) <= NAMED else [*found[:2], best(found)]
    looks = {}
    for place, one in enumerate(own):
        colour = PALETTE[place - 1] if place else MIDDLE
        looks[one.rung] = {"color": colour, "marker": "o", "markersize": 3, "label": called(one)}
    pale = {"color": PALE, "linewidth": 1, "zorder": 1}
    return [(one, looks.get(one.rung, pale)) for one in found]
