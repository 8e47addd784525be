"""The published A100 ladder, for comparison: results/published_a100.csv says where it is from."""

from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published_a100.csv"


def published() -> pd.DataFrame:
    """Its figures, by rung."""
    return pd.read_csv(PUBLISHED, comment="#").set_index("rung")


def published_gains(records: list[dict]) -> dict[str, dict[int, str]]:
    """Its gain of each rung over the one below it, under the title of its column.

    The last one is that of several GPUs, and belongs to the bar of several processes.
    """
    rows = published()
    rates, several = rows["tok_per_s"], rows.index[rows["gpus"] > 1]
    gains = {n: f"x{rates[n] / rates[n - 1]:.2f}" for n in rates.index if n - 1 in rates.index}
    bars = {r["rung"] for r in records if (r.get("processes") or 1) > 1}
    return {
        "A100, published": {n: gain for n, gain in gains.items() if n not in several}
        | {bar: gains[n] for bar, n in zip(sorted(bars), several, strict=False)}
    }
