"""A run as one page: python -m steps.report RUN"""

import sys

from common.cli.report import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
