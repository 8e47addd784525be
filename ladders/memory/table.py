"""The memory of GPT-2s without a device: python -m ladders.memory.table --fits 8GiB"""

import sys

from common.engine.errors import exit_on_user_error
from common.memory.table import main

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
