"""What the pictures show: the result as their title, labels clear of intervals, 100 % rows."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.text import Annotation, Text

from common.report import canvas, plot, plot_attribution
from common.report.attribution import to_attribution
from common.report.ending import headline
from common.report.frame import to_frame
from common.report.scatter import name_points, scatter
from common.workloads.train import layers, plot_losses, plot_profile
from common.workloads.train.parts import GAPS, PARTS, WAIT
from common.workloads.train.profile_report import profile_markdown, to_profile
from ladders import of_records
from tests.conftest import fake_ladder, fake_record
from tests.test_profiling import with_profile
from tests.test_report import PACKING, RECORDS, REFUSED

WIDE = {0: [100.0, 130.0, 80.0], 1: [210.0, 300.0, 170.0], 2: [900.0, 1000.0, 800.0],
        3: [905.0, 1003.0, 801.0]}  # fmt: skip
REASON = "pinned memory speeds copies to a device of its own, and this one has none, " * 3


@pytest.fixture(scope="module")
def ladder() -> SimpleNamespace:
    """A ladder with wide intervals and a rung that does not apply, for a long reason."""
    records = fake_ladder(WIDE)
    records.append(fake_record(4, 1, 1.0, status="skipped", reason=REASON, recipe=None))
    workload = of_records(records).workload
    figure = plot.ladder_figure(to_frame(records, workload), records, workload)
    figure.draw_without_rendering()
    return SimpleNamespace(figure=figure, records=records, workload=workload)


def labels(axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


def words(text: str) -> str:
    return " ".join(text.split())


def written(figure) -> list[Text]:
    """Every text of the picture but its ticks'."""
    own = [*figure.texts, figure._suptitle, figure._supxlabel]
    of_panels = [text for axes in figure.axes for text in (*axes.texts, axes._left_title)]
    return [text for text in (*own, *of_panels) if text is not None and text.get_text()]


def assert_inside(figure) -> None:
    whole = figure.bbox
    for text in written(figure):
        box = text.get_window_extent()
        assert whole.x0 <= box.x0, text
        assert box.x1 <= whole.x1, text


def test_the_title_is_the_result_and_the_configuration_stands_below(ladder):
    title = headline(ladder.records, ladder.workload)
    assert title
    assert words(ladder.figure.get_suptitle()) == words(title)
    assert words(ladder.workload.describe(ladder.records)) in words(ladder.figure.get_supxlabel())
    assert ladder.figure._supxlabel.get_fontsize() < ladder.figure._suptitle.get_fontsize()


def test_a_value_is_clear_of_its_interval_and_of_everything_else(ladder):
    main = ladder.figure.axes[0]
    caps = [cap for bars in main.containers if hasattr(bars, "errorbar") and bars.errorbar
            for cap in bars.errorbar.lines[1]]  # fmt: skip
    assert len(caps) == 2 * len(WIDE)
    assert len(labels(main)) == len(WIDE)
    for label in labels(main):
        box = label.get_window_extent()
        assert not any(box.overlaps(cap.get_window_extent()) for cap in caps)
        assert not any(box.overlaps(bar.get_window_extent()) for bar in main.patches)
    boxes = [text.get_window_extent() for axes in ladder.figure.axes for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_an_axis_ends_where_its_labels_do(ladder):
    for axes in (ladder.figure.axes[0], ladder.figure.axes[2]):
        ends = [label.get_window_extent().x1 for label in labels(axes)]
        panel = axes.get_window_extent()
        assert max(ends) <= panel.x1
        assert max(ends) > panel.x0 + 0.9 * panel.width
        assert axes.get_xlim()[0] == 0


def test_the_column_of_gains_says_over_what_and_that_they_are_ratios(ladder):
    column = ladder.figure.axes[1]
    assert words(column.get_title(loc="left")) == "gain over the rung below"
    assert "Gain: a ratio to the rung below; above x1 is faster" in words(
        ladder.figure.get_supxlabel()
    )
    told = [text.get_text() for text in column.texts]
    frame = to_frame(ladder.records, ladder.workload)
    assert told == [*plot_gains(frame)]


def plot_gains(frame) -> list[str]:
    rows = [row for row in frame.to_dict("records") if row["status"] == "ok"]
    return [plot.gain(row["x_prev"], row["verdict"]) for row in rows]


def test_a_reason_ends_between_words_and_before_the_next_panel(ladder):
    main = ladder.figure.axes[0]
    (reason,) = [text for text in main.texts if not isinstance(text, Annotation)]
    assert reason.get_text().startswith("does not apply: pinned memory")
    kept = words(reason.get_text()).removesuffix(" …").split()
    assert kept == f"does not apply: {REASON}".split()[: len(kept)]
    assert len(reason.get_text().splitlines()) <= 2
    assert reason.get_window_extent().x1 < ladder.figure.axes[2].get_window_extent().x0


def test_nothing_is_written_beyond_the_edges(ladder):
    assert_inside(ladder.figure)
    for records in (RECORDS, RECORDS[:2], [*RECORDS, REFUSED], [REFUSED]):
        figure = plot.ladder_figure(to_frame(records, PACKING), records, PACKING)
        figure.draw_without_rendering()
        assert_inside(figure)


def test_a_picture_is_twice_as_wide_as_a_readme_shows_it(tmp_path, ladder):
    width, _ = ladder.figure.canvas.get_width_height()
    assert width == 2 * 830


def test_more_things_than_colours_still_differ():
    looks = {(look["facecolor"], look["hatch"]) for look in map(canvas.look, range(28))}
    assert len(looks) == 28


@pytest.mark.parametrize("colour", canvas.PALETTE)
def test_a_figure_is_read_on_every_colour(colour):
    assert canvas.on("#000000") == "white"
    assert canvas.on("#FFFFFF") == "black"
    assert canvas.on(colour) == ("white" if colour == canvas.BLUE else "black")


def test_names_of_points_are_clear_of_one_another():
    """Two points are one, nine are a crowd, and one lies in the corner."""
    points = [(1, 9), (1.001, 9), *((5 + x / 9, 5 + y / 3) for x in range(3) for y in range(3))]
    points += [(10, 10)]
    figure, (axes,) = canvas.canvas(3)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    scatter(axes, points)
    figure.draw_without_rendering()
    name_points(axes, points, [f"{n}" for n in range(10, 22)])
    names = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in names] == ["10, 11", *map(str, range(12, 22))]
    boxes = [Text.get_window_extent(text) for text in names]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    dots = axes.transData.transform(points)
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    assert all(axes.bbox.contains(*corner) for box in boxes for corner in box.corners())
    lines = [text for text in axes.texts if not text.get_text()]
    assert {line.xy for line in lines} <= {*points[2:11]}
    assert lines


def test_attribution_is_titled_with_the_largest_gains_and_says_what_they_are_over():
    rates = {0: [100.0, 101.0], 1: [200.0, 201.0], 2: [260.0, 262.0]}
    records = fake_ladder(rates)
    records += [fake_record(2, turn, 300.0, applied=[2], series="alone") for turn in (1, 2)]
    workload = of_records(records).workload
    frame = to_attribution(records, workload)
    figure = plot_attribution.attribution_figure(frame, workload.describe(records))
    figure.draw_without_rendering()
    title = words(figure.get_suptitle())
    assert title.startswith("Largest gains: rung 1 x2.00 in order, rung 2 x2.99 alone")
    assert words(figure.axes[1].get_title(loc="left")) == "alone: over the baseline"
    assert "Gain: a ratio" in figure.get_supxlabel()
    assert_inside(figure)


def by_row(axes) -> dict[int, float]:
    """How long the stacked bars of each row are together."""
    found: dict[int, float] = {}
    for bar in axes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        found[row] = found.get(row, 0.0) + bar.get_width()
    return found


def with_layers(records: list[dict]) -> list[dict]:
    """Profiles that tell of layers: 2 ms each, of two blocks; of rung 2 the reason why not."""
    numbers = dict.fromkeys(layers.OF_BLOCKS, 2) | {layers.NORMS: 3}
    for record in with_profile(records):
        if profile := record["measurement"].get("profile"):
            parts = {layer: [0.002] * numbers.get(layer, 1) for layer in layers.LAYERS}
            profile["layers"] = {"window_s": 0.1, "parts": parts}
            if record["rung"] == 2:
                profile["layers"] = {"lacking": layers.ONE_GRAPH}
    return records


def test_a_profile_is_drawn_in_ms_and_beside_it_as_100_per_cent():
    records = with_profile(fake_ladder({number: [100.0, 110.0] for number in range(4)}))
    frame = to_profile(records)
    absolute, share, *_ = plot_profile.profile_figure(frame, records).axes
    assert by_row(share) == {row: pytest.approx(100) for row in range(4)}
    assert by_row(absolute) == {
        row: pytest.approx(ms) for row, ms in enumerate(frame["profiled_ms"])
    }
    assert share.get_xlim() == (0, 100)
    colours = {bar.get_facecolor() for bar in share.patches}
    assert len(colours) == len(PARTS)


# linear RGB as people without one kind of cones see it. Source: Machado, Oliveira, Fernandes 2009,
# "A Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1.0
SEEN = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998]],
    "no medium": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                  [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                 [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def lab(colour: str, seen) -> np.ndarray:
    """CIELAB of an sRGB colour, in which 2.3 is a difference that is just noticed."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen @ linear, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("parts", [PARTS, layers.LAYERS], ids=["kinds", "layers"])
def test_the_colours_of_a_profile_stay_apart_for_everybody(parts, seen):
    colours = {part: lab(plot_profile.COLOURS[part], np.array(SEEN[seen])) for part in parts}
    for a, b in itertools.combinations(parts, 2):
        if {a, b} != {WAIT, GAPS}:  # these two have a pattern
            assert np.linalg.norm(colours[a] - colours[b]) > 15, (a, b)
    assert plot_profile.fill(WAIT)["hatch"]


def test_layers_are_drawn_below_and_a_compiled_rung_says_why_not():
    records = with_layers(fake_ladder({number: [100.0, 110.0] for number in range(3)}))
    figure = plot_profile.profile_figure(to_profile(records), records)
    figure.draw_without_rendering()
    kinds, _, _, _, absolute, share, *_ = figure.axes
    assert "by kind of work" in kinds.get_title(loc="left")
    assert "by layer" in absolute.get_title(loc="left")
    assert by_row(share) == {0: pytest.approx(100), 1: pytest.approx(100)}
    texts = [text.get_text() for text in absolute.texts]
    assert " not by layer: one compiled graph" in texts
    assert len({bar.get_facecolor() for bar in share.patches}) == len(layers.LAYERS)
    assert_inside(figure)


@pytest.mark.parametrize("rungs", [1, 3, 14])
def test_a_legend_covers_nothing(rungs):
    records = with_layers(fake_ladder({number: [100.0, 110.0] for number in range(rungs)}))
    figure = plot_profile.profile_figure(to_profile(records), records)
    figure.draw_without_rendering()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == 2
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(text.get_window_extent()) for text in written(figure))
        assert not any(box.overlaps(one.get_window_extent()) for one in figure.axes if one.axison)


def test_the_page_tells_of_layers_and_of_each_block():
    records = with_layers(fake_ladder({number: [100.0, 110.0] for number in range(3)}))
    page = profile_markdown(to_profile(records), records)
    assert "## By layer" in page
    assert "| 0 | baseline | norms and shortcuts | 62.5 | 62.5 | 62.5 |" in page
    assert "| 0 | baseline | attention | 62.5 | 62.5 |  |" in page
    assert "| 2 | rung 2 | attention |" not in page
    old = with_profile(fake_ladder({0: [100.0, 110.0]}))
    assert "By layer" not in profile_markdown(to_profile(old), old)


def test_only_losses_of_the_same_tokens_are_subtracted():
    records = fake_ladder({number: [100.0] for number in range(3)})
    records[1]["measurement"]["losses"] = [6.0, 5.75, 5.0, 4.5]  # fewer steps, one other loss
    records[2]["measurement"]["tokens_per_step"] = 64
    figure = plot_losses.losses_figure(records)
    figure.draw_without_rendering()
    above, _, below, *_ = figure.axes
    assert len(above.lines) == 3
    drawn = [list(line.get_ydata()) for line in below.lines if len(line.get_xdata()) > 2]
    assert drawn == [[0.0, 0.25, 0.0, 0.0]]
    told = words(figure.get_supxlabel())
    assert "Rung 2 takes 64 tokens a step, not 32: no difference is drawn" in told
    title = "At the same batch every rung's training loss stays within 0.25 nats of the baseline's"
    assert words(figure.get_suptitle()) == title
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert "other batch" in texts
    assert_inside(figure)


@pytest.mark.parametrize("rungs", [0, 1, 16])
def test_losses_of_any_number_of_rungs_are_drawn(tmp_path, rungs):
    records = fake_ladder({number: [100.0] for number in range(rungs)})
    records = records or [fake_record(0, 1, 1.0, status="failed", reason="made up")]
    plot_losses.plot_losses(records, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 5000
    places = [tuple(plot_losses.line(place).values()) for place in range(16)]
    assert len({*places}) == 16
