"""Who waits for whom in a training?: python -m steps.diagnose -- python train.py"""

import sys

from common.cli.diagnose import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
