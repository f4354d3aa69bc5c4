"""throttled-py's Flask names do here what they do in throttled-py 3.5.0."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import headway

flask = pytest.importorskip("flask")

from headway.throttled.contrib.flask import (  # noqa: E402
    Limiter,
    RateLimitContext,
    RateLimitExceededError,
    RateLimitHeaderPolicy,
    get_remote_address,
)
from headway.throttled.contrib.flask.keys import KeyParts, compose_key  # noqa: E402


@pytest.fixture
def app() -> Any:
    return flask.Flask("test")


def test_a_view_over_its_quota_is_answered_with_429_and_the_fields_of_throttled(
    app: Any, store: headway.MemoryStore
) -> None:
    limiter = Limiter("2/m", app=app, store=store)

    @app.get("/items/<int:number>")
    @limiter.limit()
    def items(number: int) -> str:
        return str(number)

    client = app.test_client()
    first = client.get("/items/1")
    assert first.headers["RateLimit-Limit"] == "2"
    assert first.headers["RateLimit-Remaining"] == "1"
    assert first.headers["RateLimit-Reset"] == "30"
    assert "Retry-After" not in first.headers
    client.get("/items/2")
    denied = client.get("/items/3")
    assert denied.status_code == 429
    assert denied.headers["Retry-After"] == "30"
    assert denied.headers["RateLimit-Remaining"] == "0"
    assert "Rate limit exceeded" in denied.text


def test_methods_and_routes_and_principals_have_counts_of_their_own(app: Any) -> None:
    limiter = Limiter("1/h", app=app, key_func=lambda: flask.request.args["who"])

    @app.route("/a", methods=["GET", "POST"])
    @limiter.limit()
    def a() -> str:
        return "a"

    @app.get("/b")
    @limiter.limit("2/h", key_func=lambda: "all")
    def b() -> str:
        return "b"

    client = app.test_client()
    assert client.get("/a?who=ann").status_code == 200
    assert client.get("/a?who=ann").status_code == 429
    assert client.post("/a?who=ann").status_code == 200
    assert client.get("/a?who=ben").status_code == 200
    assert [client.get(f"/b?who={n}").status_code for n in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("kind", [RateLimitExceededError, headway.LimitedError, 429], ids=str)
def test_an_error_handler_may_answer(app: Any, kind: Any) -> None:
    limiter = Limiter("1/m", app=app)
    app.add_url_rule("/", "index", limiter.limit()(lambda: "index"))

    @app.errorhandler(kind)
    def handle(error: Any) -> Any:
        context = error.rate_limit_context
        assert isinstance(context, RateLimitContext)
        assert context.headers == RateLimitHeaderPolicy()
        assert error.rate_limit_result is context.result
        return {"retry_after": context.result.state.retry_after}, 429

    client = app.test_client()
    client.get("/")
    assert client.get("/").json == {"retry_after": 60}


def test_limiters_share_one_hook_and_the_innermost_is_told(app: Any) -> None:
    outer, inner = Limiter("9/m"), Limiter("3/m")
    for limiter in (outer, inner, inner):
        limiter.init_app(app)
    assert len(app.after_request_funcs[None]) == 1
    app.add_url_rule("/", "index", outer.limit()(inner.limit()(lambda: "index")))
    assert app.test_client().get("/").headers["RateLimit-Limit"] == "3"


def test_a_store_that_is_down_is_503_unless_the_application_handles_it(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = Limiter("1/m", app=app, store=headway.RedisStore("redis://127.0.0.1:1/0"))
    app.add_url_rule("/", "index", limiter.limit()(lambda: "index"))
    app.register_error_handler(Exception, lambda error: (type(error).__name__, 599))
    with caplog.at_level(logging.ERROR):
        assert app.test_client().get("/").text == "ServiceUnavailable"
    assert "rate limit store unavailable" in caplog.text

    other = flask.Flask("other")
    limiter.init_app(other)
    other.add_url_rule("/", "index", limiter.limit()(lambda: "index"))
    assert other.test_client().get("/").status_code == 503
    other = flask.Flask("another")
    other.add_url_rule("/", "index", limiter.limit()(lambda: "index"))
    other.register_error_handler(headway.StoreUnavailableError, lambda error: ("own", 599))
    assert other.test_client().get("/").status_code == 599


def test_a_key_is_composed_so_that_no_two_are_the_same() -> None:
    assert compose_key(KeyParts("GET", "/a|b", "c d")) == "GET|%2Fa%7Cb|c%20d"


def test_the_address_is_the_peers_and_unknown_is_said(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with app.test_request_context("/", environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        assert get_remote_address() == "192.0.2.1"
    with app.test_request_context("/", environ_overrides={"REMOTE_ADDR": ""}):
        assert get_remote_address() == "unknown"
    assert "unknown" in caplog.text


def test_a_limiter_without_a_quota_is_refused() -> None:
    with pytest.raises(TypeError, match="Limiter requires an explicit quota"):
        Limiter(None)  # type: ignore[arg-type]


PROGRAM = """
    import sys
    from headway import dropin
    dropin.install("throttled")
    print("flask" in sys.modules)
    from throttled.contrib.flask import Limiter, RateLimitExceededError, get_remote_address
    from throttled.contrib.flask.exceptions import RateLimitExceededError as same
    from throttled.contrib.flask.limiter import KeyFunc
    from throttled.exceptions import LimitedError
    print(same is RateLimitExceededError, issubclass(same, LimitedError))
"""


def test_a_program_written_for_throttled_finds_them_by_the_drop_in(run_python: Any) -> None:
    assert run_python(PROGRAM) == "False\nTrue True\n"


def test_the_drop_in_works_without_flask_and_the_names_say_what_to_install(
    run_python: Any,
) -> None:
    program = """
        import sys
        sys.modules["flask"] = None
        from headway import dropin
        dropin.install("throttled")
        try:
            from throttled.contrib.flask import Limiter
        except ImportError as error:
            print(error)
    """
    assert run_python(program) == (
        'headway.throttled.contrib.flask needs Flask: pip install "headway[flask]"\n'
    )
