"""How processes of one user on one machine find each other and talk: a Unix socket each, in a folder of the user's.

Knows paths, sockets, descriptors and who is at the other end. Does not know what is said.

A folder stands for a subject, such as some weights or a device; each process that has to do with it listens there on a
socket named by its process id. A socket whose process is gone refuses, and is cleared away by whoever notices. Folders
are 0700, and both ends ask the system who the other one is: another user's process is refused, whatever it was able to
open.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

logger = logging.getLogger(__name__)

RUNTIME_VARIABLE = "CHATGLM2_RUNTIME_DIR"
ANSWER_SECONDS = 10.0
LONGEST_MESSAGE_BYTES = 16 * 2**20
MOST_DESCRIPTORS = 16
_LENGTH = struct.Struct("!I")

Message = dict[str, Any]


def can_talk() -> bool:
    """Whether this system passes descriptors between processes and tells who they are: Linux does."""
    return sys.platform == "linux" and hasattr(socket, "SO_PEERCRED")


def runtime_directory() -> Path:
    """The user's folder for sockets, made if need be and readable by nobody else.

    Raises:
        PermissionError: if what lies there belongs to somebody else, or is open to others and cannot be closed.
    """
    base = os.environ.get(RUNTIME_VARIABLE) or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    directory = Path(base) / f"chatglm2-{os.getuid()}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not directory.is_dir() or directory.is_symlink() or status.st_uid != os.getuid():
        raise PermissionError(f"{directory} is not a directory of this user's")
    if status.st_mode & 0o077:
        directory.chmod(0o700)
    return directory


def subject_directory(*names: str) -> Path:
    """The folder of a subject, made if need be."""
    directory = runtime_directory().joinpath(*names)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


@contextmanager
def alone_with(directory: Path) -> Iterator[None]:
    """Hold a subject's lock, so that of two that come at the same time one does the work; a death frees it."""
    with FileLock(directory / "lock"):
        yield


@contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket's address, which holds 107 bytes."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class Connection:
    """One end of a conversation: JSON messages, with open files beside them."""

    def __init__(self, peer: socket.socket, path: Path | None = None) -> None:
        self.path = path  # of the socket that the other end listens on, where this end called
        self._socket = peer
        self._lock = threading.Lock()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        body = json.dumps(message).encode()
        with self._lock:
            socket.send_fds(self._socket, [_LENGTH.pack(len(body))], list(descriptors))
            self._socket.sendall(body)

    def receive(self, timeout: float | None = None) -> tuple[Message, list[int]]:
        """The next message and the files that came with it.

        Raises:
            OSError: if the other end is gone, too slow, or talks nonsense.
        """
        self._socket.settimeout(timeout)
        head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, MOST_DESCRIPTORS)
        try:
            (length,) = _LENGTH.unpack(head + self._exactly(_LENGTH.size - len(head)))
            if length > LONGEST_MESSAGE_BYTES:
                raise ConnectionError(f"a message of {length} bytes")
            message = json.loads(self._exactly(length))
            if not isinstance(message, dict):
                raise ConnectionError("a message that is no object")
            return message, list(descriptors)
        except (OSError, ValueError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise error if isinstance(error, OSError) else ConnectionError(str(error)) from error

    def _exactly(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            part = self._socket.recv(min(count - len(received), 2**16))
            if not part:
                raise ConnectionError("the other process is gone")
            received += part
        return bytes(received)

    def is_closed(self) -> bool:
        """Whether the other end has gone, without waiting for it to say something."""
        try:
            readable, _, _ = select.select([self._socket], [], [], 0)
            return bool(readable) and self._socket.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a message
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """Answers a subject's callers, each in a thread of its own, until it is closed or collected.

    Args:
        directory: of the subject.
        answer: called with each connection, which it may keep open for as long as it wants; closed afterwards.
    """

    def __init__(self, directory: Path, answer: Callable[[Connection], None]) -> None:
        self.path = directory / f"{os.getpid()}-{os.urandom(3).hex()}.sock"
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short_path(self.path) as path:
            server.bind(path)
        self.path.chmod(0o600)
        server.listen(16)
        threading.Thread(target=_serve, args=(server, answer), name="chatglm2-peers", daemon=True).start()
        self._end = weakref.finalize(self, _stop_listening, server, self.path, os.getpid())

    def close(self) -> None:
        self._end()


def _serve(server: socket.socket, answer: Callable[[Connection], None]) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:  # closed
            return
        if user_of(peer) != os.getuid():
            peer.close()
            continue
        threading.Thread(target=_answer, args=(Connection(peer), answer), name="chatglm2-peer", daemon=True).start()


def _answer(connection: Connection, answer: Callable[[Connection], None]) -> None:
    with connection:
        try:
            answer(connection)
        except OSError as error:  # the caller is gone: its own matter
            logger.debug("A process that asked is gone: %s", error)


def _stop_listening(server: socket.socket, path: Path, process: int) -> None:
    if os.getpid() == process:  # a fork's copy is not the owner
        path.unlink(missing_ok=True)
        server.close()


def user_of(peer: socket.socket) -> int:
    """The user id of the process at the other end, as the system knows it."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user)


def connections(directory: Path, known: Collection[Path] = ()) -> Iterator[Connection]:
    """A connection to each process that listens there, one after another; the caller closes what it takes.

    This process's own listeners are left out, and ``known`` ones.
    """
    for path in sorted(directory.glob("*.sock")):
        if path.name.startswith(f"{os.getpid()}-") or path in known:
            continue
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(ANSWER_SECONDS)
        try:
            with _short_path(path) as short:
                peer.connect(short)
        except (ConnectionRefusedError, FileNotFoundError):
            peer.close()
            path.unlink(missing_ok=True)  # its process is gone
            continue
        except OSError:
            peer.close()
            continue
        if user_of(peer) != os.getuid():
            peer.close()
            continue
        yield Connection(peer, path)
