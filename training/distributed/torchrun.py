"""torchrun for ``launch.sh``: the same flags, but what a process has said already is not followed by a traceback.

Knows torch's launcher; trains nothing.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main() -> int:
    """Run torchrun; returns the exit code of the process that failed first, or 0."""
    logging.disable(logging.ERROR)
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        # A signal's number is negative; shells say it so.
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as signal:  # the processes have stopped, and said so
        return 128 + int(signal.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
