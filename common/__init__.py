"""What every ladder shares: model, data, clock, runner, records, plot. Never imports steps."""

import importlib.util
import sys
from importlib.metadata import version

from common.engine.errors import UserError, exit_on_user_error

OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 11)
PACKAGES = ("torch", "numpy", "tiktoken", "pandas", "matplotlib", "jinja2", "rich", "psutil")

with exit_on_user_error():
    if sys.version_info < OLDEST_PYTHON:
        raise UserError(f"Python {sys.version.split()[0]} is too old; 3.11 or newer is needed")
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"not installed: {', '.join(missing)}; pip install -r requirements.txt (without a "
            "network: bring the wheels)"
        )
    torch = version("torch")  # its number, without the seconds that importing it takes
    if tuple(int(part) for part in torch.split(".")[:2]) < OLDEST_TORCH:
        raise UserError(
            f"torch {torch} is too old; 2.11 or newer is needed: pip install -r requirements.txt"
        )
