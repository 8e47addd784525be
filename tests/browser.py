"""A headless Chromium, driven over its DevTools pipe: no package beside the standard library.

Source: chromedevtools.github.io/devtools-protocol; messages are JSON, each ended by a NUL, read by
the browser from its file 3 and written to its file 4.
"""

import fcntl
import json
import os
import selectors
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # of a container's root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)
BECOME = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""  # the browser, with its two files at the numbers it expects
PATIENCE_S = 120.0  # for one answer


def program() -> str | None:
    """The browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one page."""

    def __init__(self, path: str, profile: Path) -> None:
        here, there = os.pipe(), os.pipe()
        # high numbers, so that 3 and 4 are not among them
        reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (here[0], there[1]))
        command = (path, *OPTIONS, f"--user-data-dir={profile}", "about:blank")
        self.process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(reads), str(writes), *command],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (here[0], there[1], reads, writes):
            os.close(end)
        self.to, self.back = here[1], there[0]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.back, selectors.EVENT_READ)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for part in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{part}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.wait()
        self.selector.close()
        os.close(self.to)
        os.close(self.back)

    def ask(self, method: str, **parameters) -> dict:
        """The answer to a command; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE_S
        while True:
            found = self.read(until)
            if found.get("id") == self.number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            self.events.append(found)

    def read(self, until: float) -> dict:
        while b"\0" not in self.rest:
            if not self.selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError("the browser does not answer")
            if not (part := os.read(self.back, 1 << 16)):
                raise RuntimeError("the browser ended")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, width: int, media: str = "", scheme: str = "light") -> None:
        """Load a file into a window of so many pixels; a narrow one is a phone's."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.events = []
        self.ask("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + PATIENCE_S
        while not self.seen("Page.loadEventFired"):
            self.events.append(self.read(until))

    def seen(self, method: str) -> list[dict]:
        """The parameters of all events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def value(self, expression: str):
        """What JavaScript makes of an expression in the page."""
        asked = {"expression": expression, "returnByValue": True}
        found = self.ask("Runtime.evaluate", **asked)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description"))
        return found["result"].get("value")

    def picture(self, path: Path, whole: bool = True) -> None:
        """A screenshot of the page to a PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(b64decode(found["data"]))
