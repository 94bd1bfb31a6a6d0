"""The process of one comparison: ``python -m training.comparison DIRECTORY LANGUAGE``."""

import sys
from pathlib import Path

from training.comparison.place import ComparisonPlace
from training.comparison.process import work

if __name__ == "__main__":
    sys.exit(work(ComparisonPlace(Path(sys.argv[1])), sys.argv[2]))
