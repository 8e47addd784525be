"""Is anything slower than it was?: python -m steps.check"""

import sys

from common.cli.check import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
