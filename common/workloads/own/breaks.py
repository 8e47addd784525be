"""Where torch.compile breaks a graph: the lines, as dynamo logs them."""

import logging
import re
import textwrap
from pathlib import Path

import torch

AT = re.compile(r"user code at (.+?):(\d+)|File \"(.+?)\", line (\d+)")
REASON = re.compile(r"Graph Break Reason: (.+)")
MOST = 100  # characters of a reason
LOGGERS = ("torch._dynamo.symbolic_convert", "torch._dynamo.convert_frame")


class Breaks(logging.Handler):
    """Collects them from now on: "my_model.py:14: Call to print"; each line once."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: dict[str, None] = {}
        for name in LOGGERS:
            logger = torch._logging.getArtifactLogger(name, "graph_breaks")
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if where := AT.search(text):
            reason = REASON.search(text)
            path, line = where[1] or where[3], where[2] or where[4]
            said = reason[1] if reason else "this frame is not compiled"
            said = textwrap.shorten(said, MOST, placeholder=" …")
            self.found[f"{Path(path).name}:{line}: {said}"] = None
