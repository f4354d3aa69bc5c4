"""`headway peek` and `headway reset`, on stores and on services."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_outcome import Outcome
from cli_service import Stub
from servers import RedisServer

from headway import Throttled

Run = Callable[..., Outcome]
ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")
QUOTA = "5/h"


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is there."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    made = f"sqlite:///{tmp_path}/limits.db"
    Throttled(key="first", quota=QUOTA, store=made).limit()
    return made


def spend(url: str, count: int, key: str = "alice", **options: Any) -> None:
    limiter = Throttled(**{"key": key, "quota": QUOTA, "store": url, **options})
    for _ in range(count):
        assert not limiter.limit().limited


@pytest.mark.parametrize("using", ALGORITHMS)
def test_peek_tells_what_a_program_has_left(url: str, using: str, here: Run) -> None:
    spend(url, 2, using=using)
    words = ("alice", "--quota", QUOTA, "--using", using, "--store", url)
    for _ in range(2):  # it takes nothing
        told = here("peek", *words, "--json").json
        assert (told["limit"], told["remaining"]) == (5, 3)
    assert (told["key"], told["quota"], told["using"]) == ("alice", QUOTA, using)
    assert told["reset_after"] > 0
    outcome = here("peek", *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("alice: 3 of 5 left; all of it in ")


@pytest.mark.parametrize("using", ALGORITHMS)
def test_reset_gives_a_program_its_whole_limit_back(url: str, using: str, here: Run) -> None:
    spend(url, 5, using=using)
    words = ("alice", "--quota", QUOTA, "--using", using, "--store", url)
    assert here("reset", *words).code == 0
    assert here("peek", *words, "--json").json["remaining"] == 5
    spend(url, 5, using=using)


def test_peek_ends_with_1_when_nothing_is_left(url: str, here: Run) -> None:
    words = ("alice", "--quota", QUOTA, "--store", url)
    assert here("peek", *words).code == 0
    spend(url, 5)
    outcome = here("peek", *words)
    assert outcome.code == 1
    assert "0 of 5 left: the next request is denied" in outcome.out
    assert here("peek", *words, "--json").code == 1


def test_the_tightest_of_several_rules_is_told(url: str, here: Run) -> None:
    spend(url, 2, quota="3/m; 100/h")
    told = here("peek", "alice", "--quota", "3/m; 100/h", "--store", url, "--json").json
    assert (told["limit"], told["remaining"]) == (3, 1)


def test_the_prefix_is_that_of_the_limiter(url: str, here: Run) -> None:
    spend(url, 2, key_prefix="shop:api")
    words = ("peek", "alice", "--quota", QUOTA, "--store", url, "--json")
    assert here(*words).json["remaining"] == 5
    assert here(*words, "--prefix", "shop:api").json["remaining"] == 3


def test_reset_leaves_other_keys_alone(url: str, here: Run) -> None:
    spend(url, 2)
    spend(url, 2, key="bob")
    assert here("reset", "alice", "--quota", QUOTA, "--store", url, "--json").json["reset"] is True
    told = here("peek", "bob", "--quota", QUOTA, "--store", url, "--json").json
    assert told["remaining"] == 3


def test_the_store_is_that_of_redis_url_unless_one_is_named(
    redis_server: RedisServer, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    spend(redis_server.url, 2)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    assert here("peek", "alice", "--quota", QUOTA, "--json").json["remaining"] == 3
    here("peek", "alice", "--quota", QUOTA, "--store", "memory://").is_refused(2, "'memory://'")


def test_the_password_of_a_store_is_not_shown(redis_server: RedisServer, here: Run) -> None:
    words = ("alice", "--quota", QUOTA, "--store", redis_server.url)
    assert "s3cret" in redis_server.url
    for more in ((), ("--json",)):
        for command in ("peek", "reset"):
            outcome = here(command, *words, *more)
            assert outcome.code == 0
            assert "s3cret" not in outcome.out
            assert ":***@" in outcome.out
    wrong = redis_server.url.replace("s3cret", "other")
    outcome = here("peek", "alice", "--quota", QUOTA, "--store", wrong)
    outcome.is_refused(69, "***")
    assert "other" not in outcome.err


def test_a_key_that_is_no_text_is_taken_as_bytes(redis_server: RedisServer, program: Run) -> None:
    spend(redis_server.url, 2, key=b"k\xff\x1b[1m")  # type: ignore[arg-type]
    key = os.fsdecode(b"k\xff\x1b[1m")
    words = (key, "--quota", QUOTA, "--store", redis_server.url)
    outcome = program("peek", *words)
    assert outcome.out.startswith(r"k\xff\x1b[1m: 3 of 5 left")
    assert program("peek", *words, "--json").json["remaining"] == 3


@pytest.mark.parametrize("command", ["peek", "reset"])
@pytest.mark.parametrize("more", ["?on_error=allow", "?on_error=deny", "?lease=50ms"])
def test_a_store_that_does_not_answer_is_an_error_whatever_its_url_says(
    command: str, more: str, here: Run
) -> None:
    url = f"redis://:s3cret@127.0.0.1:1/0{more}"
    outcome = here(command, "k", "--quota", QUOTA, "--store", url)
    outcome.is_refused(69, "redis://:***@127.0.0.1:1/0", "cannot answer")


@pytest.mark.parametrize("command", ["peek", "reset"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["k", "--quota", "5/fortnight"], ["argument --quota", "'5/fortnight'", "expected"]),
        (["k", "--quota", ""], ["argument --quota"]),
        (["", "--quota", "5/h"], ["argument KEY", "''", "non-empty"]),
        (["k", "--quota", "5/h"], ["argument --store", "REDIS_URL", "another process"]),
        (["k", "--quota", "5/h", "--store", "memory://"], ["'memory://'", "no other can reach"]),
        (["k", "--quota", "5/h", "--store", "sqlite:///:memory:"], ["memory of one process"]),
        (["k", "--quota", "5/h", "--store", "nowhere"], ["argument --store", "'nowhere'"]),
        (["k", "--quota", "5/h", "--store", "redis://h/x"], ["argument --store", "'x'"]),
        (["k", "--quota", "5/h", "--store", "http://h:x"], ["argument --store", "port"]),
        (["k", "--quota", "5/h", "--store", "http://"], ["argument --store", "'http://'"]),
        (["k", "--quota", "5/h", "--using", "luck"], ["argument --using", "'luck'", "gcra"]),
        (["k", "--quota", "5/h", "--prefix", "a:"], ["argument --prefix", "'a:'"]),
        (["k", "--quota", "5/h", "--prefix", " "], ["argument --prefix", "' '"]),
        (["k"], ["--quota"]),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    command: str, words: list[str], said: list[str], here: Run
) -> None:
    here(command, *words).is_refused(2, f"headway {command}: ", *said)


def test_looking_at_a_file_that_is_not_there_does_not_make_it(tmp_path: Path, here: Run) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    here("peek", "k", "--quota", QUOTA, "--store", url).is_refused(2, "names no file")
    assert list(tmp_path.iterdir()) == []


# ---- services


def test_a_service_is_asked_by_its_protocol(
    stub: tuple[str, type[Stub]], here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = stub
    monkeypatch.setenv("HEADWAY_TOKEN", "t0ken")
    words = ("alice", "--quota", QUOTA, "--using", "gcra", "--store", url)
    outcome = here("peek", *words)
    assert outcome.out.startswith("alice: 3 of 5 left; all of it in 24 min\n")
    assert here("reset", *words, "--json").json["reset"] is True
    body = {"key": "alice", "quota": QUOTA, "using": "gcra"}
    assert handler.asked == [
        ("/v1/peek", "Bearer t0ken", body),
        ("/v1/reset", "Bearer t0ken", body),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *("t0ken", "alice:t0ken", "alice:t0ken:admin", "# mine\n\nt0ken\n", "\ufefft0ken\r\n"),
        "# what follows is no line: \x0b \x1c bob:wr0ng\nalice:t0ken\n",
    ],
)
def test_the_token_may_be_in_a_file(
    line: str, stub: tuple[str, type[Stub]], here: Run, tmp_path: Path
) -> None:
    url, handler = stub
    path = tmp_path / "token"
    path.write_bytes(line.encode())
    assert here("peek", "k", "--quota", QUOTA, "--store", url, "--token-file", str(path)).code == 0
    assert handler.asked[0][1] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"two words", "without spaces"),
        (b"\xff\xfe", "ASCII"),
        (None, "No such"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_named(
    content: bytes | None, said: str, here: Run, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    words = ("--store", "http://127.0.0.1:1", "--token-file", str(path))
    here("peek", "k", "--quota", QUOTA, *words).is_refused(2, "argument --token-file", said)


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (401, b'{"error": "Unknown token."}', 2, "Unknown token."),
        (403, b"", 2, "HEADWAY_TOKEN"),
        (400, b'{"error": "Invalid key: too long."}', 2, "Invalid key: too long."),
        (404, b"<html>", 69, "is it a headway serve?"),
        (503, b'{"error": "The store is down."}', 69, "The store is down."),
        (500, b"", 69, "500 Internal Server Error"),
        (302, b"", 69, "302"),
        (200, b"hello", 69, "headway serve"),
        (200, b"[1]", 69, "headway serve"),
        (200, b"{}", 69, "headway serve"),
        (200, b'{"error": "\\u001b[31m"}', 69, "headway serve"),
        (503, b'{"error": "\\u001b[31m"}', 69, "\\x1b[31m"),
    ],
)
def test_an_answer_that_is_none_is_told_in_one_line(
    status: int, body: bytes, code: int, said: str, stub: tuple[str, type[Stub]], here: Run
) -> None:
    url, handler = stub
    handler.answer = (status, {}, body)
    here("peek", "k", "--quota", QUOTA, "--store", url).is_refused(code, said)


def test_a_redirect_does_not_take_the_token_elsewhere(
    stub: tuple[str, type[Stub]], here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = stub
    monkeypatch.setenv("HEADWAY_TOKEN", "t0ken")
    handler.answer = (307, {"Location": f"{url}/elsewhere"}, b"")
    here("peek", "k", "--quota", QUOTA, "--store", url).is_refused(69, "307")
    assert [path for path, *_ in handler.asked] == ["/v1/peek"]


def test_a_service_that_is_not_there_is_told(here: Run) -> None:
    outcome = here("peek", "k", "--quota", QUOTA, "--store", "http://127.0.0.1:1")
    outcome.is_refused(69, "http://127.0.0.1:1 cannot answer", "headway serve")


def test_a_password_in_the_url_of_a_service_is_refused_and_not_shown(here: Run) -> None:
    outcome = here("peek", "k", "--quota", QUOTA, "--store", "http://me:pa55@127.0.0.1:1")
    outcome.is_refused(2, "--token-file")
    assert "pa55" not in outcome.err


def test_what_a_service_cannot_be_asked_is_refused(program: Run, here: Run) -> None:
    words = ("--quota", QUOTA, "--store", "http://127.0.0.1:1")
    here("peek", "k", *words, "--prefix", "mine").is_refused(2, "--prefix", "'mine'")
    program("peek", os.fsdecode(b"\xff"), *words).is_refused(2, "argument KEY", "UTF-8")


def test_a_service_that_drips_its_answer_is_given_up(
    here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each header comes in time; the answer does not."""
    monkeypatch.setattr("headway.commands.service.TIMEOUT", 0.5)
    over = threading.Event()

    def drip() -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\n")
            for number in range(200):
                sock.sendall(b"X-%d: y\r\n" % number)
                if over.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        started = time.monotonic()
        outcome = here("peek", "k", "--quota", QUOTA, "--store", url)
        assert time.monotonic() - started < 10  # of the twenty that it drips
        over.set()
        thread.join(20)
    assert outcome.code == 69
    assert "cannot answer" in outcome.err


@pytest.mark.parametrize(
    "url",
    ["http://user:s3cret@host", "http://user:s3cret", "http://h/?token=s3cret", "http://h/#s3cret"],
)
def test_no_secret_of_a_services_url_is_shown(url: str, here: Run) -> None:
    for words in (("peek", "k", "--quota", QUOTA, "--store", url), ("top", "--once", url)):
        outcome = here(*words)
        assert outcome.code == 2
        assert "s3cret" not in outcome.out + outcome.err
