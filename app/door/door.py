"""The door: what a visitor may do, and how somebody gets to be allowed more."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import StrEnum

from app.door.accounts import Accounts
from app.door.throttle import Throttle
from chatglm2.errors import ChatGLMError

# Letters and digits that cannot be taken for one another; 16 of them are 79 bits.
KEY_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
KEY_GROUPS, GROUP_LETTERS = 4, 4
SESSION_LIMIT = 1000


class WrongSecret(ChatGLMError):  # noqa: N818 - says what happened
    """The key or the password is not right."""


class Mode(StrEnum):
    """Who may change things: start, stop, upload, add, delete, download."""

    KEY = "key"  # the machine's own browser, and whoever has the key
    OPEN = "open"  # everybody
    VIEWER_ONLY = "viewer-only"  # nobody


class Remedy(StrEnum):
    """What would let a visitor do more."""

    NONE = "none"
    KEY = "key"
    SIGN_IN = "sign-in"


@dataclass(frozen=True)
class Visitor:
    """Whoever sent a request, and what they may do."""

    address: str
    may_watch: bool = True
    may_change: bool = False
    remedy: Remedy = Remedy.NONE
    signed_in: bool = False

    def with_key(self) -> Visitor:
        """The same visitor, who has shown the key."""
        return replace(self, may_change=True, remedy=Remedy.NONE)


@dataclass(frozen=True)
class Policy:
    """How the page was started."""

    mode: Mode = Mode.KEY
    accounts: Accounts | None = None  # whoever is not among them sees nothing
    trust_local: bool = True  # False where a proxy may stand in front: its visitors would all look local


@dataclass
class Door:
    """Decides for every request. Sessions are known by random tokens, and end with the process."""

    policy: Policy = field(default_factory=Policy)
    key: str = field(default_factory=lambda: make_key())
    throttle: Throttle = field(default_factory=Throttle)

    def __post_init__(self) -> None:
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def uses_key(self) -> bool:
        return self.policy.mode is Mode.KEY and self.policy.accounts is None

    def admit(self, address: str, *, is_local: bool, token: str | None) -> Visitor:
        """What the visitor from ``address`` may do.

        Args:
            address: where they are counted.
            is_local: they sit at this machine, with nothing between.
            token: what signing in gave them; None if they never did.
        """
        signed_in = self._knows(token)
        viewer_only = self.policy.mode is Mode.VIEWER_ONLY
        if self.policy.accounts is not None:
            remedy = Remedy.NONE if signed_in else Remedy.SIGN_IN
            return Visitor(address, signed_in, signed_in and not viewer_only, remedy, signed_in)
        if viewer_only:
            return Visitor(address)
        if self.policy.mode is Mode.OPEN:
            return Visitor(address, may_change=True)
        allowed = signed_in or (is_local and self.policy.trust_local)
        return Visitor(address, may_change=allowed, remedy=Remedy.NONE if allowed else Remedy.KEY, signed_in=signed_in)

    def check_key(self, address: str, key: str) -> None:
        """Passes if ``key`` is the operator key.

        Raises:
            TooManyAttempts: this address guesses.
            WrongSecret: it is not the key, or the page has none.
        """
        self.throttle.attempt(address)
        if not (self.uses_key and hmac.compare_digest(_plain(key), _plain(self.key))):
            raise WrongSecret(
                "This is not the operator key. It was printed where the page was started, and is a new one after every "
                "start.",
                "操作密钥不正确。它显示在启动本页面的终端里，每次启动都会更换。",
            )
        self.throttle.forgive(address)

    def use_key(self, address: str, key: str) -> str:
        """A session's token for the operator key; raises as `check_key` does."""
        self.check_key(address, key)
        return self._begin()

    def sign_in(self, address: str, name: str, password: str) -> str:
        """A session's token for an account. Takes about 50 ms of a processor.

        Raises:
            TooManyAttempts: this address guesses.
            WrongSecret: there is no such account, or the password is another.
        """
        self.throttle.attempt(address)
        accounts = self.policy.accounts
        if accounts is None or not accounts.accept(name, password):
            raise WrongSecret(
                "Name or password is wrong. Check both and try again.", "用户名或密码不正确，请检查后重试。"
            )
        self.throttle.forgive(address)
        return self._begin()

    def sign_out(self, token: str | None) -> None:
        with self._lock:
            self._sessions.pop(token or "", None)

    def _begin(self) -> str:
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[token] = None
            while len(self._sessions) > SESSION_LIMIT:
                self._sessions.popitem(last=False)
        return token

    def _knows(self, token: str | None) -> bool:
        with self._lock:
            return token is not None and token in self._sessions


def make_key() -> str:
    """A new key, in groups that can be read out and typed."""
    groups = ["".join(secrets.choice(KEY_LETTERS) for _ in range(GROUP_LETTERS)) for _ in range(KEY_GROUPS)]
    return "-".join(groups)


def _plain(key: str) -> bytes:
    """The key's letters, however it was typed."""
    return "".join(key.lower().replace("-", "").split()).encode("utf-8", "surrogatepass")
