"""The pure ASGI middleware, called as a server calls it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from contrib_stage import Answer, ask, call, closed_port, hello, scope_of, statuses

from headway import MemoryStore
from headway.contrib.asgi import (
    Concurrency,
    RateLimitHeaders,
    RateLimitMiddleware,
    Rule,
    Verdict,
    api_key,
    client_address,
    user,
)
from headway.exceptions import SetUpError, StoreUnavailableError


class TestRequests:
    def test_requests_pass_until_the_quota_is_used_up(self, store: MemoryStore) -> None:
        app = RateLimitMiddleware(hello, "2/m", store=store)
        answers = [ask(app) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].body == b"hello"
        assert answers[0].headers == {
            "content-type": "text/plain",
            "ratelimit-policy": '"default";q=2;w=60',
            "ratelimit": '"default";r=1;t=30',
            "x-ratelimit-limit": "2",
            "x-ratelimit-remaining": "1",
            "x-ratelimit-reset": "30",
        }
        assert answers[2].headers["retry-after"] == "30"
        assert answers[2].headers["content-length"] == str(len(answers[2].body))
        assert answers[2].json["violated-policies"] == ["default"]
        assert answers[2].observed()["default"] == (2, 0)

    def test_another_address_has_a_count_of_its_own(self) -> None:
        app = RateLimitMiddleware(hello, "1/m")
        assert statuses(app, 2) == [200, 429]
        assert statuses(app, 2, client=("192.0.2.2", 1)) == [200, 429]

    def test_a_spoofed_header_opens_no_new_count(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", key=client_address("10.0.0.0/8"))
        found = [ask(app, headers={"x-forwarded-for": f"198.51.100.{n}"}).status for n in range(3)]
        assert found == [200, 429, 429]

    def test_behind_a_proxy_clients_are_told_apart_and_cannot_pretend(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", key=client_address("10.0.0.0/8"))
        proxy = ("10.0.0.1", 9)

        def status(value: str) -> int:
            return ask(app, client=proxy, headers={"x-forwarded-for": value}).status

        assert [status("198.51.100.1"), status("198.51.100.2")] == [200, 200]
        assert [status("6.6.6.6, 198.51.100.1"), status("7.7.7.7, 198.51.100.1")] == [429, 429]

    def test_headers_that_come_twice_are_one_list(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", key=client_address("10.0.0.0/8"))
        name = b"x-forwarded-for"
        for written in (b"1.1.1.1", b"2.2.2.2"):
            scope = scope_of(client=("10.0.0.1", 9))
            scope["headers"] = [(name, written), (name, b"198.51.100.1")]
            answer = asyncio.run(_raw(app, scope))
        assert answer.status == 429

    def test_an_api_key_in_the_query_is_a_key(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", key=api_key(query="token"))
        assert ask(app, query_string=b"token=a").status == 200
        assert ask(app, query_string=b"x=1&token=b").status == 200
        assert ask(app, query_string=b"token=a&x=1").status == 429

    def test_a_user_in_the_scope_is_a_key(self) -> None:
        class Ann:
            is_authenticated = True
            display_name = "ann"

            @property
            def identity(self) -> str:
                raise NotImplementedError

        class Nobody:
            is_authenticated = False

        app = RateLimitMiddleware(hello, "1/m", key=user())
        assert ask(app, user=Ann()).status == 200
        assert ask(app, user=Ann(), client=("192.0.2.7", 1)).status == 429
        assert ask(app, user=Nobody()).status == 200

    def test_a_client_without_an_address_is_limited_with_its_like(self) -> None:
        app = RateLimitMiddleware(hello, "1/m")
        assert statuses(app, 2, client=None) == [200, 429]

    def test_lifespan_goes_through_untouched(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope, receive, send))

        middleware = RateLimitMiddleware(app, "1/m")
        given = ({"type": "lifespan"}, object(), object())
        asyncio.run(middleware(*given))
        assert seen == [given]

    def test_an_exception_of_the_app_passes(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            raise ZeroDivisionError

        scope = scope_of()
        with pytest.raises(ZeroDivisionError):
            asyncio.run(_raw(RateLimitMiddleware(app, "1/m"), scope))
        assert not [name for name in scope if name.startswith("headway")]

    def test_a_stream_is_sent_piece_by_piece_as_it_comes(self) -> None:
        sent: list[str] = []

        async def stream(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for n in range(3):
                sent.append(f"made {n}")
                await send({"type": "http.response.body", "body": b"x", "more_body": n < 2})

        class Seen(list[Any]):
            def append(self, message: Any) -> None:
                sent.append(f"sent {message['type'][14:]}")
                super().append(message)

        async def run() -> None:
            seen = Seen()

            async def send(message: Any) -> None:
                seen.append(message)

            await RateLimitMiddleware(stream, "5/m")(scope_of(), None, send)

        asyncio.run(run())
        assert sent == [
            "sent start",
            *["made 0", "sent body", "made 1", "sent body", "made 2", "sent body"],
        ]

    def test_a_response_without_headers_gets_the_fields_too(self) -> None:
        async def bare(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

        assert ask(RateLimitMiddleware(bare, "5/m")).observed()["default"] == (5, 4)

    def test_the_message_of_the_app_is_not_changed(self) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start)
            await send({"type": "http.response.body"})

        middleware = RateLimitMiddleware(app, "5/m")
        assert [len(ask(middleware).raw) for _ in range(2)] == [6, 6]
        assert start["headers"] == [(b"a", b"b")]

    def test_no_more_than_the_quota_of_400_tasks_get_in(self) -> None:
        app = RateLimitMiddleware(hello, "37/h")

        async def crowd() -> list[Answer]:
            return await asyncio.gather(*(call(app) for _ in range(400)))

        found = [answer.status for answer in asyncio.run(crowd())]
        assert (found.count(200), found.count(429)) == (37, 363)


class TestLayers:
    def test_two_middlewares_are_told_as_one(self, store: MemoryStore) -> None:
        inner = RateLimitMiddleware(hello, Rule("2/m", name="inner"), store=store)
        outer = RateLimitMiddleware(inner, Rule("9/m", name="outer"), store=store)
        first, _, third = (ask(outer) for _ in range(3))
        assert first.headers["ratelimit"] == '"outer";r=8;t=7, "inner";r=1;t=30'
        assert first.headers["x-ratelimit-limit"] == "2"
        assert third.status == 429
        assert third.headers["retry-after"] == "30"
        assert third.observed()["inner"] == (2, 0)

    def test_ratelimitheaders_tells_what_those_within_decide(self, store: MemoryStore) -> None:
        inner = RateLimitMiddleware(hello, "2/m", store=store, headers="none")
        app = RateLimitHeaders(inner, headers="ietf")
        assert ask(app).limits == {
            "ratelimit-policy": '"default";q=2;w=60',
            "ratelimit": '"default";r=1;t=30',
        }

    def test_ratelimitheaders_alone_adds_nothing(self) -> None:
        assert ask(RateLimitHeaders(hello)).limits == {}


class TestOnLimited:
    def test_it_may_answer_with_an_app_of_its_own(self, store: MemoryStore) -> None:
        seen: list[Any] = []

        async def teapot(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 418, "headers": []})
            await send({"type": "http.response.body", "body": b"tea"})

        def on_limited(request: Any, verdict: Verdict) -> Any:
            seen.append((request.path, verdict.denied and verdict.denied.name))
            return teapot

        app = RateLimitMiddleware(hello, "1/m", store=store, on_limited=on_limited)
        answers = [ask(app, "/x") for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 418]
        assert answers[1].headers["retry-after"] == "60"
        assert answers[1].headers["x-ratelimit-remaining"] == "0"
        assert seen == [("/x", "default")]

    def test_none_leaves_the_usual_answer_and_it_may_be_awaited(self) -> None:
        async def on_limited(request: Any, verdict: Verdict) -> None:
            await asyncio.sleep(0)

        app = RateLimitMiddleware(hello, "1/m", on_limited=on_limited)
        assert statuses(app, 2) == [200, 429]

    def test_what_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(SetUpError, match="Invalid on_limited: 5"):
            RateLimitMiddleware(hello, "1/m", on_limited=5)  # type: ignore[arg-type]


class TestModes:
    def test_a_dry_run_changes_no_response(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", dry_run=True)
        answers = [ask(app) for _ in range(3)]
        assert [answer.raw for answer in answers] == [[("content-type", "text/plain")]] * 3
        assert app.policy.counts()["default"]["dry_run"] == 2

    @pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200)])
    def test_a_store_that_is_down(self, on_error: str, status: int) -> None:
        url = f"redis://127.0.0.1:{closed_port()}/0?connect_timeout=0.2"
        app = RateLimitMiddleware(hello, "1/m", store=url, on_error=on_error)
        answer = ask(app)
        assert answer.status == status
        assert answer.headers.get("retry-after") == ("5" if status == 503 else None)
        assert answer.limits == {}

    def test_a_store_that_is_down_may_raise(self) -> None:
        url = f"redis://127.0.0.1:{closed_port()}/0?connect_timeout=0.2"
        with pytest.raises(StoreUnavailableError):
            ask(RateLimitMiddleware(hello, "1/m", store=url, on_error="raise"))

    def test_exempt_paths_are_not_counted_and_not_told(self) -> None:
        app = RateLimitMiddleware(hello, "1/m", exempt="/health")
        assert [ask(app, "/health").limits for _ in range(3)] == [{}] * 3
        assert statuses(app, 2) == [200, 429]


class TestStreams:
    def test_a_permit_is_held_until_the_body_has_ended_and_not_longer(self) -> None:
        async def run() -> tuple[int, bool]:
            go, ended, rest = (asyncio.Event() for _ in range(3))
            entered: asyncio.Queue[None] = asyncio.Queue()

            async def stream(scope: Any, receive: Any, send: Any) -> None:
                entered.put_nowait(None)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await go.wait()
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await send({"type": "http.response.body"})
                ended.set()
                await rest.wait()  # a background task

            app = RateLimitMiddleware(stream, Concurrency(1, paths="/events"))
            first = asyncio.ensure_future(call(app, "/events"))
            await entered.get()
            second = await call(app, "/events")
            go.set()
            await ended.wait()
            third = asyncio.ensure_future(call(app, "/events"))
            came_in = asyncio.ensure_future(entered.get())
            await asyncio.wait({third, came_in}, return_when=asyncio.FIRST_COMPLETED)
            rest.set()
            await asyncio.gather(first, third)
            found = (second.status, came_in.done())
            came_in.cancel()
            return found

        assert asyncio.run(run()) == (429, True)

    def test_bodies_that_other_tasks_send_are_bounded_exactly(self) -> None:
        """As Starlette streams to servers that speak an older version of ASGI."""

        async def run() -> None:
            inside = most = 0

            async def stream(scope: Any, receive: Any, send: Any) -> None:
                nonlocal inside, most
                inside += 1
                most = max(most, inside)

                async def body() -> None:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    await asyncio.sleep(0)
                    nonlocal inside
                    inside -= 1
                    await send({"type": "http.response.body", "body": b"x"})

                await asyncio.gather(asyncio.ensure_future(body()))

            app = RateLimitMiddleware(stream, Concurrency(3))
            for _ in range(50):
                found = await asyncio.gather(*(call(app) for _ in range(10)))
                assert [one.status for one in found].count(200) == 3
            assert most == 3

        asyncio.run(run())

    def test_a_stream_that_is_cancelled_gives_its_permit_back(self) -> None:
        async def run() -> int:
            started = asyncio.Event()
            hold = [True]

            async def stream(scope: Any, receive: Any, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                if hold[0]:
                    started.set()
                    await asyncio.Event().wait()
                await send({"type": "http.response.body"})

            app = RateLimitMiddleware(stream, Concurrency(1))
            first = asyncio.ensure_future(call(app))
            await started.wait()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            hold[0] = False
            return (await call(app)).status

        assert asyncio.run(run()) == 200


async def _raw(app: Any, scope: Any) -> Answer:
    answer = Answer()

    async def send(message: Any) -> None:
        answer.messages.append(message)

    await app(scope, None, send)
    return answer
