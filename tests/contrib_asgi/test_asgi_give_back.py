"""A request that one limit denies costs nothing elsewhere, though each is a policy of its own.

The wide limit stands around, nine a minute; the narrow one, one a minute, is further in. After one
request that both admit and three that the narrow one denies, the wide one has lost one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from contrib_stage import Plain, Socket, ask, hello, statuses
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from headway import MemoryStore
from headway.contrib import Policy, Verdict
from headway.contrib.asgi import RateLimitHeaders
from headway.contrib.asgi import RateLimitMiddleware as PureMiddleware
from headway.contrib.fastapi import RateLimit
from headway.contrib.fastapi import limit as fastapi_limit
from headway.contrib.starlette import RateLimitExceeded, RateLimitMiddleware, Rule, limit
from headway.exceptions import DataError

WIDE, NARROW = Rule("9/m", name="wide"), Rule("1/m", name="narrow")


@pytest.fixture
def wide_left(store: MemoryStore) -> Callable[[], int]:
    """What the wide limit has left, asked without taking anything."""

    def left() -> int:
        free = Policy(Rule("9/m", name="wide", cost=0), store=store).decide(Plain())
        assert free.outcomes[0].result is not None
        return free.outcomes[0].result.state.remaining

    return left


class TestVerdict:
    @pytest.mark.parametrize("using", ["token_bucket", "leaking_bucket", "gcra"])
    def test_a_bucket_gives_back_once_however_often_it_is_asked(
        self, using: str, store: MemoryStore
    ) -> None:
        policy = Policy(Rule("9/m; 20/h", using=using, cost=2), store=store)
        first, second = policy.decide(Plain()), policy.decide(Plain())
        for _ in range(3):
            first.give_back()
        assert first.outcomes == []
        assert second.outcomes[0].result is not None
        assert second.outcomes[0].result.state.remaining == 5
        third = policy.decide(Plain()).outcomes[0].result
        assert third is not None
        assert third.state.remaining == 5

    @pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
    def test_a_window_cannot_and_is_still_told(self, using: str, store: MemoryStore) -> None:
        policy = Policy(Rule("9/h", using=using), store=store)
        verdict = policy.decide(Plain())
        verdict.give_back()
        assert [one.name for one in verdict.outcomes] == ["default"]
        result = policy.decide(Plain()).outcomes[0].result
        assert result is not None
        assert result.state.remaining == 7

    def test_it_may_be_awaited(self, store: MemoryStore, wide_left: Callable[[], int]) -> None:
        async def main() -> None:
            policy = Policy(WIDE, store=store, awaits=True)
            verdict = await policy.decide_async(Plain())
            await policy.decide_async(Plain())
            await verdict.give_back_async()
            await verdict.give_back_async()

        asyncio.run(main())
        assert wide_left() == 8

    @pytest.mark.parametrize("awaits", [False, True])
    def test_of_several_permits_all_are_released_though_one_fails(self, awaits: bool) -> None:
        verdict, released = Verdict("both", "after"), []

        class Permit:
            def __init__(self, number: int) -> None:
                self.number = number

            def __exit__(self, *_: object) -> None:
                released.append(self.number)
                if self.number == 2:
                    raise asyncio.CancelledError

            async def __aexit__(self, *_: object) -> None:
                self.__exit__()

        verdict.permits = [Permit(number) for number in range(4)]
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(verdict.release_async()) if awaits else verdict.release()
        assert released == [3, 2, 1, 0]
        verdict.release()
        assert len(released) == 4

    def test_a_rule_in_a_dry_run_gives_back_too(
        self, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        Policy(WIDE, store=store, dry_run=True).decide(Plain()).give_back()
        assert wide_left() == 9

    @pytest.mark.parametrize("awaits", [False, True])
    def test_a_decision_that_fails_half_way_has_taken_nothing(
        self, awaits: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        rules = [WIDE, Rule("5/m", name="broken", cost=2**70)]
        policy = Policy(rules, store=store, awaits=awaits)
        decide = (lambda: asyncio.run(_decided(policy))) if awaits else _called(policy)
        with pytest.raises(DataError, match="Invalid cost: 1180591620717411303424"):
            decide()
        assert wide_left() == 9


async def _decided(policy: Policy) -> None:
    await policy.decide_async(Plain())


def _called(policy: Policy) -> Callable[[], Any]:
    return lambda: policy.decide(Plain())


class TestPure:
    @pytest.mark.parametrize("headers", ["both", "none"])
    def test_of_two_middlewares_the_outer_one_loses_nothing(
        self, headers: str, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        inner = PureMiddleware(hello, NARROW, store=store)
        app = PureMiddleware(inner, WIDE, store=store, headers=headers)
        assert statuses(app, 4) == [200, 429, 429, 429]
        assert wide_left() == 8

    def test_a_denial_tells_the_limit_that_denies(self, store: MemoryStore) -> None:
        inner = PureMiddleware(hello, NARROW, store=store)
        app = PureMiddleware(inner, WIDE, store=store)
        ask(app)
        assert ask(app).headers["ratelimit"] == '"narrow";r=0;t=60'

    def test_a_window_that_cannot_give_back_is_told_with_what_it_lost(
        self, store: MemoryStore
    ) -> None:
        inner = PureMiddleware(hello, NARROW, store=store)
        app = PureMiddleware(inner, Rule("9/h", name="wide", using="fixed_window"), store=store)
        ask(app)
        told = ask(app).observed()
        assert (told["wide"], told["narrow"]) == ((9, 7), (1, 0))

    def test_the_middleware_of_headers_gives_back_for_those_within(
        self, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        narrow = PureMiddleware(hello, NARROW, store=store)
        app = RateLimitHeaders(PureMiddleware(narrow, WIDE, store=store), headers="none")
        assert statuses(app, 4) == [200, 429, 429, 429]
        assert wide_left() == 8

    @pytest.mark.parametrize("denial", [False, True], ids=["closed", "answered"])
    def test_a_websocket_that_is_denied_costs_nothing(
        self, denial: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        app = PureMiddleware(PureMiddleware(hello, NARROW, store=store), WIDE, store=store)

        async def main() -> None:
            for accepted in (True, False, False):
                async with Socket(app, denial=denial) as client:
                    assert client.accepted == accepted

        asyncio.run(main())
        assert wide_left() == 8

    def test_a_store_that_is_down_further_in_costs_nothing(
        self, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        down = "redis://127.0.0.1:1/0?connect_timeout=0.2&timeout=0.2"
        app = PureMiddleware(PureMiddleware(hello, NARROW, store=down), WIDE, store=store)
        assert statuses(app, 2) == [503, 503]
        assert wide_left() == 9


class TestStarlette:
    @pytest.mark.parametrize("plain", [False, True])
    def test_the_middleware_loses_nothing_where_the_endpoint_denies(
        self, plain: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        app = _starlette(store, plain, [Middleware(RateLimitMiddleware, limits=WIDE, store=store)])
        assert statuses(app, 4, "/items") == [200, 429, 429, 429]
        assert wide_left() == 8

    @pytest.mark.parametrize("plain", [False, True])
    def test_nor_does_a_decorator_around_another(
        self, plain: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        app = _starlette(store, plain, [], limit(WIDE, store=store))
        assert statuses(app, 4, "/items") == [200, 429, 429, 429]
        assert wide_left() == 8

    def test_a_denial_that_an_endpoint_renders_itself_costs_nothing_around_it(
        self, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        @limit(NARROW, store=store)
        async def fresh(request: Request) -> PlainTextResponse:
            return PlainTextResponse("fresh")

        @limit(WIDE, store=store)
        async def items(request: Request) -> PlainTextResponse:
            try:
                return await fresh(request)
            except RateLimitExceeded:
                return PlainTextResponse("calm down", 420)

        app = Starlette(routes=[Route("/", items)])
        assert statuses(app, 4) == [200, 420, 420, 420]
        assert wide_left() == 8

    @pytest.mark.parametrize("middleware", [False, True])
    def test_a_request_that_is_served_all_the_same_has_its_cost(
        self, middleware: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        """Else whoever is denied one thing could have the other without end."""

        @limit(NARROW, store=store)
        async def fresh(request: Request) -> PlainTextResponse:
            return PlainTextResponse("fresh")

        async def items(request: Request) -> PlainTextResponse:
            try:
                return await fresh(request)
            except RateLimitExceeded:
                return PlainTextResponse("kept")

        around: Any = [Middleware(RateLimitMiddleware, limits=WIDE, store=store)]
        endpoint = items if middleware else limit(WIDE, store=store)(items)
        app = Starlette(routes=[Route("/", endpoint)], middleware=around if middleware else [])
        assert [ask(app).body for _ in range(4)] == [b"fresh", b"kept", b"kept", b"kept"]
        assert wide_left() == 5


def _starlette(
    store: MemoryStore, plain: bool, middleware: list[Middleware], around: Any = lambda f: f
) -> Starlette:
    async def awaited(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    def called(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    endpoint = around(limit(NARROW, store=store)(called if plain else awaited))
    return Starlette(routes=[Route("/items", endpoint)], middleware=middleware)


class TestFastAPI:
    @pytest.mark.parametrize("around", ["middleware", "headers", "nothing"])
    @pytest.mark.parametrize("inner", ["dependency", "decorator"])
    def test_a_dependency_loses_nothing_where_something_further_in_denies(
        self, around: str, inner: str, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        app = FastAPI(dependencies=[Depends(RateLimit(WIDE, store=store))])
        if around == "middleware":
            app.add_middleware(RateLimitMiddleware, limits=Rule("99/m", name="app"), store=store)
        elif around == "headers":
            app.add_middleware(RateLimitHeaders)

        async def items() -> int:
            return 1

        if inner == "decorator":
            app.get("/items")(fastapi_limit(NARROW, store=store)(items))
        else:
            app.get("/items", dependencies=[Depends(RateLimit(NARROW, store=store))])(items)
        answers = [ask(app, "/items") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 429, 429, 429]
        assert answers[3].headers["ratelimit"] == '"narrow";r=0;t=60'
        assert wide_left() == 8

    @pytest.mark.parametrize("middleware", [False, True])
    def test_of_a_websocket_too(
        self, middleware: bool, store: MemoryStore, wide_left: Callable[[], int]
    ) -> None:
        app = FastAPI()
        if middleware:
            app.add_middleware(RateLimitHeaders)
        limits = [Depends(RateLimit(rule, store=store)) for rule in (WIDE, NARROW)]

        @app.websocket("/live", dependencies=limits)
        async def live(websocket: WebSocket) -> None:
            await websocket.accept()
            async for _ in websocket.iter_text():
                pass

        async def main() -> None:
            for accepted in (True, False, False):
                async with Socket(app, "/live") as client:
                    assert client.accepted == accepted

        asyncio.run(main())
        assert wide_left() == 8
