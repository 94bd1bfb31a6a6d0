"""Opening files that others may have put there, such as a pipe where a file should be.

Knows what a file is; does not know what is in one.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, BufferedWriter
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never waits for somebody to write into a pipe.

    Raises:
        OSError: there is none, it may not be read, or it is no regular file.
    """
    return open(path, "rb", opener=_open_regular)


def append_regular(path: Path) -> BufferedWriter:
    """Open a file for writing at its end, made if it is not there; never waits for somebody to read from a pipe.

    Raises:
        OSError: it may not be written, or it is no regular file.
    """
    return open(path, "ab", opener=_open_regular)


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


def _open_regular(path: str, flags: int) -> int:
    # On a pipe whose other end nobody holds, open() would wait for that.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor
