"""The Flask extension, against Flask itself: by its test client, and over a server where that
matters.
"""

from __future__ import annotations

import io
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wsgi_servers import SERVERS, get, serving

import headway

flask = pytest.importorskip("flask")

from flask.views import MethodView  # noqa: E402

from headway.contrib.flask import (  # noqa: E402
    Concurrency,
    RateLimit,
    RateLimitExceeded,
    Rule,
    api_key,
    route,
    user,
)
from headway.contrib.wsgi import RateLimitMiddleware  # noqa: E402


@pytest.fixture
def app() -> Any:
    app = flask.Flask("test")

    @app.get("/")
    def index() -> str:
        return "index"

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(iter(["one,", "two"]), mimetype="text/plain")

    @app.get("/file")
    def file() -> Any:
        return flask.send_file(io.BytesIO(b"x" * 100_000), mimetype="image/png")

    @app.get("/broken")
    def broken() -> str:
        raise ValueError("broken")

    return app


def statuses(app: Any, *paths: str, **options: Any) -> list[int]:
    client = app.test_client()
    return [client.get(path, **options).status_code for path in paths]


def test_the_application_is_limited_as_a_whole(app: Any, store: headway.MemoryStore) -> None:
    RateLimit(app, "3/minute", store=store)
    client = app.test_client()
    assert statuses(app, "/", "/stream", "/nothing-here") == [200, 200, 404]
    denied = client.get("/", headers={"accept": "application/json"})
    assert denied.status_code == 429
    assert denied.headers["Retry-After"] == "20"
    assert denied.headers["RateLimit"] == '"default";r=0;t=60'
    assert denied.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert denied.headers["X-RateLimit-Remaining"] == "0"
    assert denied.json["detail"] == "Rate limit exceeded: try again in 20 seconds."


@pytest.mark.parametrize("path", ["/", "/stream", "/file", "/nothing-here"])
def test_a_response_of_any_kind_tells_what_remains(
    app: Any, path: str, store: headway.MemoryStore
) -> None:
    RateLimit(app, "5/minute", store=store)
    with serving(app, "waitress") as port:
        answer = get(port, path)
    assert answer.headers["ratelimit"] == '"default";r=4;t=12'
    assert answer.headers["x-ratelimit-limit"] == "5"


def test_a_response_to_an_error_tells_it_too(app: Any) -> None:
    RateLimit(app, "5/minute")
    answer = app.test_client().get("/broken")
    assert answer.status_code == 500
    assert answer.headers["X-RateLimit-Remaining"] == "4"


def test_the_limits_may_come_from_the_configuration_of_an_application_made_later(
    app: Any, store: headway.MemoryStore
) -> None:
    limits = RateLimit()
    app.config.update(HEADWAY_LIMITS="1/minute", HEADWAY_STORE=store, HEADWAY_HEADERS="x")
    limits.init_app(app)
    assert statuses(app, "/", "/") == [200, 429]
    answer = app.test_client().get("/")
    assert "X-RateLimit-Limit" in answer.headers
    assert "RateLimit" not in answer.headers


def test_one_extension_serves_applications_with_counts_of_their_own() -> None:
    limits = RateLimit(limits="1/minute")
    made = []
    for name in ("one", "two"):
        app = flask.Flask(name)
        app.add_url_rule("/", "index", limits.limit("9/minute")(lambda: "index"))
        limits.init_app(app)
        made.append(app)
    assert [statuses(app, "/", "/") for app in made] == [[200, 429], [200, 429]]


def test_a_view_has_a_limit_of_its_own(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, store=store)

    @app.get("/search/<word>")
    @limits.limit("2/minute")
    def search(word: str) -> str:
        """Search."""
        return word

    @app.get("/other")
    @limits.limit("1/minute")
    def other() -> str:
        return "other"

    assert statuses(app, "/search/a", "/search/b", "/search/c") == [200, 200, 429]
    assert statuses(app, "/other", "/other") == [200, 429]
    denied = app.test_client().get("/search/a")
    assert denied.headers["RateLimit-Policy"] == '"search";q=2;w=60'
    assert search.__doc__ == "Search."


def test_the_limits_of_application_and_view_are_told_together(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, "9/minute", store=store)

    @app.get("/")
    @limits.limit(["2/minute", "5/hour"])
    def index() -> str:
        return "index"

    answer = app.test_client().get("/")
    assert answer.headers["RateLimit"] == '"default";r=8;t=7, "index-1";r=1;t=30'
    assert answer.headers["RateLimit-Policy"] == (
        '"default";q=9;w=60, "index-1";q=2;w=60, "index-2";q=5;w=3600'
    )
    assert answer.headers["X-RateLimit-Limit"] == "2"


def test_a_coroutine_may_be_a_limited_view(store: headway.MemoryStore) -> None:
    pytest.importorskip("asgiref")
    app = flask.Flask("test")
    limits = RateLimit(app, store=store)

    @app.get("/")
    @limits.limit("1/minute")
    async def index() -> str:
        return "index"

    assert statuses(app, "/", "/") == [200, 429]


def test_a_class_of_views_is_limited_by_its_decorators(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, store=store)

    class Items(MethodView):
        decorators = [limits.limit("1/minute")]  # noqa: RUF012

        def get(self) -> str:
            return "items"

    app.add_url_rule("/", view_func=Items.as_view("items"))
    assert statuses(app, "/", "/") == [200, 429]


@pytest.mark.parametrize("how", ["nested", "renamed", "twice"])
def test_a_blueprint_keeps_its_limits_and_exemptions_under_any_name(
    how: str, store: headway.MemoryStore
) -> None:
    limits = RateLimit(limits="4/minute", store=store)
    limited, free = flask.Blueprint("limited", __name__), flask.Blueprint("free", __name__)
    limits.limit("2/minute")(limited)
    limits.exempt(free)
    app = flask.Flask("test")
    limits.init_app(app)
    for blueprint in (limited, free):
        blueprint.add_url_rule("/x", "x", lambda: "x")
        name = blueprint.name
        if how == "nested":
            outer = flask.Blueprint(f"outer-{name}", __name__, url_prefix=f"/{name}")
            outer.register_blueprint(blueprint)
            app.register_blueprint(outer)
        else:
            app.register_blueprint(blueprint, name=f"new-{name}", url_prefix=f"/{name}")
        if how == "twice":
            app.register_blueprint(blueprint, name=f"again-{name}", url_prefix=f"/more/{name}")
    client = app.test_client()
    paths = ["/limited/x"] * 3 if how != "twice" else ["/limited/x", "/more/limited/x"] * 2
    assert [client.get(path).status_code for path in paths][:3] == [200, 200, 429]
    assert {client.get("/free/x").status_code for _ in range(6)} == {200}


def test_a_blueprint_of_the_same_name_elsewhere_is_another(store: headway.MemoryStore) -> None:
    limits = RateLimit(limits="2/minute", store=store)
    app = flask.Flask("test")
    limits.init_app(app)
    free, other = flask.Blueprint("pages", __name__), flask.Blueprint("pages", __name__)
    for blueprint in (free, other):
        blueprint.add_url_rule("/x", "x", lambda: "x")
    limits.exempt(free)
    outer = flask.Blueprint("outer", __name__, url_prefix="/outer")
    outer.register_blueprint(free)
    app.register_blueprint(outer)
    app.register_blueprint(other)
    client = app.test_client()
    assert [client.get("/outer/x").status_code for _ in range(3)] == [200, 200, 200]
    assert [client.get("/x").status_code for _ in range(3)] == [200, 200, 429]


def test_blueprints_of_applications_that_are_gone_leave_no_limits_behind() -> None:
    limits = RateLimit()
    for _ in range(3):
        blueprint = flask.Blueprint("api", __name__)
        blueprint.add_url_rule("/x", "x", lambda: "x")
        limits.limit("2/minute")(blueprint)
        app = flask.Flask("test")
        limits.init_app(app)
        app.register_blueprint(blueprint)
        client = app.test_client()
        assert [client.get("/x").status_code for _ in range(3)] == [200, 200, 429]


def test_a_class_of_views_may_be_exempt(store: headway.MemoryStore) -> None:
    limits = RateLimit(limits="1/minute", store=store)

    @limits.exempt
    class Health(MethodView):
        def get(self) -> str:
            return "ok"

    app = flask.Flask("test")
    limits.init_app(app)
    app.add_url_rule("/health", view_func=Health.as_view("health"))
    client = app.test_client()
    assert [client.get("/health").status_code for _ in range(3)] == [200, 200, 200]


def test_a_blueprint_is_limited_with_its_children_and_may_be_exempt(
    store: headway.MemoryStore,
) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, "4/minute", store=store)
    api, child, static = (flask.Blueprint(name, name) for name in ("api", "child", "pages"))
    api.add_url_rule("/a", "a", lambda: "a")
    child.add_url_rule("/b", "b", lambda: "b")
    static.add_url_rule("/page", "page", lambda: "page")
    api.register_blueprint(child)
    limits.limit("2/minute")(api)
    limits.exempt(static)
    app.register_blueprint(api)
    app.register_blueprint(static)
    assert statuses(app, "/a", "/b", "/a") == [200, 200, 429]
    assert set(statuses(app, *["/page"] * 9)) == {200}


def test_an_exempt_view_is_limited_by_its_own_decorator_alone(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, "1/minute", store=store)

    @app.get("/health")
    @limits.exempt
    def health() -> str:
        return "ok"

    @app.get("/own")
    @limits.exempt
    @limits.limit("2/minute")
    def own() -> str:
        return "own"

    assert set(statuses(app, *["/health"] * 5)) == {200}
    assert statuses(app, "/own", "/own", "/own") == [200, 200, 429]


def test_paths_and_callables_of_the_request_may_be_exempt(app: Any) -> None:
    RateLimit(
        app,
        "1/minute",
        exempt=["/static/*", "/", lambda request: request.headers.get("x-probe") == "1"],
    )
    assert statuses(app, "/", "/") == [200, 200]
    assert statuses(app, "/stream", "/stream", headers={"x-probe": "1"}) == [200, 200]
    assert statuses(app, "/stream", "/stream") == [200, 429]


def test_quota_cost_and_key_may_depend_on_the_request(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app, store=store)

    @app.get("/")
    @limits.limit(
        Rule(
            lambda request: {"free": "2/minute", "paid": "9/minute"}.get(request.args["plan"]),
            cost=lambda request: request.args.get("cost", 1, int),
            key=api_key(),
        )
    )
    def index() -> str:
        return "index"

    def admitted(who: str, query: str) -> int:
        return statuses(app, *[f"/?{query}"] * 10, headers={"x-api-key": who}).count(200)

    assert admitted("ann", "plan=free") == 2
    assert admitted("ben", "plan=paid") == 9
    assert admitted("cid", "plan=paid&cost=3") == 3
    assert admitted("dan", "plan=staff") == 10


def test_the_route_is_its_template_and_the_user_is_flask_logins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app)

    @app.get("/items/<int:number>")
    @limits.limit(Rule("2/minute", key=route()))
    def item(number: int) -> str:
        return str(number)

    @app.get("/mine")
    @limits.limit("1/minute", key=user())
    def mine() -> str:
        return "mine"

    assert statuses(app, "/items/1", "/items/2", "/items/3") == [200, 200, 429]

    class Known:
        is_authenticated = True

        def get_id(self) -> str:
            return str(flask.request.args["as"])

    login = types.ModuleType("flask_login")
    login.current_user = Known()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flask_login", login)
    app.login_manager = object()
    assert statuses(app, "/mine?as=ann", "/mine?as=ben", "/mine?as=ann") == [200, 200, 429]


@pytest.mark.parametrize("caught", [429, RateLimitExceeded, headway.LimitedError], ids=str)
def test_an_error_handler_may_answer_and_the_fields_are_added(app: Any, caught: Any) -> None:
    RateLimit(app, "1/minute")

    @app.errorhandler(caught)
    def slow_down(error: Any) -> Any:
        wait = error.rate_limit_result.state.retry_after
        return f"wait {wait:g}", 429, {"X-Own": "1"}

    client = app.test_client()
    client.get("/")
    denied = client.get("/")
    assert (denied.status_code, denied.text) == (429, "wait 60")
    assert denied.headers["X-Own"] == "1"
    assert denied.headers["Retry-After"] == "60"
    assert denied.headers["X-RateLimit-Remaining"] == "0"


def test_on_limited_may_answer_as_a_view_does(app: Any) -> None:
    RateLimit(app, "1/minute", on_limited=lambda request, verdict: ({"no": verdict.detail}, 420))
    client = app.test_client()
    client.get("/")
    denied = client.get("/")
    assert denied.status_code == 420
    assert denied.json == {"no": "Rate limit exceeded: try again in 60 seconds."}
    assert denied.headers["Retry-After"] == "60"


def test_a_dry_run_denies_nothing_and_is_counted(app: Any) -> None:
    limits = RateLimit(app, "1/minute", dry_run=True)
    assert statuses(app, "/", "/", "/") == [200, 200, 200]
    with app.app_context():
        assert limits.counts() == {"default": {"denied": 0, "dry_run": 2, "unavailable": 0}}


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200), ("raise", 500)])
def test_a_store_that_is_down_is_answered_as_told(app: Any, on_error: str, status: int) -> None:
    RateLimit(app, "1/s", store="redis://127.0.0.1:1/0", on_error=on_error)
    assert statuses(app, "/", "/") == [status, status]


def test_a_permit_is_held_as_long_as_a_response_is_streamed(
    start: Any, eventually: Callable[..., None]
) -> None:
    app = flask.Flask("test")
    limits = RateLimit(app)
    go, running = threading.Event(), threading.Event()

    def lines() -> Iterator[str]:
        yield "one,"
        running.set()
        go.wait(30)
        yield "two"

    @app.get("/")
    @limits.limit(Concurrency(1))
    def stream() -> Any:
        return flask.Response(lines(), mimetype="text/plain")

    with serving(app, "waitress") as port:
        first = start(lambda: get(port))
        assert running.wait(30)
        denied = get(port)
        go.set()
        assert first.result().body == b"one,two"
        eventually(lambda: get(port).status == 200, "the permit is free again")
    assert denied.status == 429


@pytest.mark.parametrize("server", SERVERS)
def test_a_file_that_is_sent_gives_its_permit_back(
    server: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    (tmp_path / "f.txt").write_text("file")
    app = flask.Flask("test")
    limits = RateLimit(app)

    @app.get("/")
    @limits.limit(Concurrency(1))
    def file() -> Any:
        return flask.send_file(tmp_path / "f.txt")

    with serving(app, server) as port:
        for method, body in (("GET", b"file"), ("HEAD", b""), ("GET", b"file")):

            def sent(method: str = method, body: bytes = body) -> bool:
                answer = get(port, method=method)
                return answer.status == 200 and answer.body == body

            eventually(sent, "the permit is free again")


def test_a_view_that_raises_gives_its_permit_back() -> None:
    app = flask.Flask("test")
    limits = RateLimit(app)
    app.testing = True

    @app.get("/")
    @limits.limit(Concurrency(1))
    def broken() -> str:
        raise ValueError("broken")

    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            app.test_client().get("/")


def test_a_middleware_around_flask_tells_the_limits_of_both(store: headway.MemoryStore) -> None:
    app = flask.Flask("test")
    RateLimit(app, Rule("2/minute", name="inner"), store=store)
    app.add_url_rule("/", "index", lambda: "index")
    app.wsgi_app = RateLimitMiddleware(app.wsgi_app, Rule("9/minute", name="outer"), store=store)
    client = app.test_client()
    assert client.get("/").headers["RateLimit"] == '"outer";r=8;t=7, "inner";r=1;t=30'
    client.get("/")
    assert client.get("/").headers.getlist("Retry-After") == ["30"]


def test_requests_that_are_made_in_one_application_context_are_told_of_apart(app: Any) -> None:
    RateLimit(app, "2/minute")
    with app.app_context():
        answers = [app.test_client().get("/") for _ in range(2)]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0"]
    assert answers[1].headers["RateLimit-Policy"] == '"default";q=2;w=60'


def test_mistakes_are_named_when_the_application_is_made() -> None:
    app = flask.Flask("test")
    limits = RateLimit(app)
    with pytest.raises(headway.SetUpError, match="has a RateLimit already"):
        RateLimit(app)
    with pytest.raises(headway.DataError, match="fortnight"):
        limits.limit("1/fortnight")(lambda: "")
    with pytest.raises(TypeError, match="unexpected keyword argument 'qouta'"):
        limits.limit("1/s", qouta="2/s")
    with pytest.raises(TypeError, match="decorates a view or a blueprint, not 5"):
        limits.limit("1/s")(5)  # type: ignore[type-var]
    other = flask.Flask("other")
    other.add_url_rule("/", "index", limits.limit("1/s")(lambda: ""))
    other.testing = True
    with pytest.raises(headway.SetUpError, match=r"'other' has no RateLimit: call init_app"):
        other.test_client().get("/")


def test_without_flask_the_error_says_what_to_install(run_python: Any) -> None:
    program = """
        import sys
        sys.modules["flask"] = None
        try:
            import headway.contrib.flask
        except ImportError as error:
            print(error)
    """
    assert run_python(program) == (
        'headway.contrib.flask needs Flask: pip install "headway[flask]"\n'
    )
