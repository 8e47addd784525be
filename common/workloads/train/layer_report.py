"""Where the time of a step goes, layer by layer, for people: from records with such a profile."""

from collections.abc import Iterator

import pandas as pd

from common.engine.rungs import shown
from common.report.tables import markdown_table
from common.workloads.train.layers import LAYERS, NORMS, OF_BLOCKS

BY_LAYER = """\
## By layer

Milliseconds per 1000 tokens, forward and backward together, in a profile of its own, with a range
around every layer: such a step is slower still. Of kernels that run under no layer's range, the
optimizer, the loss, the network, and the data are told as above. A model that is compiled is one
graph: no layer can be told in it."""
BLOCKS = "The same of each block, and of the final norm behind the norms of the last block."


def profiled(records: list[dict]) -> Iterator[tuple[dict, list[dict]]]:
    """For every rung of the ladder that has one: the record with a profile, and all its rounds."""
    latest = {(r["rung"], r["round"]): r for r in records if r["series"] == "ladder"}
    rungs: dict[int, list[dict]] = {}
    for record in sorted(latest.values(), key=lambda r: (r["rung"], r["round"])):
        if record["status"] == "ok":
            rungs.setdefault(record["rung"], []).append(record)
    for of_rung in rungs.values():
        told = next((r for r in of_rung if r["measurement"].get("profile")), None)
        if told is not None:
            yield told, of_rung


def to_layers(records: list[dict]) -> pd.DataFrame:
    """One row per profiled rung whose record tells of layers. Milliseconds per 1000 tokens.

    A column per layer; `layers_ms`: their sum; `blocks`: {layer: [each block's, ...]}; `lacking`:
    why there are none of all these.
    """
    rows = []
    for told, _ in profiled(records):
        measured = told["measurement"]
        found, ms = measured["profile"].get("layers"), 1e6 / measured["tokens_per_step"]
        if not found:
            continue
        row = {"rung": told["rung"], "name": told["name"], "lacking": found.get("lacking", "")}
        if not row["lacking"]:
            row |= {layer: ms * sum(found["parts"].get(layer, [])) for layer in LAYERS}
            row["layers_ms"] = sum(row[layer] for layer in LAYERS)
            blocks = {layer: found["parts"].get(layer, []) for layer in OF_BLOCKS}
            row["blocks"] = {layer: [ms * s for s in each] for layer, each in blocks.items()}
        rows.append(row)
    columns = ["rung", "name", *LAYERS, "layers_ms", "blocks", "lacking"]
    return pd.DataFrame(rows).reindex(columns=columns)


def layers_markdown(frame: pd.DataFrame) -> list[str]:
    """The blocks of profile.md that tell of layers; none where no rung's record does."""
    rows = [row for row in frame.to_dict("records") if not row["lacking"]]
    if not rows:
        return []
    head = {"#": "--:", "rung": ":--"} | dict.fromkeys((*LAYERS, "profiled step"), "--:")
    sums = [[*name_cells(row), *(figure(row[k]) for k in (*LAYERS, "layers_ms"))] for row in rows]
    most = max(len(each) for row in rows for each in row["blocks"].values())
    numbers = [*map(str, range(most - 1)), "final"]
    each_head = {"#": "--:", "rung": ":--", "of block": ":--"} | dict.fromkeys(numbers, "--:")
    each = []
    for row in rows:
        for layer in OF_BLOCKS:
            values = [figure(value) for value in row["blocks"][layer]]
            values += [""] * (most - len(values)) if layer != NORMS else []
            each.append([*name_cells(row), layer, *values])
    return [BY_LAYER, markdown_table(head, sums), BLOCKS, markdown_table(each_head, each)]


def name_cells(row: dict) -> list[str]:
    return [shown(row["rung"]), row["name"]]


def figure(value: float | None) -> str:
    """Milliseconds with three digits, no unit; n/a where there is none."""
    if value is None or pd.isna(value):
        return "n/a"
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.095 else 3
    return f"{value:,.{places}f}"
