"""What hypothesis invents for tests of whatever may lie in a file, stand on a command line or come in a request.

``INVENTED=100000 pytest …`` tries as many inputs a property, instead of the few that every run of the tests tries; the
few are the same ones every time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from chatglm2.errors import ChatGLMError

tried = settings(
    max_examples=int(os.environ.get("INVENTED", "60")),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# A request costs a hundred times what a file does.
requested = settings(tried, max_examples=max(10, tried.max_examples // 5))
# Half a surrogate pair is text to JSON and to Python, but cannot be sent or written.
TEXTS = st.text(max_size=20) | st.sampled_from(["\ud800", "../..", "\x00", "<b>", "=1", "\u202e", "³", "9" * 5000])
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 10**40, 1e308, float("nan"), float("-inf")])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
GARBAGE = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


def in_a_sentence(act: Callable[[], Any]) -> Any:
    """What ``act`` gives, or None if it refuses in both languages."""
    try:
        return act()
    except ChatGLMError as error:
        assert error.en.strip() and error.zh.strip()
        f"{error.en}{error.zh}".encode()
        return None


def placed(content: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """``content`` with another value at ``path``."""
    changed: dict[str, Any] = json.loads(json.dumps(content))
    *above, last = path
    inner: Any = changed
    for name in above:
        inner = inner[name]
    inner[last] = value
    return changed


def places_in(content: Any) -> list[tuple[str | int, ...]]:
    """The path of every value in ``content``, of lists the first one's."""
    if isinstance(content, dict):
        items: list[tuple[str | int, Any]] = list(content.items())
    else:
        items = list(enumerate(content))[:1] if isinstance(content, list) else []
    return [(name, *path) for name, value in items for path in [(), *places_in(value)]]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` with some of its bytes replaced, and perhaps cut or repeated."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # Heads and tails hold what files say about themselves.
        at = draw(st.integers(0, len(content) - 1) | st.integers(0, 80) | st.integers(len(content) - 80, len(content)))
        put = draw(st.binary(max_size=4) | st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"9" * 8]))
        changed[at : at + draw(st.sampled_from([0, len(put), len(put), 7]))] = put
    end = draw(st.none() | st.integers(0, len(changed)))
    return bytes(changed[:end])
