"""What the pictures share: width, colours, a title that is the result, the configuration below.

A README shows a picture 830 pixels wide. These are drawn at twice that, so 9 points are 12 of the
reader's pixels.
"""

import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"  # before the import, which may refuse the user's own
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

plt.rcdefaults()  # whatever the user's files say: the same picture everywhere
WIDTH, DPI = 8.3, 200  # inches, and dots per inch: 1660 pixels, twice what is shown
HEAD, TEXT, SMALL = 12, 9, 7.5  # points
ROW = 0.33  # inches of a rung's row
# Okabe and Ito's palette, told apart by colour-blind people: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
GREY, MIDDLE, PALE = "#666666", "#999999", "#CCCCCC"  # of texts, of bars, of what is nothing
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
HATCHES = ("", "////", "....", "xxxx")  # where there are more things than colours
CLEAR = 5  # points between the end of a bar, or of its interval, and the label


def look(place: int) -> dict:
    """How the area of the thing at `place` is filled; the first 28 differ."""
    hatch = HATCHES[place // len(PALETTE) % len(HATCHES)]
    colour = PALETTE[place % len(PALETTE)]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def on(colour: str) -> str:
    """Black or white, whichever is read better on a colour: by its luminance (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part**2.2 for part in parts)  # to amounts of light
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if luminance > 0.179 else "white"  # at which both have the same contrast


def canvas(height: float, widths: Sequence[float] = (1,), rows: int = 1, **more):
    """A figure of README's width and its panels, a list; of several rows, a list of lists."""
    figure, panels = plt.subplots(
        rows,
        len(widths),
        figsize=(WIDTH, height),
        dpi=DPI,  # from the beginning: texts are measured as they are drawn
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
        **more,
    )
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.02)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TEXT)
        if not axes.get_subplotspec().is_first_col():
            axes.tick_params(axis="y", length=0)
    return figure, panels[0] if rows == 1 else panels


def head(axes, text: str, characters: int, above: float = 6) -> None:
    """What a panel shows, over its left end; `above`: points that something else needs there."""
    lines = "\n".join(textwrap.fill(line, characters) for line in text.splitlines())
    axes.set_title(lines, loc="left", fontsize=TEXT, pad=above)


def label(axes, x: float, y: float, text: str, **more) -> Annotation:
    """A text to the right of what ends at `x`, clear of it."""
    beside = {"xytext": (CLEAR, 0), "textcoords": "offset points", "va": "center"}
    beside["annotation_clip"] = False  # one outside of the axis' ends would have no size
    found = axes.annotate(text, (x, y), **beside, **{"fontsize": TEXT, **more})
    found.set_in_layout(False)  # hold_labels makes room for it inside of the panel
    return found


def hold_labels(axes, reach: float = 0.0) -> None:
    """End the x axis where its last label ends, or at `reach`. The figure is laid out already."""
    axes.set_xlim(0, reach or 1)
    width = axes.get_window_extent().width
    ends = [reach]
    for text in axes.texts:
        if isinstance(text, Annotation) and text.get_text():
            room = width - text.get_window_extent().width - 2 * CLEAR * axes.figure.dpi / 72
            ends.append(text.xy[0] * width / max(room, width / 4))
    axes.set_xlim(0, max(ends) or 1)
    if not max(ends):
        axes.set_xticks([])


def shorten(text: Text, width: float) -> None:
    """Break a text into two lines at most of `width` pixels; leave out words that do not fit."""
    whole = text.get_text()
    for characters in range(len(whole), 8, -1):
        text.set_text("\n".join(textwrap.wrap(whole, characters, max_lines=2, placeholder=" …")))
        if text.get_window_extent().width <= width:
            return


def amounts(axes, most: int = 5, share: bool = False) -> None:
    """Mark the x axis with a few round numbers, written out; `share`: as per cent."""
    axes.locator_params(axis="x", nbins=most)
    form = "{:.3g}%" if share else "{:,.10g}"
    times = 100 if share else 1
    axes.xaxis.set_major_formatter(lambda value, _: form.format(times * value))


def frame_texts(figure: Figure, title: str, below: Sequence[str]) -> None:
    """Write the result above the panels, and how it was measured in small grey lines below."""
    left = {"x": 0.008, "ha": "left"}
    if title:
        figure.suptitle(balanced(title, 80), fontsize=HEAD, weight="bold", **left)
    lines = "\n".join(textwrap.fill(text, 150) for text in below if text)
    figure.supxlabel(lines, fontsize=SMALL, color=GREY, linespacing=1.4, **left)
    figure.draw_without_rendering()  # lays the panels out: what follows may measure them


def balanced(text: str, characters: int) -> str:
    """The text in as few lines as it needs, all about as long; no ratio parted from its rung."""
    text = re.sub(r" (x\d)", "\N{NO-BREAK SPACE}\\1", text)
    lines, narrow = len(textwrap.wrap(text, characters)), max(map(len, text.split()), default=1)
    while len(textwrap.wrap(text, narrow)) > lines:
        narrow += 1
    return textwrap.fill(text, narrow)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
