"""Accounts: names with hashed passwords, one a line, and how such a line is made.

A line is ``name:scrypt:N:r:p:salt:hash``, salt and hash in base64. The parameters stand in the line, so that a stronger
default does not lock old accounts out. Empty lines and lines that start with ``#`` are left out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from chatglm2.errors import ChatGLMError

COST, BLOCK_SIZE, PARALLEL = 2**14, 8, 1
MAX_MEMORY_BYTES = 64 * 2**20  # what one attempt may take
SALT_BYTES, HASH_BYTES = 16, 32


class AccountError(ChatGLMError):
    """``--auth`` names no accounts, or a line of its file is not one."""


@dataclass(frozen=True)
class PasswordHash:
    """A password as it is kept (RFC 7914)."""

    cost: int
    block_size: int
    parallel: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, password: str) -> PasswordHash:
        salt = secrets.token_bytes(SALT_BYTES)
        empty = cls(COST, BLOCK_SIZE, PARALLEL, salt, bytes(HASH_BYTES))
        return cls(COST, BLOCK_SIZE, PARALLEL, salt, empty._digest_of(password))

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """The inverse of ``str()``.

        Raises:
            ValueError: that is no hash of ours, or one that would take more memory than an attempt may.
        """
        scheme, cost, block_size, parallel, salt, digest = text.split(":")
        numbers = int(cost), int(block_size), int(parallel)
        if scheme != "scrypt" or min(numbers) < 1 or 128 * numbers[0] * numbers[1] >= MAX_MEMORY_BYTES:
            raise ValueError(text)
        parsed = cls(*numbers, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True))
        parsed._digest_of("")  # parameters that scrypt refuses are refused here, not at the first login
        return parsed

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(self._digest_of(password), self.digest)

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).decode() for part in (self.salt, self.digest))
        return f"scrypt:{self.cost}:{self.block_size}:{self.parallel}:{salt}:{digest}"

    def _digest_of(self, password: str) -> bytes:
        return hashlib.scrypt(
            password.encode("utf-8", "surrogatepass"),
            salt=self.salt,
            n=self.cost,
            r=self.block_size,
            p=self.parallel,
            maxmem=MAX_MEMORY_BYTES,
            dklen=len(self.digest) or HASH_BYTES,
        )


class Accounts:
    """Who may sign in."""

    def __init__(self, hashes: dict[str, PasswordHash]) -> None:
        self._hashes = hashes
        # Somebody unknown takes as long as somebody known, so that names cannot be found by timing.
        self._nobody = PasswordHash.of(secrets.token_hex())

    def accept(self, name: str, password: str) -> bool:
        return self._hashes.get(name, self._nobody).matches(password) and name in self._hashes


def read_accounts(text: str) -> Accounts:
    """The accounts that ``--auth`` names: those of a file, or the one in ``USER:PASS``.

    Raises:
        AccountError: it is neither, or a line of the file is no account.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return _read_file(path)
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise AccountError(
            f"--auth takes an existing file with one account a line, or USER:PASS; found {text!r}. "
            "--make-account NAME prints a line for the file.",
            f"--auth 需要一个现有的文件（每行一个账号）或 USER:PASS；实际为 {text!r}。"
            "用 --make-account NAME 可以生成文件中的一行。",
        )
    return Accounts({name: PasswordHash.of(password)})


def account_line(name: str, password: str) -> str:
    """The line of an accounts file.

    Raises:
        AccountError: a name or password that cannot stand there.
    """
    if not name or name.startswith("#") or any(character in name for character in ":\r\n") or name != name.strip():
        raise AccountError(
            f"A name must not be empty, start with '#', or hold ':' or blanks at its ends; found {name!r}.",
            f"用户名不能为空，不能以 '#' 开头，不能含有 ':'，首尾不能有空格；实际为 {name!r}。",
        )
    if not password:
        raise AccountError("The password is empty. Type one.", "密码为空，请输入密码。")
    return f"{name}:{PasswordHash.of(password)}"


def _read_file(path: Path) -> Accounts:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise AccountError(
            f"Cannot read the accounts in {path}: {error}", f"无法读取账号文件 {path}：{error}"
        ) from error
    hashes: dict[str, PasswordHash] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, kept = line.strip().partition(":")
        try:
            hashes[name] = PasswordHash.parse(kept)
        except (ValueError, binascii.Error) as error:
            # The line is not quoted: it may hold a password that somebody wrote there in the clear.
            raise AccountError(
                f"Line {number} of {path} is no account. Make it with --make-account NAME.",
                f"{path} 第 {number} 行不是账号，请用 --make-account NAME 生成。",
            ) from error
    if not hashes:
        raise AccountError(
            f"{path} holds no account. Make a line with --make-account NAME.",
            f"{path} 中没有账号，请用 --make-account NAME 生成一行。",
        )
    return Accounts(hashes)
