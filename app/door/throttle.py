"""How often one address may try a secret."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from chatglm2.errors import ChatGLMError

REMEMBERED_ADDRESSES = 4096


class TooManyAttempts(ChatGLMError):  # noqa: N818 - says what happened
    """Somebody guesses; ``retry_seconds`` says when the next try is heard."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(
            f"Too many attempts from your address. Wait {retry_seconds} seconds, then try again.",
            f"您的地址尝试次数过多，请等待 {retry_seconds} 秒后再试。",
        )
        self.retry_seconds = retry_seconds


class Throttle:
    """Hears ``limit`` failed attempts in ``window_seconds`` from one address, and no more."""

    def __init__(
        self, limit: int = 5, window_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._window, self._clock = limit, window_seconds, clock
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def attempt(self, address: str) -> None:
        """Counts an attempt before it is judged, so that many at once are no way around the limit.

        Raises:
            TooManyAttempts: there were too many lately.
        """
        now, group = self._clock(), network_of(address)
        with self._lock:
            attempts = self._attempts.setdefault(group, deque())
            self._attempts.move_to_end(group)
            while attempts and now - attempts[0] >= self._window:
                attempts.popleft()
            if len(attempts) >= self._limit:
                raise TooManyAttempts(math.ceil(self._window - (now - attempts[0])))
            attempts.append(now)
            while len(self._attempts) > REMEMBERED_ADDRESSES:
                self._attempts.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Forgets an address's attempts: the last one was right."""
        with self._lock:
            self._attempts.pop(network_of(address), None)


def network_of(address: str) -> str:
    """What counts as one visitor: an IPv4 address, or the 64 bits of an IPv6 address that a provider gives out."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
