"""What a number was measured on. What cannot be read is None, never 0."""

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from common.engine.device import GIB, DeviceFacts, allowed_cpus, cpu_name

PROJECT = Path(__file__).resolve().parent.parent.parent
FOLDERS = re.compile(r"(?<![^\s='\"])/(?:[^\s/'\"]+/)+(?=[^\s/'\"])")  # of an absolute path


def cache_dir() -> Path:
    """Where text, tokens, and compiled code are kept: $LADDER_CACHE, or the user's cache folder."""
    if given := os.environ.get("LADDER_CACHE"):
        return Path(given)
    try:
        user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an account
        user = tempfile.gettempdir()
    return Path(user) / "pytorch-ladder"


def machine_facts(device: DeviceFacts) -> dict:
    """The hardware and its system."""
    return {
        "device_type": device.type,
        "device": device.name,
        "device_count": device.count,
        "device_memory_gib": round(device.memory_gib, 2),
        "capability": device.capability_text,
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "cpus_allowed": allowed_cpus(),
        "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def device_text(machine: dict) -> str:
    """A record's device. A CPU with threads, or its cores where nobody said how many are at work,
    and vector units: processors of one name differ.
    """
    if machine["device_type"] != "cpu":
        return machine["device"]
    threads = machine.get("threads")
    many = f"{threads} threads" if threads else f"{machine['cpus_allowed']} cores"
    units = [many, machine.get("instruction_set")]
    return f"{machine['device']} ({', '.join(filter(None, units))})"


def version_facts() -> dict:
    """Of Python; whoever computes with a library adds its own."""
    return {"python": platform.python_version()}


def commit_facts() -> dict:
    """The commit of this project and whether its files differ from it; results do not count."""
    commit = _git("rev-parse", "HEAD")
    files = ("--", ".", ":!results")
    changed = _git("status", "--porcelain", *files)
    difference = (_git("diff", "HEAD", *files) or "") + (changed or "")
    return {
        "commit": commit,
        "dirty": bool(changed) if changed is not None else None,
        "changes": hashlib.sha256(difference.encode()).hexdigest()[:12] if changed else "",
    }


def command_line() -> list[str]:
    """What was typed, as near as Python knows."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = ["-m", module.name] if module else [sys.argv[0]]
    return ["python", *name, *sys.argv[1:]]


def without_folders(typed: str) -> str:
    """A word or a command as a record has it: of an absolute path only what it leads to.

    Records are moved and given to others; folders are of one machine, and may name its user.
    """
    if typed.startswith("/") and os.path.lexists(typed):  # it may have spaces in it
        return Path(typed).name
    return FOLDERS.sub("", typed)


def without_home(text: str) -> str:
    """What a process said, as a record has it: paths from the project's folder, or from home."""
    short = {PROJECT: ""}
    with suppress(RuntimeError):  # neither HOME nor an account
        short[Path.home()] = "~/"
    for folder, name in short.items():
        if folder.name:  # the root is nobody's
            text = text.replace(f"{folder}/", name)
    return text


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
