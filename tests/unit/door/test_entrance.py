"""Where a request comes from, who sends it, and what the entrance says to them."""

from __future__ import annotations

from typing import Any

import pytest
from open_door import AT_THE_MACHINE, ELSEWHERE

from app.chat.model_host import LoadingState
from app.door.accounts import read_accounts
from app.door.door import Door, Policy
from app.door.throttle import Throttle
from app.web.health import described
from chatglm2.errors import CheckpointError

from .conftest import Serve

PERSON = {"accept": "text/html", "accept-language": "zh-CN"}


def may_change(client: Any, **headers: str) -> bool:
    """Whether the operator's door is open: a download fails only for want of a checkpoint."""
    answer = client.get("/download-checkpoint?key=none", headers=headers)
    assert answer.status_code in (403, 404)
    return bool(answer.status_code == 404)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_under_a_local_name_is_the_machine_itself(serve: Serve, address: str, host: str) -> None:
    assert may_change(serve(Door()).visit(address, host))


@pytest.mark.parametrize("host", ["192.168.1.20", "0.0.0.0", "[fd00::2]"])
def test_loopback_under_another_address_is_not(serve: Serve, host: str) -> None:
    assert not may_change(serve(Door()).visit(AT_THE_MACHINE, host))


@pytest.mark.parametrize("address", ["192.168.1.77", "fd00::9", "::ffff:10.0.0.1", "testclient", ""])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_local_name_alone_makes_nobody_local(serve: Serve, address: str, host: str) -> None:
    assert not may_change(serve(Door()).visit(address, host))


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "CF-Connecting-IP"],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
def test_what_was_forwarded_is_never_local(serve: Serve, name: str, value: str) -> None:
    served = serve(Door())
    for address in (AT_THE_MACHINE, ELSEWHERE):
        assert not may_change(served.visit(address, "127.0.0.1"), **{name: value})


def test_a_forwarded_address_is_believed_from_loopback_only(serve: Serve) -> None:
    served = serve(Door(throttle=Throttle(limit=2)))

    def guess(address: str, forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return int(served.visit(address).post("/operator-key", data={"key": "x"}, headers=headers).status_code)

    # A proxy here names its visitors; each is heard twice. What a visitor claims before that does not count.
    assert [guess(AT_THE_MACHINE, f"9.9.9.{i}, 10.0.0.1, 127.0.0.1") for i in range(3)] == [403, 403, 429]
    assert guess(AT_THE_MACHINE, "10.0.0.2") == 403
    # From elsewhere the header is air: every name is the same visitor.
    assert [guess(ELSEWHERE, f"10.0.0.{i}") for i in range(10, 13)] == [403, 403, 429]


def test_a_name_for_a_proxy_means_that_nobody_is_local(serve: Serve) -> None:
    served = serve(Door(Policy(trust_local=False)), names=("page.example",))
    assert not may_change(served.visit(AT_THE_MACHINE))
    assert not may_change(served.visit(AT_THE_MACHINE, "page.example"))


@pytest.mark.parametrize("address", [AT_THE_MACHINE, ELSEWHERE])
def test_a_forwarded_host_is_not_reflected(serve: Serve, address: str) -> None:
    headers = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    for path in ("/", "/config", "/theme.css"):
        answer = serve(Door()).visit(address).get(path, headers=headers)
        assert answer.status_code == 200
        assert "evil" not in answer.text + str(answer.headers)


def test_https_of_a_proxy_marks_the_cookie_and_the_links(serve: Serve) -> None:
    served = serve(Door())
    sent = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.1"}
    cookie = served.visit(AT_THE_MACHINE).post("/operator-key", data={"key": served.door.key}, headers=sent)
    assert "Secure" in cookie.headers["set-cookie"]
    plain = served.visit().post("/operator-key", data={"key": served.door.key}, headers=sent)
    assert "Secure" not in plain.headers["set-cookie"]
    assert served.visit(AT_THE_MACHINE).get("/config", headers=sent).json()["root"].startswith("https://")


@pytest.mark.parametrize("host", ["[", "]", "[::1", "a b", "a@127.0.0.1", "127.0.0.1:x", "127.0.0.1:7860/x", "", "é"])
def test_a_host_that_is_none_is_a_bad_request(serve: Serve, host: str) -> None:
    answer = serve(Door()).visit().get("/", headers={b"host": host.encode()})
    assert answer.status_code == 400


@pytest.mark.parametrize("origin", ["http://[", "null", "http://192.168.1.20:1", "http://evil.example", "x"])
def test_a_foreign_origin_is_refused_even_with_a_cookie(serve: Serve, origin: str) -> None:
    served = serve(Door())
    client = served.visit()
    client.cookies.update(client.post("/operator-key", data={"key": served.door.key}).cookies)
    assert may_change(client)
    answer = client.post("/gradio_api/upload", files={"files": b"x"}, headers={"origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_to_the_page_and_do_nothing_else(serve: Serve, site: str) -> None:
    client = serve(Door()).visit(AT_THE_MACHINE)
    opens = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=opens).status_code == 200
    assert client.get("/", headers=opens | {"sec-fetch-dest": "iframe"}).status_code == 403
    assert client.get("/download-checkpoint?key=none", headers=opens).status_code == 403
    assert client.post("/sign-out", headers=opens).status_code == 403
    assert client.get("/config", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/config", headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_the_key_is_a_cookie_that_scripts_cannot_read_and_other_ports_do_not_share(serve: Serve) -> None:
    served = serve(Door())
    client = served.visit()
    answer = client.post("/operator-key", data={"key": served.door.key})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "7860" in cookie
    assert served.door.key not in cookie
    client.cookies.update(answer.cookies)
    assert may_change(client)
    client.post("/sign-out")
    assert not may_change(client)


def test_a_program_sends_the_key_with_its_requests_and_guesses_no_more_than_a_person(serve: Serve) -> None:
    served = serve(Door(throttle=Throttle(limit=2)))
    client = served.visit()
    assert may_change(client, authorization=f"Bearer {served.door.key}")
    answers = [client.get("/", headers={"authorization": "Bearer guess"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [403, 403, 429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_guesses_at_the_password_are_counted(serve: Serve) -> None:
    served = serve(Door(Policy(accounts=read_accounts("ann:secret")), throttle=Throttle(limit=2)))
    client = served.visit()
    wrong = [client.post("/sign-in", data={"name": "ann", "password": "x"}).status_code for _ in range(3)]
    assert wrong == [403, 403, 429]
    assert client.post("/sign-in", data={"name": "ann", "password": "secret"}).status_code == 429
    assert served.visit("10.0.0.1").post("/sign-in", data={"name": "ann", "password": "secret"}).status_code == 303


def test_the_form_to_sign_in_stands_where_the_page_would(serve: Serve) -> None:
    client = serve(Door(Policy(accounts=read_accounts("ann:secret")))).visit()
    page = client.get("/", headers=PERSON)
    assert page.status_code == 401 and "登录" in page.text and 'action="/sign-in"' in page.text
    wrong = client.post("/sign-in", data={"name": '"><script>', "password": "x"}, headers=PERSON)
    assert wrong.status_code == 403 and "用户名或密码不正确" in wrong.text and "<script>" not in wrong.text
    assert client.get("/config").json()["detail"].startswith("Sign in")


def test_a_form_of_megabytes_is_not_read(serve: Serve) -> None:
    for path in ("/operator-key", "/sign-in"):
        answer = serve(Door()).visit().post(path, content=b"key=" + b"x" * 100_000)
        assert answer.status_code == 400


def test_health_tells_programs_what_the_page_tells_people() -> None:
    assert described(LoadingState("loading", 1, 4), "m", tells_why=True) == {
        "status": "loading",
        "model": "loading",
        "name": "m",
        "progress": 0.25,
    }
    assert described(LoadingState("ready"), "m", tells_why=True)["status"] == "ready"
    failed = described(LoadingState("failed", error=CheckpointError("no file", "没有文件")), "m", tells_why=True)
    assert failed["status"] == "failed" and failed["reason"] == {"en": "no file", "zh": "没有文件"}


def test_a_failed_model_is_unavailable_and_gives_its_reason_to_who_may_watch(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for accounts, expected in ((None, True), (read_accounts("ann:secret"), False)):
        served = serve(Door(Policy(accounts=accounts)))
        assert served.visit().get("/healthz").status_code == 200
        with monkeypatch.context() as patch:
            failed = LoadingState("failed", error=CheckpointError("no file", "没有文件"))
            patch.setattr(served.services.host, "_state", failed)
            answer = served.visit().get("/healthz")
        assert answer.status_code == 503
        assert ("reason" in answer.json()) is expected
