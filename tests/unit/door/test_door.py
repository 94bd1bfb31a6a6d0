"""Keys, accounts and attempts, without a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.door.accounts import AccountError, PasswordHash, account_line, read_accounts
from app.door.door import Door, Mode, Policy, Remedy, WrongSecret
from app.door.invitation import invitation
from app.door.throttle import Throttle, TooManyAttempts, network_of


def test_the_machines_own_browser_needs_no_key_and_a_stranger_does() -> None:
    door = Door()
    assert door.admit("127.0.0.1", is_local=True, token=None).may_change
    stranger = door.admit("10.0.0.9", is_local=False, token=None)
    assert (stranger.may_watch, stranger.may_change, stranger.remedy) == (True, False, Remedy.KEY)


def test_the_key_opens_however_it_was_typed_and_signing_out_closes() -> None:
    door = Door()
    token = door.use_key("10.0.0.9", f" {door.key.upper().replace('-', ' ')}\n")
    assert door.admit("10.0.0.9", is_local=False, token=token).may_change
    door.sign_out(token)
    assert not door.admit("10.0.0.9", is_local=False, token=token).may_change


@pytest.mark.parametrize("key", ["", "-", "wrong", "é", "\ud800"])
def test_a_wrong_key_opens_nothing(key: str) -> None:
    with pytest.raises(WrongSecret):
        Door().use_key("10.0.0.9", key)


@pytest.mark.parametrize("mode", [Mode.OPEN, Mode.VIEWER_ONLY])
def test_where_no_key_is_asked_for_the_key_is_none(mode: Mode) -> None:
    door = Door(Policy(mode))
    with pytest.raises(WrongSecret):
        door.use_key("10.0.0.9", door.key)


def test_viewer_only_closes_the_machine_itself_and_whoever_signed_in() -> None:
    accounts = read_accounts("ann:secret")
    for policy in (Policy(Mode.VIEWER_ONLY), Policy(Mode.VIEWER_ONLY, accounts)):
        door = Door(policy)
        token = door.sign_in("127.0.0.1", "ann", "secret") if policy.accounts else None
        visitor = door.admit("127.0.0.1", is_local=True, token=token)
        assert visitor.may_watch and not visitor.may_change


def test_with_accounts_even_the_machine_itself_signs_in() -> None:
    door = Door(Policy(accounts=read_accounts("ann:secret")))
    assert not door.admit("127.0.0.1", is_local=True, token=None).may_watch
    token = door.sign_in("127.0.0.1", "ann", "secret")
    visitor = door.admit("10.0.0.9", is_local=False, token=token)
    assert visitor.may_watch and visitor.may_change


def test_behind_a_proxy_nobody_is_local() -> None:
    assert not Door(Policy(trust_local=False)).admit("127.0.0.1", is_local=True, token=None).may_change


def test_attempts_are_counted_by_address_and_heard_again_later() -> None:
    now = 0.0
    throttle = Throttle(limit=3, window_seconds=60, clock=lambda: now)
    for _ in range(3):
        throttle.attempt("10.0.0.9")
    with pytest.raises(TooManyAttempts) as caught:
        throttle.attempt("10.0.0.9")
    assert caught.value.retry_seconds == 60
    throttle.attempt("10.0.0.10")
    now = 60.0
    throttle.attempt("10.0.0.9")


def test_the_right_key_is_not_heard_from_an_address_that_guesses() -> None:
    door = Door(throttle=Throttle(limit=2))
    for _ in range(2):
        with pytest.raises(WrongSecret):
            door.use_key("10.0.0.9", "guess")
    with pytest.raises(TooManyAttempts):
        door.use_key("10.0.0.9", door.key)
    assert door.use_key("10.0.0.10", door.key)


def test_one_network_of_ipv6_is_one_visitor() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.9") == network_of("10.0.0.9")


def test_an_accounts_line_lets_its_password_in_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.write_text(f"# colleagues\n\n{account_line('小王', 'p:ä sswort')}\n{account_line('ann', 'x')}\n", "utf-8")
    accounts = read_accounts(str(file))
    assert accounts.accept("小王", "p:ä sswort") and accounts.accept("ann", "x")
    assert not accounts.accept("小王", "x")
    assert not accounts.accept("nobody", "x")
    assert "sswort" not in file.read_text("utf-8").split("\n", 1)[1]


def test_the_same_password_never_gives_the_same_line() -> None:
    assert str(PasswordHash.of("x")) != str(PasswordHash.of("x"))


@pytest.mark.parametrize(
    "line",
    [
        "ann:secret",
        "ann",
        "ann:scrypt:16384:8:1:AAAA",
        "ann:scrypt:3:8:1:AAAA:AAAA",  # no power of two
        "ann:scrypt:1073741824:8:1:AAAA:AAAA",  # a terabyte an attempt
        "ann:scrypt:0:8:1:AAAA:AAAA",
        "ann:scrypt:16384:8:1:?:AAAA",
        "ann:md5:1:1:1:AAAA:AAAA",
    ],
)
def test_a_line_that_is_no_account_is_named_by_number_and_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "accounts"
    file.write_text(f"{account_line('bob', 'x')}\n{line}\n", "utf-8")
    with pytest.raises(AccountError, match="Line 2") as caught:
        read_accounts(str(file))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "nofile", ":x", "ann:", "/nowhere/at/all"])
def test_auth_that_names_no_account_is_refused(text: str) -> None:
    with pytest.raises(AccountError, match="--make-account"):
        read_accounts(text)


def test_an_empty_accounts_file_would_lock_everybody_out(tmp_path: Path) -> None:
    (tmp_path / "accounts").write_text("# nobody yet\n", "utf-8")
    with pytest.raises(AccountError, match="no account"):
        read_accounts(str(tmp_path / "accounts"))


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "a\n"])
def test_a_name_that_would_break_the_file_is_refused(name: str) -> None:
    with pytest.raises(AccountError):
        account_line(name, "x")


def test_the_invitation_draws_the_link_for_other_machines_where_somebody_looks() -> None:
    urls = ["http://127.0.0.1:7860", "http://192.168.1.20:7860"]
    drawn, plain = (invitation(urls, "k2mq-abcd", draw=draw) for draw in (True, False))
    assert "http://192.168.1.20:7860/#key=k2mq-abcd" in plain
    assert drawn.startswith(plain) and "▀" in drawn and "▀" not in plain
