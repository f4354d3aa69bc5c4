"""headway.choked behind a service: which is chosen, how it waits, and what is never sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from certificates import Certificates
from service_help import ALICE, ServiceProcess, call, until

from headway.choked import Choked, choked, settle
from headway.choked.service import Service
from headway.exceptions import DataError, LimitedError, SetUpError, StoreUnavailableError


@pytest.fixture(autouse=True)
def environment(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOKED_API_URL", service.url)
    monkeypatch.setenv("CHOKED_API_TOKEN", ALICE)
    monkeypatch.delenv("REDIS_URL", raising=False)


def seen(service: ServiceProcess, key: str) -> Any:
    return service.get("/v1/keys", ALICE, search=key).json["keys"][0]


class TestChoosing:
    def test_a_token_in_the_environment_goes_before_redis_url(
        self, service: ServiceProcess, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

        @choked(key=key, max_tokens=10, refill_period=60)
        def call() -> int:
            return 7

        assert call() == 7
        row = seen(service, key)
        assert (row["quota"], row["admitted"]) == ("10/m", 1)

    def test_a_url_of_redis_that_is_given_goes_before_the_token(
        self, service: ServiceProcess, key: str
    ) -> None:
        @Choked(redis_url="memory://")(key=key, request_limit="10/m")
        def call() -> None: ...

        call()
        assert service.get("/v1/keys", ALICE, search=key).json["total"] == 0

    @pytest.mark.parametrize(
        "url",
        ["ftp://x", "127.0.0.1:8787", "http://", "http://u:p@x", "http://x/?a=b", "http://x:y"],
    )
    def test_a_url_that_is_none_is_named(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHOKED_API_URL", url)
        with pytest.raises(SetUpError, match="CHOKED_API_URL") as caught:
            Choked()
        assert "u:p" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "http://user:s3cret@host:99999/",
            "http://user:s3cret@[::1",
            "http://user:s3cret",
            "http://user:s3/cret@host",
            "http://user:x?s3cret@host",
            "http://host/?token=s3cret",
            "http://host/#s3cret",
            "user:s3cret@host",
            "ftp://:s3cret@host",
        ],
    )
    def test_no_secret_of_a_url_is_quoted(self, url: str) -> None:
        with pytest.raises(SetUpError, match="CHOKED_API_URL") as caught:
            Service("token", url)
        assert "s3" not in str(caught.value)
        assert "s3" not in repr(caught.value.__cause__)

    def test_several_rules_are_refused(self, key: str) -> None:
        with pytest.raises(ValueError, match="one rule"):

            @Choked()(key=key, request_limit="1/s; 5/m")
            def call() -> None: ...


class TestFunctionsOfEveryKind:
    def test_they_stay_what_they_are_and_are_limited(
        self, service: ServiceProcess, key: str
    ) -> None:
        limit = choked(key=key, max_tokens=10, refill_period=3600)

        @limit
        def plain(x: int) -> int:
            """Its words."""
            return x

        @limit
        async def coroutine(x: int) -> int:
            return x

        @limit
        def generator(x: int) -> Iterator[int]:
            yield x

        @limit
        async def async_generator(x: int) -> Any:
            yield x

        class Class:
            @limit
            def method(self, x: int) -> int:
                return x

            @limit
            @classmethod
            def of_class(cls, x: int) -> int:
                return x

            @limit
            @staticmethod
            def static(x: int) -> int:
                return x

        async def main() -> list[int]:
            return [await coroutine(2), *[x async for x in async_generator(4)]]

        assert plain.__doc__ == "Its words."
        assert asyncio.iscoroutinefunction(coroutine)
        assert [plain(1), *generator(3), Class().method(5), Class.of_class(6), Class.static(7)] == [
            *(1, 3, 5, 6, 7)
        ]
        assert asyncio.run(main()) == [2, 4]
        assert seen(service, key)["admitted"] == 7


class TestWaiting:
    def test_a_thread_waits_until_its_turn(self, key: str) -> None:
        @choked(key=key, max_tokens=1, refill_period=0.5)
        def call() -> float:
            return time.monotonic()

        since = time.monotonic()
        for number, instant in enumerate([call() for _ in range(4)]):
            assert instant >= since + number * 0.5 - 0.01

    def test_tasks_wait_without_holding_up_their_loop(self, key: str) -> None:
        @choked(key=key, max_tokens=1, refill_period=0.2)
        async def call() -> None: ...

        async def main() -> tuple[float, int]:
            turns, started = 0, time.monotonic()
            tasks = [asyncio.ensure_future(call()) for _ in range(6)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0.001)
                turns += 1
            await asyncio.gather(*tasks)
            return time.monotonic() - started, turns

        seconds, turns = asyncio.run(main())
        assert seconds > 0.95
        assert turns > 20  # were the loop held up by each call, there were a handful

    def test_a_task_that_is_cancelled_leaves_its_place(
        self, service: ServiceProcess, key: str
    ) -> None:
        @choked(key=key, max_tokens=1, refill_period=9)
        async def call() -> None: ...

        async def main() -> None:
            await call()
            task = asyncio.ensure_future(call())
            while not seen(service, key)["waiting"]:
                await asyncio.sleep(0.02)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 8

        asyncio.run(main())
        until(lambda: not seen(service, key)["waiting"], "nobody waits")
        assert seen(service, key)["admitted"] == 1

    def test_tasks_of_trio_wait_too(self, key: str) -> None:
        trio = pytest.importorskip("trio")

        @choked(key=key, max_tokens=1, refill_period=0.3)
        async def call() -> float:
            return time.monotonic()

        async def main() -> list[float]:
            return [await call() for _ in range(3)]

        since = time.monotonic()
        times = trio.run(main)
        assert times[-1] - since >= 0.6 - 0.01

    def test_a_wait_that_is_longer_than_the_service_keeps_anybody_is_slept_here(self) -> None:
        from headway.choked.remote import _pause
        from headway.choked.service import Told

        assert _pause(Told(False, 3600.0), 0) == 3595.0
        assert _pause(Told(False, 0.25), 0) == 0.25
        assert [_pause(Told(False, None), n) for n in (0, 1, 9)] == [1, 2, 30]

    def test_functions_that_wait_hold_up_no_other_function(self, key: str) -> None:
        """Forty functions with eight callers each that wait, and one with all its quota."""

        def limited(name: str, limit: str) -> Callable[[], Any]:
            async def call() -> None: ...

            decorated: Any = Choked()(key=f"{key}-{name}", request_limit=limit)(call)
            return decorated  # type: ignore[no-any-return]

        async def main() -> None:
            busy = [limited(str(number), "1/s") for number in range(40)]
            free = limited("free", "1000/s")
            await asyncio.gather(*[call() for call in busy])
            waiting = [asyncio.ensure_future(call()) for call in busy for _ in range(8)]
            await asyncio.sleep(0.5)
            # In the threads that those hold it would wait for more than ten seconds.
            await asyncio.wait_for(free(), 6)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        asyncio.run(main())

    def test_more_functions_than_may_be_kept_all_have_their_turn(self, key: str) -> None:
        async def main() -> None:
            calls: list[Any] = []
            for number in range(60):

                async def call() -> None: ...

                choke: Any = Choked()
                calls.append(choke(key=f"{key}-{number}", request_limit="1/2s")(call))
            await asyncio.gather(*[call() for call in calls])
            await asyncio.wait_for(asyncio.gather(*[call() for call in calls]), 60)

        asyncio.run(main())


class TestTokens:
    def test_both_limits_hold_and_a_call_is_settled(
        self, service: ServiceProcess, key: str
    ) -> None:
        @Choked()(key=key, request_limit="10/h", token_limit="100/h", token_estimator=lambda n: n)
        def call(n: int) -> None: ...

        def left() -> int:
            question = {"key": key, "quota": "10/h; 100/h", "using": "gcra"}
            return int(service.post("/v1/peek", question, ALICE).json["remaining"])

        call(95)
        assert left() == 5
        settle(40)
        assert left() == 9  # calls are the tighter limit again
        call(60)
        call.settle(61)  # type: ignore[attr-defined]
        assert left() == 0

    def test_a_call_that_can_never_fit_raises_at_once(self, key: str) -> None:
        @Choked()(key=key, token_limit="100/h", token_estimator=lambda n: n)
        def call(n: int) -> None: ...

        with pytest.raises(LimitedError, match="100"):
            call(101)


class TestErrors:
    def test_a_token_that_is_refused_is_said_and_not_shown(self, key: str) -> None:
        secret = "some-wrong-token-1"

        @Choked(api_token=secret)(key=key, request_limit="1/s")
        def call() -> None: ...

        with pytest.raises(SetUpError, match="CHOKED_API_TOKEN") as caught:
            call()
        assert secret not in str(caught.value)

    def test_nobody_there_is_an_error_that_was_not_counted(self, key: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        service = Service("token", f"http://127.0.0.1:{port}")
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{port}") as caught:
            service.acquire({"key": key})
        assert not caught.value.may_have_counted

    def test_what_the_service_refuses_is_said_in_its_words(
        self, service: ServiceProcess, key: str
    ) -> None:
        with pytest.raises(DataError, match="request_capacity"):
            Service(ALICE, service.url).acquire({"key": key, "request_capacity": -1})


def test_it_is_asked_over_tls_where_its_certificate_is_trusted(
    certificates: Certificates, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = certificates.server
    options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    with ServiceProcess(*options, tokens=[f"alice:{ALICE}"]) as secure:
        with pytest.raises(StoreUnavailableError, match="certificate") as caught:
            Service(ALICE, secure.url).acquire({"key": key})
        assert not caught.value.may_have_counted
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        service = Service(ALICE, secure.url)
        assert service.acquire({"key": key}).admitted
        assert service.acquire({"key": key}).admitted


class Scripted:
    """A service that does as it is told: for each request a list of bytes to send, None to hang
    up without a word. It notes what it was sent.
    """

    def __init__(self, *acts: bytes | None, delay: float = 0.0) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._acts, self._delay = list(acts), delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with sock:
                while self._acts:
                    data = b""
                    while b"\r\n\r\n" not in data:
                        part = sock.recv(65536)
                        if not part:
                            break
                        data += part
                    if not data:
                        break
                    self.requests.append(data)
                    act = self._acts.pop(0)
                    if act is None:
                        break
                    sock.sendall(act.removesuffix(HALF))
                    if act.endswith(HALF):
                        break

    def close(self) -> None:
        self._listener.close()


HALF = b" and no more"
"""At the end of an act: then it hangs up."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
NAMED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nHeadway-Instance: it\r\n\r\n{}"


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(*acts: bytes | None) -> Scripted:
        made.append(Scripted(*acts))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ids(place: Scripted) -> list[bytes]:
    return [
        line.partition(b": ")[2]
        for request in place.requests
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"idempotency-key")
    ]


class TestSendingAgain:
    def test_one_connection_serves_many_requests(self, scripted: Callable[..., Scripted]) -> None:
        place = scripted(OK, OK, OK)
        service = Service("token", place.url)
        for _ in range(3):
            assert service.acquire({"key": "k"}).admitted
        assert place.connections == 1
        assert len(set(ids(place))) == 3

    def test_a_request_on_a_connection_that_had_died_goes_out_again_with_its_id(
        self, scripted: Callable[..., Scripted]
    ) -> None:
        place = scripted(NAMED, None, NAMED)
        service = Service("token", place.url)
        assert service.acquire({"key": "k"}).admitted
        assert service.acquire({"key": "k"}).admitted
        first, second, third = ids(place)
        assert second == third != first
        assert b"Headway-Instance" not in place.requests[1]
        assert b"\r\nHeadway-Instance: it\r\n" in place.requests[2]

    def test_a_service_that_does_not_name_itself_is_not_asked_again(
        self, scripted: Callable[..., Scripted]
    ) -> None:
        place = scripted(OK, None, OK)
        service = Service("token", place.url)
        assert service.acquire({"key": "k"}).admitted
        with pytest.raises(StoreUnavailableError) as caught:
            service.acquire({"key": "k"})
        assert caught.value.may_have_counted
        assert len(place.requests) == 2

    def test_another_process_does_not_charge_what_the_first_was_asked(
        self, service: ServiceProcess, key: str
    ) -> None:
        place = Service(ALICE, service.url)
        assert place.acquire(call(key)).admitted
        (_, (_, instance)) = place._idle[0]
        assert instance
        place._headers["Headway-Instance"] = "another"
        with pytest.raises(StoreUnavailableError, match="409") as caught:
            place.acquire(call(key))
        assert caught.value.may_have_counted
        assert seen(service, key)["admitted"] == 1

    def test_a_request_that_was_delivered_is_not_sent_again(
        self, scripted: Callable[..., Scripted]
    ) -> None:
        place = scripted(None, OK)
        with pytest.raises(StoreUnavailableError) as caught:
            Service("token", place.url).acquire({"key": "k"})
        assert caught.value.may_have_counted
        assert len(place.requests) == 1

    def test_half_an_answer_is_not_asked_for_again(self, scripted: Callable[..., Scripted]) -> None:
        place = scripted(OK, b"HTTP/1.1 2" + HALF, OK)
        service = Service("token", place.url)
        assert service.acquire({"key": "k"}).admitted
        with pytest.raises(StoreUnavailableError):
            service.acquire({"key": "k"})
        assert len(place.requests) == 2

    def test_who_gives_no_answer_is_given_up_and_not_asked_again(
        self, scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headway.choked.service._TIMEOUT_S", 0.3)
        place = scripted(b"", OK)
        with pytest.raises(StoreUnavailableError, match="timeout") as caught:
            Service("token", place.url).acquire({"key": "k"})
        assert caught.value.may_have_counted
        assert len(place.requests) == 1

    @pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n"])
    def test_an_answer_that_drips_is_given_up(
        self, start: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each byte comes in time; the answer does not."""
        monkeypatch.setattr("headway.choked.service._TIMEOUT_S", 0.5)
        over = threading.Event()

        def drip() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                sock.recv(65536)
                sock.sendall(start)
                for number in range(200):
                    sock.sendall(b"X-%d: y\r\n" % number if start else b"HTTP/1.1 200 OK"[:1])
                    if over.wait(0.1):
                        return

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=drip)
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                Service("token", url).acquire({"key": "k"})
            assert time.monotonic() - started < 10  # of the twenty that it drips
            assert caught.value.may_have_counted
            over.set()
            thread.join(20)

    def test_a_200_that_says_limited_admits_nobody(self, scripted: Callable[..., Scripted]) -> None:
        body = b'{"limited": true}'
        head = b"HTTP/1.1 200 OK\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n" % len(body)
        told = Service("token", scripted(head + body).url).acquire({"key": "k"})
        assert told == (False, 3.0)

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            (b"Retry-After: 7\r\n", 7.0),
            (b"Retry-After: 7\r\nRetry-After-Ms: 6250\r\n", 6.25),
            (b"", None),
            (b"Retry-After: soon\r\n", None),
            (b"Retry-After: -1\r\n", None),
            (b"Retry-After: inf\r\n", None),
        ],
    )
    def test_a_denial_is_read(
        self, scripted: Callable[..., Scripted], headers: bytes, seconds: float | None
    ) -> None:
        place = scripted(b"HTTP/1.1 429 No\r\nContent-Length: 0\r\n" + headers + b"\r\n")
        told = Service("token", place.url).acquire({"key": "k"})
        assert told == (False, seconds)

    def test_who_is_told_to_come_back_at_once_takes_a_breath(
        self, scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at_once = b"HTTP/1.1 429 No\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n"
        place = scripted(*[at_once] * 10, OK)
        monkeypatch.setenv("CHOKED_API_URL", place.url)
        limited = Choked(api_token="token")(key="k", request_limit="10/s")(lambda: None)
        start = time.monotonic()
        limited()
        assert time.monotonic() - start >= 0.1
        assert len(place.requests) == 11

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 301 No\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n<htm>",
            b"garbage\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\nX" + b"y" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nlogin",
        ],
    )
    def test_what_is_no_answer_is_an_error(
        self, scripted: Callable[..., Scripted], answer: bytes
    ) -> None:
        with pytest.raises(StoreUnavailableError):
            Service("token", scripted(answer).url).acquire({"key": "k"})


def test_a_forks_child_has_connections_of_its_own(service: ServiceProcess, key: str) -> None:
    @choked(key=key, max_tokens=10, refill_period=3600)
    def call() -> None: ...

    call()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            os._exit(status)
    call()
    assert os.waitpid(child, 0)[1] == 0
    assert seen(service, key)["admitted"] == 3


def test_a_service_that_stops_and_comes_back_is_asked_again(key: str) -> None:
    with ServiceProcess(tokens=[f"alice:{ALICE}"]) as first:
        service = Service(ALICE, first.url)
        assert service.acquire({"key": key}).admitted
        first.stop()
        with pytest.raises(StoreUnavailableError):
            service.acquire({"key": key})
        port = str(first.address[1])
        with ServiceProcess("--listen", f"127.0.0.1:{port}", tokens=[f"alice:{ALICE}"]):
            assert service.acquire({"key": key}).admitted
