"""Pictures within a page: matplotlib's as SVG that follows the page's colours, and step times."""

import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

from markupsafe import Markup

from common.engine.errors import in_short
from common.engine.workload import Writer

MARKS = 240  # strokes of one rung's step times, so that a long run's page stays small
UNITS = {"s": 1.0, "ms": 1e-3}  # of a step's time; below them, µs
WIDE, HIGH = 600, 64  # of a plot of step times, in its own units
SETTINGS = {
    "savefig.facecolor": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "ladder",  # the same identifiers every time
    "svg.fonttype": "path",  # it looks the same on every machine
    "text.parse_math": False,  # names may hold a dollar sign
}
COLOURS = {  # of the pictures, as the page's variables, which differ by day and by night
    "#000000": "currentColor",
    "#0072b2": "var(--blue)",
    "#e69f00": "var(--orange)",
    "#009e73": "var(--green)",
    "#d55e00": "var(--red)",
    "#cc79a7": "var(--purple)",
    "#56b4e9": "var(--sky)",
    "#f0e442": "var(--yellow)",
    "#666666": "var(--soft)",
    "#999999": "var(--middle)",
    "#cccccc": "var(--line)",
}
NOT_DRAWN = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
NAMESPACE = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')
OUTLINE = re.compile(r'(?<= d=")[^"]*')
DIGITS = re.compile(r"-?\d+\.\d{3,}")
SIZE = re.compile(r'(<svg[^>]*?)\s+(?:width|height)="[^"]*"')


def drawn(write: Writer, name: str) -> Markup:
    """What a writer of pictures draws, as SVG to stand within HTML; `name` is its own in the page.

    Nothing in it is an address, and its black follows the colour of the text.
    """
    from common.report.canvas import plt  # matplotlib takes a second to import

    with tempfile.TemporaryDirectory() as folder, plt.rc_context(SETTINGS):
        path = Path(folder) / "picture.svg"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a letter that the font lacks is drawn as a box
            write(path)
        return inline(path.read_text("utf-8"), name)


def inline(svg: str, name: str) -> Markup:
    """An SVG file's picture as part of a page."""
    svg = NAMESPACE.sub("", NOT_DRAWN.sub("", svg[svg.index("<svg") :]))
    svg = SIZE.sub(r"\1", SIZE.sub(r"\1", svg))
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = OUTLINE.sub(lambda found: shortened(found[0]), svg)
    for colour, own in COLOURS.items():
        svg = re.sub(colour, own, svg, flags=re.IGNORECASE)
    return Markup(svg.replace("<svg", '<svg class="drawn" role="img"', 1).strip())


def shortened(outline: str) -> str:
    """An SVG path with two digits behind the point, and no line of its own for each corner."""
    rounded = DIGITS.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), outline)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", rounded)


def step_plot(rounds: list[list[float]]) -> Markup:
    """Every timed step as a dot, in the order taken, each round in its own shade; their median."""
    seconds = [s for steps in rounds for s in steps]
    least, most, each = min(seconds), max(seconds), strokes_of(len(seconds))
    span = (most - least) or 1.0

    def y(value: float) -> str:
        return f"{4 + (HIGH - 8) * (most - value) / span:.4g}"

    count, place, paths = sum(-(-len(steps) // each) for steps in rounds), 0, []
    for number, steps in enumerate(rounds):
        marks = []
        for start in range(0, len(steps), each):
            part = steps[start : start + each]
            x = f"{4 + (WIDE - 8) * (place + 0.5) / count:.4g}"
            marks.append(f"M{x} {y(max(part))}V{y(min(part))}")
            place += 1
        paths.append(f'<path class="round{number % 3}" d="{"".join(marks)}"/>')
    middle = y(median(seconds))
    line = f'<path class="middle" d="M0 {middle}H{WIDE}"/>'
    box = f'viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none"'
    return Markup(f'<svg class="steps" {box} aria-hidden="true">{line}{"".join(paths)}</svg>')


def strokes_of(count: int) -> int:
    """How many steps one stroke of a plot stands for."""
    return -(-count // MARKS)


def duration(seconds: float) -> str:
    """A step's time with four digits and its unit."""
    unit, size = next((one for one in UNITS.items() if seconds >= one[1]), ("µs", 1e-6))
    value = seconds / size
    places = 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{value:,.{places}f} {unit}"


def or_why(draw: Callable[[], Markup], said: str) -> Markup:
    """A picture, or the sentence that it could not be drawn: a page does without."""
    try:
        return draw()
    except Exception as error:  # whatever a library makes of what the records hold
        return Markup("<p>{}</p>").format(said.format(reason=in_short(error)))
