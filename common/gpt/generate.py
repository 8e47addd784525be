"""Text after a prompt: python -m common.gpt.generate --prompt TEXT"""

import sys

from common.cli.generate import main
from common.engine.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main())
