"""What Starlette and FastAPI route to an endpoint, the rule for the endpoint's path is for."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from contrib_stage import Served, ask, statuses
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from odd_paths import asgi_path, targets
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from headway import SetUpError
from headway.contrib import Policy
from headway.contrib.fastapi import RateLimitMiddleware, Rule

TEMPLATES = (
    "/",
    "/login",
    "/items/{id}",
    "/items/{id:int}/x",
    "/items/{id:float}/{n:uuid}",
    "/users/{name:str}/",
    "/{name}.json",
    "/files/{path:path}",
    "/files/{path:path}/x",
    "/a b/café",
)
NEVER_USED_UP = "1000000/s"


def rules() -> list[Rule]:
    return [Rule(NEVER_USED_UP, name=f"r{n}", paths=path) for n, path in enumerate(TEMPLATES)]


def limited(*rules: Rule) -> list[Middleware]:
    return [Middleware(RateLimitMiddleware, limits=list(rules))]


def endpoint(number: int) -> Any:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"r{number}")

    return answer


def routes() -> list[Route]:
    return [Route(path, endpoint(n)) for n, path in enumerate(TEMPLATES)]


def starlette_app() -> Any:
    return Starlette(routes=routes(), middleware=limited(*rules()))


def fastapi_app() -> Any:
    app = FastAPI(middleware=limited(*rules()))
    for number, path in enumerate(TEMPLATES):
        app.add_route(path, endpoint(number))
    return app


def mounted_app() -> Any:
    return Starlette(routes=[Mount("/api", starlette_app())])


@pytest.mark.parametrize("make", [starlette_app, fastapi_app, mounted_app])
@given(targets, st.sampled_from(["", "/api"]), st.booleans())
@example(["/login%0A", "/files/a/b", "/files/", "/x.json%0A", "/items/7/x%0A"], "", True)
@example(["/login", "/login%0A", "/"], "/api", True)
@example(["/login"], "/api", False)
def test_a_path_that_reaches_an_endpoint_is_matched_by_the_rule_of_its_template(
    make: Any, found: list[str], root_path: str, in_path: bool
) -> None:
    """in_path: whether the server puts the root path before the path, as uvicorn does it."""
    app = make()
    prefix = "/api" if make is mounted_app else ""
    for target in found:
        path = prefix + asgi_path(target)
        if in_path:
            path = root_path + path
        answer = ask(app, path, root_path=root_path)
        if answer.status == 200:
            assert answer.body.decode() in answer.observed(), path


def test_a_trailing_newline_does_not_lead_past_a_rule_on_a_real_server() -> None:
    app = Starlette(
        routes=[Route("/login", endpoint(0), methods=["POST"])],
        middleware=limited(Rule("2/h", paths="/login")),
    )
    for http in ("httptools", "h11"):
        with Served(app, http=http) as server:
            assert [raw(server.port, "/login%0A") for _ in range(2)] == [200, 200]
            assert [raw(server.port, "/login") for _ in range(2)] == [429, 429]
            assert raw(server.port, f"http://127.0.0.1:{server.port}/login") in (404, 429)
        app.middleware_stack = None  # a middleware of its own for the next server


def raw(port: int, target: str, method: str = "POST") -> int:
    """The status of a request whose target is sent as it is."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.makefile("rb").readline().split()[1])


class TestRootPaths:
    @pytest.mark.parametrize("root_path", ["", "/api", "/api/v1"])
    def test_rules_and_exemptions_hold_under_a_root_path_of_the_server(
        self, root_path: str
    ) -> None:
        app = Starlette(
            routes=[Route("/login", endpoint(0)), Route("/health", endpoint(1))],
            middleware=limited(
                Rule("1/h", name="login", paths="/login"),
                Rule("2/h", name="rest", exempt=["/login", "/health"]),
            ),
        )
        with Served(app, root_path=root_path) as server:
            assert [raw(server.port, "/login", "GET") for _ in range(2)] == [200, 429]
            assert [raw(server.port, "/health", "GET") for _ in range(3)] == [200, 200, 200]

    @pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
    def test_both_paths_of_an_app_with_a_root_path_share_a_count(self) -> None:
        app = FastAPI(root_path="/api", middleware=limited(Rule("2/h", paths="/login")))
        app.add_route("/login", endpoint(0))
        found = [ask(app, path).status for path in ("/login", "/api/login", "/login")]
        assert found == [200, 200, 429]

    def test_a_prefix_that_only_begins_like_the_root_path_is_none(self) -> None:
        app = Starlette(
            routes=[Route("/apiary", endpoint(0))],
            middleware=limited(Rule("1/h", paths="/apiary")),
        )
        assert [ask(app, "/apiary", root_path="/api").status for _ in range(2)] == [200, 429]

    def test_a_mounted_app_has_rules_for_its_paths_and_the_outer_one_for_whole_paths(self) -> None:
        inner = Starlette(
            routes=[Route("/items", endpoint(0)), Route("/other", endpoint(0))],
            middleware=limited(Rule("1/h", name="inner", paths="/items")),
        )
        app = Starlette(
            routes=[Mount("/api", inner)],
            middleware=limited(Rule("1/h", name="outer", paths="/api/other")),
        )
        assert statuses(app, 2, "/api/items") == [200, 429]
        assert statuses(app, 2, "/api/other") == [200, 429]

    def test_a_sub_application_of_fastapi_has_rules_for_its_paths(self) -> None:
        inner = FastAPI(middleware=limited(Rule("1/h", paths="/items")))
        inner.add_route("/items", endpoint(0))
        app = FastAPI()
        app.mount("/api", inner)
        assert statuses(app, 2, "/api/items") == [200, 429]


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "path", "other"),
        [
            ("/files/{p:path}", "/files/a/b", "/file"),
            ("/files/{tail:.*}", "/files/a/b", "/file"),
            ("/files/<path:p>", "/files/a/b", "/file"),
            ("/items/{id:int}", "/items/7", "/items/7/8"),
            ("/items/<id>", "/items/7", "/items/7/8"),
            ("/items/<int(min=1):id>/x", "/items/7/x", "/items/7"),
            ("/items/<any(a, b):id>", "/items/a", "/items/a/b"),
        ],
    )
    def test_converters_of_all_frameworks_are_understood(
        self, template: str, path: str, other: str
    ) -> None:
        policy = Policy(Rule("1/h", paths=template))
        assert policy.applying("GET", path)
        assert not policy.applying("GET", other)

    @pytest.mark.parametrize(
        "template", ["/x/{n:hex}", "/x/<hex:n>", r"/x/{n:\d{3}}", "/x/{n", "/x/n}", "/x/<n"]
    )
    @pytest.mark.parametrize("argument", ["paths", "exempt"])
    def test_a_template_that_is_not_understood_is_refused(
        self, template: str, argument: str
    ) -> None:
        with pytest.raises(SetUpError, match=f"Invalid {argument}: "):
            Rule("1/h", **{argument: template})


def test_an_exempt_path_with_a_newline_is_exempt_only_where_both_readings_are() -> None:
    policy = Policy(Rule("1/h", exempt=["/health", "/static/*"]))
    found = [bool(policy.applying("GET", p)) for p in ("/health", "/health\n", "/static/a\n")]
    assert found == [False, True, False]


def test_a_method_in_small_letters_is_the_same_method() -> None:
    app = RateLimitMiddleware(
        Starlette(routes=[Route("/", endpoint(0))]), Rule("1/h", methods="POST")
    )
    assert [ask(app, "/", method).status for method in ("post", "POST")] == [405, 429]
