"""Keep a run for others: python -m steps.publish RUN [FOLDER]"""

import sys

from common.cli.publish import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
