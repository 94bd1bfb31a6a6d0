"""The door of the command line: ``python -m training.main``, as ``./launch.sh train`` and torchrun call it.

What it does is `training.cli`'s matter.
"""

import sys

from training.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
