"""Points with their names beside them, clear of one another."""

from collections.abc import Sequence
from math import cos, dist, hypot, radians, sin

from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from common.report.canvas import BLUE, GREY, MIDDLE, SMALL

# in points of type, as all lengths here
SIZE = 14  # of a dot, its area
NEAR = 4  # between dots that lie on one another
CLEAR = 4  # around a dot's middle: a name that is nearer would seem to be its own
FAR = 12  # from here on a line leads from the dot to its name
# where a name may stand, seen from its dot: how far, and in which direction
PLACES = [
    (far, way) for far in (5, 10, 16, 24, 34) for way in (45, 0, -45, 135, 180, -135, 90, -90)
]


def scatter(axes, points: Sequence[tuple[float, float]]) -> None:
    axes.scatter(*zip(*points, strict=True), color=BLUE, s=SIZE, zorder=2)


def name_points(axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write the names beside dots; those that lie on one another share one text.

    For a figure that is laid out already, with its axes' ends as they will be.
    """
    unit = axes.figure.dpi / 72  # pixels
    dots = axes.transData.transform(points)
    taken = [Bbox([dot - CLEAR * unit, dot + CLEAR * unit]) for dot in dots]
    groups: dict[int, list[str]] = {}  # by the place of the first
    for place, (dot, name) in enumerate(zip(dots, names, strict=True)):
        near = (other for other in groups if dist(dots[other], dot) < NEAR * unit)
        groups.setdefault(next(near, place), []).append(name)
    for place, shared in groups.items():
        style = {"textcoords": "offset points", "fontsize": SMALL, "color": GREY}
        text = axes.annotate(", ".join(shared), points[place], (0, 0), **style)
        offset = give_way(text, taken, axes.bbox)
        taken.append(text.get_window_extent())
        if hypot(*offset) > FAR:
            line = {"arrowstyle": "-", "color": MIDDLE, "linewidth": 0.6, "shrinkA": 0}
            axes.annotate("", points[place], offset, textcoords="offset points", arrowprops=line)


def give_way(text: Annotation, taken: list[Bbox], whole: Bbox) -> tuple[float, float]:
    """Move a text to the nearest free place, or where there is none, to the nearest one."""
    for far, way in (*PLACES, PLACES[0]):
        offset = far * cos(radians(way)), far * sin(radians(way))
        text.set_position(offset)
        text.set_ha("center" if way in (90, -90) else "left" if offset[0] > 0 else "right")
        text.set_va("center" if way in (0, 180) else "bottom" if offset[1] > 0 else "top")
        box = text.get_window_extent()
        inside = whole.containsx(box.x0) and whole.containsx(box.x1)
        inside = inside and whole.containsy(box.y0) and whole.containsy(box.y1)
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return offset
