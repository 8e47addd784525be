"""Two runs beside each other: python -m steps.compare"""

import sys

from common.cli.compare import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
