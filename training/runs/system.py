"""Which systems runs live on: those whose files and processes behave as `storage.py` and `process.py` need.

Knows names of systems; touches no file.
"""

from __future__ import annotations

import sys

from chatglm2.errors import RunError


def require_system() -> None:
    """Check that runs can be kept here.

    Raises:
        RunError: on native Windows, whose directories cannot be synced to disk and whose processes cannot be signalled.
    """
    if sys.platform == "win32":
        raise RunError(
            "Windows runs this program in WSL: install it with `wsl --install`, open its terminal, and run the same "
            "command there (https://learn.microsoft.com/windows/wsl). Natively only the library works.",
            "在 Windows 上请通过 WSL 运行本程序：先执行 `wsl --install` 安装，再在 WSL 终端中运行同一命令"
            "（https://learn.microsoft.com/windows/wsl）。Windows 原生环境只能使用程序库。",
        )
