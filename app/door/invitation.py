"""What is printed where the page was started: the operator key, as a link and as a QR code for a phone."""

from __future__ import annotations

import io
from collections.abc import Sequence

import segno

QR_BORDER = 2


def key_link(url: str, key: str) -> str:
    """The link that signs in. The key follows a ``#``: browsers keep that to themselves, so no log gets to see it."""
    return f"{url}/#key={key}"


def invitation(urls: Sequence[str], key: str, *, draw: bool) -> str:
    """The lines to print.

    Args:
        urls: where the page is reached; the last leads there from the furthest away, and is the one that is drawn.
        key: the operator key.
        draw: whether somebody looks at a terminal, where a QR code can be scanned.
    """
    link = key_link(urls[-1], key)
    lines = [
        f"操作密钥（从其他机器训练、上传、下载、删除时需要）：{key}",
        f"Operator key (to train, upload, download or delete from another machine): {key}",
        f"  {link}",
    ]
    return "\n".join([*lines, qr_code(link)] if draw else lines)


def qr_code(text: str) -> str:
    """A QR code in half blocks, for a terminal."""
    drawn = io.StringIO()
    segno.make(text, micro=False).terminal(out=drawn, border=QR_BORDER, compact=True)
    return drawn.getvalue()
