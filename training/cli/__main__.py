"""``python -m training.cli``: the same door as ``python -m training.main``."""

import sys

from training.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
