"""What every ladder shares: model, data, clock, runner, records, plot. Never imports steps."""

import torch

from common.errors import UserError, exit_on_user_error

OLDEST_TORCH = (2, 11)

with exit_on_user_error():
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise UserError(
            f"torch {torch.__version__} is too old; 2.11 or newer is needed: "
            "pip install -r requirements.txt"
        )
