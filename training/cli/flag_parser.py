"""argparse as every command here uses it: a mistake is a sentence in two languages, dashes are underscores.

Knows no flag of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from chatglm2.errors import RunError


class FlagParser(argparse.ArgumentParser):
    """A parser that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise RunError(
            f"{message[:1].upper()}{message[1:]}. Run with --help for all flags.",
            f"命令行参数有误：{message}。用 --help 查看全部参数。",
        )


def with_underscores(words: Sequence[str]) -> list[str]:
    """Flags as the original spells them, however they were typed: ``--quantization-bit`` is ``--quantization_bit``."""
    spelled = []
    for word in words:
        name, equals, value = word.partition("=")
        spelled.append(
            name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word
        )
    return spelled
