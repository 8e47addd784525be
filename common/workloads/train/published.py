"""The published A100 ladder, for comparison: results/published_a100.csv says where it is from."""

from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).resolve().parent.parent.parent.parent / "results" / "published_a100.csv"


def published() -> pd.DataFrame:
    """Its figures, by rung."""
    return pd.read_csv(PUBLISHED, comment="#").set_index("rung")


def published_gains() -> dict[str, dict[int, str]]:
    """Its gain of each rung over the one below it, under the title of its column."""
    rates = published()["tok_per_s"]
    gains = {n: f"x{rates[n] / rates[n - 1]:.2f}" for n in rates.index if n - 1 in rates.index}
    return {"A100, published": gains}
