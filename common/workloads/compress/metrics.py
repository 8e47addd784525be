"""How small a compressed model is, at what loss, and how fast its kernels are."""

from dataclasses import replace

from common.engine.metric import BRIEF, CSV, EXACT, HIGHER, LOWER, Metric
from common.workloads.train import metrics
from common.workloads.train.metrics import measured, tok_per_s

MIB = 2**20


def of_quality(key: str):
    """A reader of one figure of quality."""
    return lambda record: record["measurement"]["quality"][key]


def of_told(key: str):
    """A reader of what compressing told; None where it did not."""
    return lambda record: record["measurement"]["told"].get(key)


def prefill_rate(record: dict) -> float:
    return record["settings"]["prompt_tokens"] / record["measurement"]["prefill_s"]


def control_loss(record: dict) -> float | None:
    """Of the best control; None where the recipe has none."""
    controls = record["measurement"]["controls"].values()
    return min((one["loss"] for one in controls), default=None)


def exact(name: str, title: str, of, form: str, **more) -> Metric:
    """A figure that repeats to the last digit, less being better."""
    return Metric(
        name=name, title=title, of=of, over="first", better=LOWER, noise=EXACT, form=form, **more
    )


FILE = Metric(
    name="file_bytes",
    title="file, MiB",
    of=measured("file_bytes"),
    better=LOWER,
    noise=EXACT,
    words=("smaller", "larger"),
    form=",.2f",
    scale=MIB,
)
METRICS = (
    FILE,
    exact("delta_loss", "loss change", of_quality("delta"), "+.4f", shown=BRIEF),
    exact(
        "held_out_loss",
        "held-out loss",
        of_quality("loss"),
        ".3f",
        short="loss",
        legend="loss: held out, nats; loss change: over float32's",
    ),
    Metric(
        name="decode_tok_per_s",
        title="decode, tok/s",
        of=tok_per_s,
        better=HIGHER,
        short="decode",
        legend="decode, prefill: tok/s of one request, after and of its prompt",
    ),
    Metric(
        name="prefill_tok_per_s",
        title="prefill, tok/s",
        of=prefill_rate,
        better=HIGHER,
        short="prefill",
    ),
    exact(
        "bits_per_weight",
        "bits a weight",
        measured("bits_per_weight"),
        ".2f",
        short="bits",
        legend="bits: of a weight in the file, with its part of scales and masks",
    ),
    exact(
        "resident_bytes",
        "resident, MiB",
        measured("resident_bytes"),
        ",.2f",
        scale=MIB,
        short="resident",
        legend="resident: MiB of weights in memory",
    ),
    exact("kl", "KL, nats", of_quality("kl"), ".4f"),
    Metric(
        name="same_top",
        title="same top token",
        of=of_quality("same_top"),
        over="first",
        better=HIGHER,
        form=".1%",
        short="same",
        legend="same: share of tokens after which float32 finds the same one likeliest",
    ),
    exact("bits_per_byte", "bits per byte", of_quality("bits_per_byte"), ".3f"),
    exact("control_loss", "control's loss", control_loss, ".3f"),
    Metric(
        name="compress_s",
        title="compressing, s",
        of=of_told("compress_s"),
        over="first",
        better=LOWER,
        form=",.1f",
        short="made, s",
        legend="made: seconds of compressing, training included",
    ),
    exact("delta_low", "over float32's, low", of_quality("delta_low"), "+.4f", shown=CSV),
    exact("delta_high", "over float32's, high", of_quality("delta_high"), "+.4f", shown=CSV),
    exact("predicted_delta", "predicted change", of_told("predicted_delta"), "+.4f"),
    exact("mixed_delta", "measured change there", of_told("mixed_delta"), "+.4f"),
    Metric(
        name="logit_error",
        title="logit error",
        of=lambda record: record["equivalence"].get("error"),
        over="first",
        form=".0e",
    ),
    replace(metrics.RESERVED, shown=CSV),
    *(m for m in metrics.OF_A_STEP if m.name in ("step_ms", "first_step_s", "utilisation")),
)


def describe(records: list[dict]) -> str:
    """Device, shape, lengths, and versions in one line."""
    prompt, new = (records[0]["settings"][name] for name in ("prompt_tokens", "new_tokens"))
    return metrics.described(records, f"prompt {prompt}, {new} new tokens")


def notes(records: list[dict]) -> str:
    """How it was measured, in one line."""
    one = metrics.first_measured(records)
    weights, text = (one["weights"]["source"], one["text_source"]) if one else ("?", "?")
    windows = one["quality"]["windows"] if one else "?"
    return (
        f"{describe(records)}. {metrics.taken(records)}. Weights: {weights}. Losses: over "
        f"{windows} held-out windows of {text}. {metrics.origin(records)}"
    )


def controls_text(records: list[dict]) -> str:
    """What each rung's result is to be held against, a line for each control."""
    lines = []
    for record in records:
        if record["status"] == "ok" and record["round"] == 1:
            for name, one in record["measurement"]["controls"].items():
                size = f"{one['file_bytes'] / MIB:,.2f} MiB"
                lines.append(f"   {record['rung']:>2} {name:<40}{one['loss']:.3f}{size:>14}")
    return "\n".join(["   controls: held-out loss, file", *lines]) if lines else ""


def details(rounds: list[dict]) -> dict[str, list[tuple[str, str, str]]]:
    """A rung's controls, and how well its parts were predicted, for its page."""
    one = rounds[0]["measurement"]
    rows = [
        (name, f"{other['loss']:.3f}", f"{one['quality']['loss']:.3f}")
        for name, other in one["controls"].items()
    ]
    found = {"Held-out loss: the control's, and its own": rows} if rows else {}
    if (predicted := one["told"].get("predicted_delta")) is not None:
        changes = f"{predicted:+.4f}", f"{one['told']['mixed_delta']:+.4f}"
        found["Change of the loss on the calibration text"] = [("predicted, measured", *changes)]
    return found
