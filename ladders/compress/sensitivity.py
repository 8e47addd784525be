"""Draw what each matrix costs in each format: python -m ladders.compress.sensitivity"""

import sys

from common.engine.errors import exit_on_user_error
from common.workloads.compress.show_sensitivity import main
from ladders.compress.step11_mixed_precision import FORMATS

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(FORMATS))
