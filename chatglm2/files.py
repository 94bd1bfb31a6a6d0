"""Reading files that others may have put there, such as a pipe where a file should be.

Knows what a file is; does not know what is in one.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never waits for somebody to write into a pipe.

    Raises:
        OSError: there is none, it may not be read, or it is no regular file.
    """
    # On a pipe without a writer, open() would wait for one.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, largest_bytes: int) -> bytes:
    """A file's content.

    Raises:
        OSError: as `open_regular`, or it is larger than ``largest_bytes``.
    """
    with open_regular(path) as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise OSError(errno.EFBIG, f"larger than {largest_bytes:,} bytes", str(path))
    return content
