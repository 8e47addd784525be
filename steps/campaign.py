"""What an hour of a rented GPU should measure first: python -m steps.campaign"""

import sys

from common.cli.campaign import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
