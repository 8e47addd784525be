"""What generating text costs: the prompt's time and each token's, apart, and bytes."""

from dataclasses import replace
from statistics import median

from common.engine.metric import BRIEF, CSV, EXACT, HIGHER, LOWER, Metric
from common.workloads.train import metrics
from common.workloads.train.metrics import measured

MIB = 2**20


def ms_per_token(record: dict) -> float:
    """Of one request: requests that are decoded side by side take the same time.

    So a stream, whose `passes` are told, gives each request in a row a token in that time.
    """
    one = record["measurement"]
    return 1e3 * median(one["step_s"]) / one.get("passes", record["settings"]["new_tokens"])


def ttft_ms(record: dict) -> float:
    return 1e3 * record["measurement"]["ttft_s"]


def of_bandwidth(record: dict) -> float | None:
    """Bytes that must be read for a token over what the device reads in its time, at best.

    None where that is not known, or was beaten: what is read then came out of a cache.
    """
    ceiling = record["ceilings"].get("read")
    if not ceiling:
        return None
    share = record["measurement"]["read_bytes"] / (ms_per_token(record) / 1e3) / ceiling
    return share if share <= 1 else None


def compile_s(record: dict) -> float | None:
    """The first step without what any later one takes; None: nothing is compiled."""
    one = record["measurement"]
    if not record["recipe"]["compile"]:
        return None
    return max(0.0, one["first_step_s"] - median(one["step_s"]))


def served_tok_per_s(record: dict) -> float | None:
    """New tokens per second of a stream whose prompts are read in between; None: no stream."""
    one = record["measurement"]
    return one["tokens_per_step"] / one["served_s"] if "served_s" in one else None


def waits(name: str, title: str) -> tuple[Metric, Metric]:
    """A stream's median and 95th percentile, in ms."""

    def of(share: int):
        def read(record: dict) -> float | None:
            seconds = record["measurement"].get(f"{name}_{share}_s")
            return None if seconds is None else 1e3 * seconds

        return read

    return tuple(
        Metric(
            name=f"stream_{name}_p{share}_ms",
            title=f"{title}, p{share}, ms",
            of=of(share),
            better=LOWER,
            form=",.1f",
        )
        for share in (50, 95)
    )


RATE = metrics.RATE
# of a stream, its prompts read in between
SERVED = (
    Metric(
        name="stream_tok_per_s",
        title="with prompts, tok/s",
        of=served_tok_per_s,
        better=HIGHER,
    ),
    *waits("first", "arrival to first token"),
    *waits("token", "token to token"),
    *waits("request", "arrival to last token"),
)
METRICS = (
    RATE,
    Metric(
        name="ms_per_token",
        title="each token, ms",
        of=ms_per_token,
        better=LOWER,
        form=",.2f",
        shown=BRIEF,
    ),
    Metric(
        name="ttft_ms",
        title="first token, ms",
        of=ttft_ms,
        better=LOWER,
        form=",.1f",
        short="first, ms",
        legend="first, ms: from a prompt's arrival to the token after it",
    ),
    Metric(
        name="of_bandwidth",
        title="of bandwidth",
        of=of_bandwidth,
        better=HIGHER,
        form=".0%",
        short="bandwidth",
        legend="bandwidth: bytes a token must read, over what this machine reads in that time",
    ),
    Metric(
        name="weight_bytes",
        title="weights, MiB",
        of=measured("weight_bytes"),
        over="first",
        better=LOWER,
        noise=EXACT,
        form=",.1f",
        scale=MIB,
        short="weights",
        legend="weights: MiB",
    ),
    Metric(
        name="cache_bytes",
        title="cache, MiB",
        of=measured("cache_bytes"),
        over="first",
        better=LOWER,
        noise=EXACT,
        form=",.2f",
        scale=MIB,
        short="cache",
        legend="cache: MiB of keys and values at the last token",
    ),
    Metric(
        name="compile_s",
        title="compiling, s",
        of=compile_s,
        over="first",
        better=LOWER,
        form=".1f",
        short="compile, s",
        legend="compile: the first step, without what later ones take",
    ),
    Metric(
        name="held_out_loss",
        title="held-out loss",
        of=measured("held_out_loss"),
        over="first",
        better=LOWER,
        form=".3f",
    ),
    Metric(
        name="control_loss",
        title="multi-head model's, trained as long",
        of=measured("control_loss"),
        over="first",
        better=LOWER,
        form=".3f",
    ),
    Metric(
        name="logit_error",
        title="logit error",
        of=lambda record: record["equivalence"].get("error"),
        over="first",
        form=".0e",
    ),
    Metric(
        name="row_use",
        title="rows in use",
        of=measured("row_use"),
        over="first",
        better=HIGHER,
        noise=EXACT,
        form=".0%",
    ),
    *SERVED,
    Metric(
        name="requests",
        title="requests",
        of=lambda record: record["recipe"]["requests"],
        over="first",
        shown=CSV,
    ),
    Metric(
        name="acceptance",
        title="accepted",
        of=measured("acceptance"),
        better=HIGHER,
        form=".0%",
        short="accepted",
        legend="accepted: a draft's guesses that were right, of those up to the first wrong one",
    ),
    Metric(
        name="agreement",
        title="right on the prompt",
        of=measured("agreement"),
        better=HIGHER,
        form=".0%",
    ),
    Metric(
        name="predicted_gain",
        title="predicted gain",
        of=measured("predicted_gain"),
        better=HIGHER,
        form=".2f",
    ),
    replace(metrics.RESERVED, shown="page"),
    *(m for m in metrics.OF_A_STEP if m.name in ("step_ms", "first_step_s", "utilisation")),
)


def describe(records: list[dict]) -> str:
    """Device, shape, lengths, and versions in one line."""
    prompt, new = (records[0]["settings"][name] for name in ("prompt_tokens", "new_tokens"))
    requests = records[0]["baseline"]["requests"]
    lengths = f"prompt {prompt}, {new} new tokens"
    return metrics.described(records, f"{lengths}, {requests} request{'s' * (requests > 1)}")


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    one = metrics.first_measured(records)
    weights, text = (one["weights"]["source"], one["text_source"]) if one else ("?", "?")
    return (
        f"{describe(records)}. {metrics.taken(records)}. Weights: {weights}{shared(records)}. "
        f"Prompt: {text}. {metrics.origin(records)}"
    )


def shared(records: list[dict]) -> str:
    """How weights came about whose heads share keys and values; empty where there are none."""
    told = [r["measurement"]["weights"] for r in records if r["status"] == "ok"]
    found = [one for one in told if "kv_heads" in one]
    if not found:
        return ""
    steps = found[0]["uptrain_steps"]
    trained = f"then trained for {steps} steps, as the control" if steps else "not trained further"
    asked = "" if found[0]["trained"] else " (no loss is asked)"
    return f"; where heads share keys and values: averaged, {trained}{asked}"


def ceilings(records: list[dict]) -> str:
    found = records[0]["ceilings"].get("read")
    return f"Measured ceiling: memory read at {found / 1e9:.1f} GB/s." if found else ""


def streams(records: list[dict]) -> str:
    """The rungs that served a stream, its prompts read in between; empty: there is none.

    Of each rung the median over its rounds.
    """
    rungs: dict[int, list[dict]] = {}
    for record in records:
        if record["status"] == "ok" and "served_s" in record["measurement"]:
            rungs.setdefault(record["rung"], []).append(record)
    if not rungs:
        return ""
    requests = records[0]["settings"]["stream"]
    lines = [
        f"   A stream of {requests} uneven requests, each prompt read as its request is let in; ms",
        f"{'':>2} {'rung':<21}{'':>8}{'first token':>16}{'token to token':>16}{'last token':>16}",
        f"{'':>24}{'tok/s':>8}" + 3 * f"{'p50':>8}{'p95':>8}",
    ]
    for number, of_rung in rungs.items():
        values = [median(metric.of(record) for record in of_rung) for metric in SERVED]
        figures = "".join(f"{value:>8,.{value < 1000:d}f}" for value in values)
        lines.append(f"{number:>2} {of_rung[0]['name']:<21}{figures}")
    return "\n".join(lines)
