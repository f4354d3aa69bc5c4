"""The WSGI middleware, over real servers: wsgiref and waitress."""

from __future__ import annotations

import gc
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from wsgi_servers import SERVERS, get, serving

import headway
from headway.contrib.wsgi import (
    Concurrency,
    EnvironFacts,
    RateLimitMiddleware,
    Rule,
    api_key,
    client_address,
)

servers = pytest.mark.parametrize("server", SERVERS)


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = b"hello"
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK", fields)
    return [body]


def streaming(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one,"
    yield b"two"


def file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return wrapper(io.BytesIO(b"x" * 100_000), 4096)  # type: ignore[no-any-return]


@servers
def test_a_request_over_the_limit_is_answered_with_429_and_when_to_retry(
    server: str, store: headway.MemoryStore
) -> None:
    app = validator(RateLimitMiddleware(validator(hello), "2/minute", store=store))
    with serving(app, server) as port:
        assert [get(port).status for _ in range(2)] == [200, 200]
        denied = get(port, accept="application/json")
    assert denied.status == 429
    assert denied.headers["retry-after"] == "30"
    assert denied.headers["ratelimit-policy"] == '"default";q=2;w=60'
    assert denied.headers["ratelimit"] == '"default";r=0;t=60'
    assert denied.headers["x-ratelimit-limit"] == "2"
    assert denied.headers["x-ratelimit-remaining"] == "0"
    assert denied.headers["content-type"] == "application/problem+json"
    assert json.loads(denied.body)["status"] == 429


@servers
@pytest.mark.parametrize(
    ("app", "body"),
    [(hello, b"hello"), (streaming, b"one,two"), (file, b"x" * 100_000)],
    ids=["list", "generator", "file"],
)
def test_an_allowed_response_of_any_kind_tells_what_remains(
    server: str, app: Any, body: bytes, store: headway.MemoryStore
) -> None:
    with serving(RateLimitMiddleware(app, "5/minute", store=store), server) as port:
        answer = get(port)
    assert answer.status == 200
    assert answer.body == body
    assert answer.headers["ratelimit"] == '"default";r=4;t=12'
    assert answer.headers["x-ratelimit-remaining"] == "4"


def test_a_denied_request_never_reaches_the_application(store: headway.MemoryStore) -> None:
    calls = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        calls.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    with serving(RateLimitMiddleware(app, "1/minute", store=store)) as port:
        get(port, "/a")
        get(port, "/b")
    assert calls == ["/a"]


def test_a_denied_head_request_has_no_body(store: headway.MemoryStore) -> None:
    with serving(RateLimitMiddleware(hello, "1/minute", store=store)) as port:
        get(port, method="HEAD")
        denied = get(port, method="HEAD")
    assert (denied.status, denied.body) == (429, b"")


def test_rules_have_routes_and_exemptions_of_their_own(store: headway.MemoryStore) -> None:
    rules = [
        Rule("3/minute", name="all", exempt="/health"),
        Rule("1/minute", name="login", paths="/login", methods="POST"),
    ]
    with serving(RateLimitMiddleware(hello, rules, store=store)) as port:
        assert [get(port, "/login", "POST").status for _ in range(2)] == [200, 429]
        assert [get(port, "/").status for _ in range(3)] == [200, 200, 429]
        assert {get(port, "/health").status for _ in range(5)} == {200}


def test_a_quota_a_key_and_a_cost_may_be_callables_of_the_environ(
    store: headway.MemoryStore,
) -> None:
    def quota(environ: dict[str, Any]) -> str | None:
        return {"free": "1/minute", "paid": "4/minute"}.get(environ.get("HTTP_X_PLAN", ""))

    rule = Rule(
        quota,
        key=lambda environ: environ.get("HTTP_X_WHO"),
        cost=lambda environ: int(environ.get("HTTP_X_COST", 1)),
    )
    with serving(RateLimitMiddleware(hello, rule, store=store)) as port:

        def admitted(times: int, **headers: str) -> int:
            return [get(port, **headers).status for _ in range(times)].count(200)

        assert admitted(5, X_Plan="free", X_Who="ann") == 1
        assert admitted(5, X_Plan="paid", X_Who="ben") == 4
        assert admitted(5, X_Plan="paid", X_Who="cid", X_Cost="2") == 2
        assert admitted(5, X_Plan="staff", X_Who="dan") == 5
        assert admitted(5, X_Plan="free") == 5


def test_who_is_behind_a_proxy_is_believed_only_if_the_proxy_is_trusted(
    store: headway.MemoryStore,
) -> None:
    def statuses(app: Any) -> list[int]:
        with serving(app) as port:
            return [get(port, X_Forwarded_For=f"203.0.113.{n}").status for n in range(2)]

    trusting = client_address(trusted_proxies=["127.0.0.1"])
    assert statuses(RateLimitMiddleware(hello, "1/minute")) == [200, 429]
    assert statuses(RateLimitMiddleware(hello, "1/minute", key=trusting)) == [200, 200]


def test_api_keys_have_counts_of_their_own() -> None:
    with serving(RateLimitMiddleware(hello, "1/minute", key=api_key())) as port:
        statuses = [get(port, X_Api_Key=key).status for key in ("a", "b", "a")]
    assert statuses == [200, 200, 429]


def test_a_dry_run_denies_nothing_and_tells_nothing() -> None:
    app = RateLimitMiddleware(hello, "1/minute", dry_run=True)
    with serving(app) as port:
        answers = [get(port) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert not any("ratelimit" in name for answer in answers for name in answer.headers)
    assert app.policy.counts()["default"]["dry_run"] == 2


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200)])
def test_a_store_that_is_down_is_503_or_no_limit_as_told(on_error: str, status: int) -> None:
    down = "redis://127.0.0.1:1/0"
    with serving(RateLimitMiddleware(hello, "1/s", store=down, on_error=on_error)) as port:
        answer = get(port)
    assert answer.status == status
    assert ("retry-after" in answer.headers) is (status == 503)


def test_on_limited_may_answer_in_its_own_way(store: headway.MemoryStore) -> None:
    def teapot(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("418 I'm a teapot", [("Content-Length", "0")])
        return []

    app = RateLimitMiddleware(
        hello, "1/minute", store=store, on_limited=lambda environ, verdict: teapot
    )
    with serving(app) as port:
        get(port)
        denied = get(port)
    assert denied.status == 418
    assert denied.headers["retry-after"] == "60"


def test_two_middlewares_tell_all_their_limits_in_one_field(store: headway.MemoryStore) -> None:
    inner = RateLimitMiddleware(hello, Rule("2/minute", name="inner"), store=store)
    with serving(RateLimitMiddleware(inner, Rule("9/minute", name="outer"), store=store)) as port:
        allowed, _, denied = (get(port) for _ in range(3))
    assert allowed.headers["ratelimit"] == '"outer";r=8;t=7, "inner";r=1;t=30'
    assert allowed.headers["x-ratelimit-limit"] == "2"
    assert denied.status == 429
    assert denied.headers["retry-after"] == "30"


def test_a_field_of_the_application_by_the_same_name_is_replaced() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("X-RateLimit-Limit", "99"), ("Content-Length", "0")])
        return []

    with serving(RateLimitMiddleware(app, "5/minute")) as port:
        fields = get(port).fields
    assert [value for name, value in fields if name == "x-ratelimit-limit"] == ["5"]


def test_a_permit_is_held_until_the_body_has_ended(
    start: Any, eventually: Callable[..., None]
) -> None:
    go, running = threading.Event(), threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one,"
        running.set()
        go.wait(30)
        yield b"two"

    with serving(RateLimitMiddleware(slow, Concurrency(1)), "waitress") as port:
        first = start(lambda: get(port))
        assert running.wait(30)
        denied = get(port)
        go.set()
        assert first.result().body == b"one,two"
        eventually(lambda: get(port).status == 200, "the permit is free again")
    assert denied.status == 429
    assert denied.headers["ratelimit-policy"] == '"default";q=1;qu="concurrent-requests"'


def environ() -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1"}


def body_of(app: Any) -> Any:
    return app(environ(), lambda status, fields, exc_info=None: None)


def status_of(app: Any) -> str:
    seen: list[str] = []
    body = app(environ(), lambda status, fields, exc_info=None: seen.append(status))
    next(iter(body), None)
    close = getattr(body, "close", None)
    if close is not None:
        close()
    return seen[0]


def test_an_application_that_raises_gives_its_permit_back() -> None:
    def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ValueError("broken")

    app = RateLimitMiddleware(broken, Concurrency(1))
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            body_of(app)


def test_a_body_that_is_closed_before_it_was_read_gives_its_permit_back() -> None:
    app = RateLimitMiddleware(streaming, Concurrency(1))
    for _ in range(3):
        body_of(app).close()
    assert status_of(app) == "200 OK"


def test_a_body_that_is_dropped_without_being_closed_gives_its_permit_back(tmp_path: Path) -> None:
    for store in (None, f"sqlite:///{tmp_path / 'limits'}"):
        app = RateLimitMiddleware(streaming, Concurrency(1), store=store)
        for _ in range(3):
            status: list[str] = []
            environ = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1"}
            app(environ, lambda line, fields, info=None, status=status: status.append(line))
            del environ
            gc.collect()
        end = time.monotonic() + 30
        while status_of(app) != "200 OK":  # a store that is shared is told by another thread
            assert time.monotonic() < end


def test_facts_read_paths_and_headers_as_wsgi_hands_them_over() -> None:
    facts = EnvironFacts(
        {
            "REQUEST_METHOD": "post",
            "SCRIPT_NAME": "/app",
            "PATH_INFO": "/sch\u00c3\u00b6n",
            "QUERY_STRING": "a=1&a=2&b=",
            "REMOTE_ADDR": "",
            "CONTENT_TYPE": "text/plain",
            "HTTP_X_API_KEY": "k",
        }
    )
    assert (facts.method, facts.path) == ("POST", "/schön")
    assert facts.route() == "/app/schön"
    assert (facts.query("a"), facts.query("b"), facts.query("c")) == ("1", "", None)
    assert facts.address() is None
    assert (facts.header("content-type"), facts.header("x-api-key")) == ("text/plain", "k")
    assert facts.user() is None


def test_a_bad_argument_is_named_when_the_middleware_is_made() -> None:
    with pytest.raises(headway.DataError, match="fortnight"):
        RateLimitMiddleware(hello, "1/fortnight")
    with pytest.raises(headway.SetUpError, match="Invalid on_error: 'pass'"):
        RateLimitMiddleware(hello, "1/s", on_error="pass")


def test_the_middleware_needs_nothing_but_the_standard_library(run_python: Any) -> None:
    program = """
        import sys
        import headway.contrib.wsgi
        others = {"flask", "django", "aiohttp", "mcp", "starlette", "werkzeug"} & set(sys.modules)
        print(sorted(others))
    """
    assert run_python(program) == "[]\n"


GUNICORN_APP = """
import os
from headway.contrib.wsgi import RateLimitMiddleware

def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "0"), ("X-Pid", str(os.getpid()))])
    return []

app = RateLimitMiddleware(hello, "5/hour", store=os.environ["LIMITS"])
"""


def test_the_workers_of_gunicorn_share_a_limit_through_a_store(
    tmp_path: Path,
) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(GUNICORN_APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--log-level", "error"]
        command += ["--bind", f"fd://{listener.fileno()}", "application:app"]
        limits = {"LIMITS": f"sqlite:///{tmp_path / 'limits.db'}"}
        with subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | limits, pass_fds=[listener.fileno()]
        ) as server:
            try:
                port = listener.getsockname()[1]
                answers = [get(port) for _ in range(8)]
            finally:
                server.terminate()
                server.wait(30)
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
    assert answers[4].headers["x-ratelimit-remaining"] == "0"
