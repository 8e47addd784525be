"""Follow one training's memory, by phase, and name what grew: python -m ladders.memory.track"""

import sys

from common.engine.errors import exit_on_user_error
from common.memory.track import main

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
