"""What a ladder's rungs are turned on for: by it a ladder joins the page of all ladders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common.engine.device import DeviceFacts


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """How a page recommends the rungs of a ladder. Texts are by language: "en", "ja"."""

    name: Mapping[str, str]  # what the rungs are for: "Training"
    about: Mapping[str, str]  # a sentence: what was compared, and by what figure
    # a metric beside the headline: it decides where headlines are equal, and rungs that are better
    # by it than the recommended ones are named with them
    second: str = ""
    # of a row that gains: why it is not recommended all the same; empty where nothing is against it
    barred: Callable[[dict], Mapping[str, str]] = lambda row: {}
    left_out: Callable[[DeviceFacts], str] = lambda device: ""  # why it says nothing on a device
