"""A file's bytes as text: UTF-8, UTF-16 or GBK, told apart by what is in it.

Knows encodings; does not know what the text says.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from chatglm2.errors import DataError

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Chinese is written with GB2312's characters almost always; Western bytes that are valid GB18030, too, hardly ever are.
CHINESE_SHARE = 0.6
LOOKED_AT_CHARACTERS = 20_000


@dataclass(frozen=True)
class FileText:
    """A file's text, and the encoding it was in; ``damaged`` are the numbers of lines whose bytes are no UTF-8."""

    content: str
    encoding: str = "UTF-8"
    damaged: frozenset[int] = frozenset()

    @property
    def lines(self) -> list[str]:
        """Lines with their ends, as CSV needs them."""
        return list(io.StringIO(self.content, newline=""))


def decode(file: Path, content: bytes) -> FileText:
    """The text of a file; lines of UTF-8 that are damaged are named, not refused.

    Raises:
        DataError: it is in none of the encodings that are read.
    """
    wide = _utf16_codec(content)
    if wide is not None:
        if not _can_decode(content, wide):
            raise _wrong_encoding(file, "UTF-16")
        return FileText(content.decode(wide), "UTF-16")
    try:
        return FileText(content.decode("utf-8-sig"), "UTF-8 (BOM)" if content.startswith(UTF8_MARK) else "UTF-8")
    except UnicodeDecodeError:
        lines = content.split(b"\n")
        damaged = frozenset(number for number, line in enumerate(lines, 1) if not _can_decode(line, "utf-8"))
    # Most UTF-8 text can be read as GBK, too; a file that really is GBK has hardly a line that is good UTF-8.
    foreign = sum(not line.isascii() for line in lines)
    if len(damaged) > foreign / 2 and _can_decode(content, "gb18030"):
        text = content.decode("gb18030")
        if not _is_chinese(text):
            raise _wrong_encoding(file, None)
        return FileText(text, "GBK" if _can_decode(content, "gbk") else "GB18030")
    return FileText(content.decode("utf-8-sig", errors="replace"), damaged=damaged)


def is_valid_text(text: str) -> bool:
    """Whether ``text`` holds no half of a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def not_text(file: Path, number: int) -> DataError:
    """The error for a damaged line."""
    return DataError(
        f"{file.name}, line {number}: the bytes are not UTF-8 text. Save the file as UTF-8.",
        f"{file.name} 第 {number} 行：内容不是 UTF-8 文本。请将文件另存为 UTF-8 编码。",
    )


def _utf16_codec(content: bytes) -> str | None:
    """Which UTF-16 it is: by its mark, or, as a data file begins with a letter or a bracket, by where the zeros are."""
    if content.startswith(UTF16_MARKS):
        return "utf-16"
    zeros = (content[:1] == b"\0", content[1:2] == b"\0")
    return {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros)


def _can_decode(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(text: str) -> bool:
    foreign = "".join(character for character in text if not character.isascii())[:LOOKED_AT_CHARACTERS]
    common = len(foreign.encode("gb2312", errors="ignore")) / 2
    return common >= CHINESE_SHARE * len(foreign)


def _wrong_encoding(file: Path, broken: str | None) -> DataError:
    en = f"looks like {broken}, and is not quite" if broken else "is in neither UTF-8, UTF-16 nor GBK"
    zh = f"看似 {broken}，但内容不完整" if broken else "的编码不是 UTF-8、UTF-16 或 GBK"
    return DataError(
        f"{file.name} {en}. Save it again as UTF-8 (in Excel: CSV UTF-8).",
        f"{file.name} {zh}。请另存为 UTF-8（Excel 选“CSV UTF-8”）。",
    )
