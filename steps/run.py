"""Climb the ladder on this machine: python -m steps.run"""

import sys

from common.cli.run import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
