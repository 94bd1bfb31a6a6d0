"""The page on a model that takes its time, as large ones do: a test has time to do something in mid-answer.

Run as ``python -m app`` is, with the same options.
"""

from __future__ import annotations

import time
from typing import Any

from app.__main__ import main
from app.ending import leave
from chatglm2.serving.engine import Engine

SECONDS_A_STEP = 0.4


def slow_down() -> None:
    """Has every step of the engine take longer; what it computes stays the same."""
    decode = Engine._decode

    def decode_slowly(engine: Engine, rows: Any) -> Any:
        time.sleep(SECONDS_A_STEP)
        return decode(engine, rows)

    Engine._decode = decode_slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down()
    leave(main())
