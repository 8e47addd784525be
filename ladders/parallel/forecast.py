"""What more GPUs would bring: python -m ladders.parallel.forecast --gpus 4,8,64 --link nvlink"""

import sys

from common.engine.errors import exit_on_user_error
from common.forecast.command import main

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
