"""The text, its tokens, and the vocabulary: python -m common.data"""

from common.engine.errors import exit_on_user_error
from common.gpt.text import main

if __name__ == "__main__":
    with exit_on_user_error():
        main()
