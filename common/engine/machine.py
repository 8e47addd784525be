"""What a number was measured on. What cannot be read is None, never 0."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from common.engine.device import GIB, DeviceFacts, allowed_cpus, cpu_name

PROJECT = Path(__file__).resolve().parent.parent.parent


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


def command_line() -> str:
    """What was typed, as near as Python knows, for a shell to take again."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = ["-m", module.name] if module else [sys.argv[0]]
    return shlex.join(["python", *name, *sys.argv[1:]])


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
