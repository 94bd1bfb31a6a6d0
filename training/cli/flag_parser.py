"""argparse as every command here uses it: a mistake is a sentence in two languages, dashes are as good as underscores.

Knows no flag of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from chatglm2.errors import RunError


class FlagParser(argparse.ArgumentParser):
    """A parser that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise RunError(
            f"{message[:1].upper()}{message[1:]}. Run with --help for all flags.",
            f"命令行参数有误：{message}。用 --help 查看全部参数。",
        )

    # argparse's own is overloaded by the kind of the namespace, which nobody here hands in.
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._as_declared(word) for word in words], namespace)

    def _as_declared(self, word: str) -> str:
        """A flag as it is declared, whether ``--quantization-bit`` or ``--quantization_bit`` was typed."""
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            return word
        body = name.removeprefix("--")
        spelled = (f"--{body}", f"--{body.replace('-', '_')}", f"--{body.replace('_', '-')}")
        return next((flag for flag in spelled if flag in self._option_string_actions), name) + equals + value
