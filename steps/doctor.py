"""What will the ladder do on this machine?: python -m steps.doctor"""

import sys

from common.cli.doctor import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
