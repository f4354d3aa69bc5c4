"""Calls that a task awaits of a server: what they leave behind, what is done to them under way."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import re
from typing import Any

import pytest
from faults_ask import Ask, ask, store_of
from faults_server import SILENCE, FakeServer, decided

from headway import MemoryStore, RateLimitResult, StoreUnavailableError
from headway.asyncio import Throttled
from headway.store import RedisStore

__all__ = ["ask"]

NOWHERE = "redis://127.0.0.1:1/0"
DEADLINE_S = 30.0


_FIELDS = (
    "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"  # of mallinfo2
)


class _Allocated(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in re.findall(r"\w+", _FIELDS)]


def allocated() -> int:
    """Bytes that malloc has given out; Python's own small objects are not among them."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("needs mallinfo2 of glibc 2.33")
    libc.mallinfo2.restype = _Allocated
    gc.collect()
    return int(libc.mallinfo2().uordblks)


@pytest.mark.parametrize("ends", ["served", "cancelled"])
def test_a_wait_leaves_no_memory_behind(ends: str) -> None:
    """400 bytes a wait were left: the reply that the slot was reserved by."""
    calls = 300

    async def wait(limiter: Throttled) -> None:
        if ends == "served":
            assert await limiter.limit()
            return
        task = asyncio.ensure_future(limiter.limit())
        before = sum(server.requests.values())
        while sum(server.requests.values()) == before:
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)  # by now it mostly sleeps; else it leaves nothing either
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> int:
        store = store_of(server.url, timeout=DEADLINE_S)
        limiter = Throttled("k", using="gcra", quota="100/s burst 1", store=store, timeout=3600)
        for _ in range(100):
            await wait(limiter)
        before = allocated()
        for _ in range(calls):
            await wait(limiter)
        grown = allocated() - before
        store.close()
        return grown

    ahead = 100 if ends == "served" else 60 * 10**6
    with FakeServer(lambda request: decided(1, ahead_us=ahead + 10_000)) as server:
        assert asyncio.run(main()) < 100 * calls


def test_replies_that_make_no_sense_end_their_connection(ask: Ask) -> None:
    """They may be out of step with the requests, and would stay so."""
    with FakeServer(lambda request: b":5\r\n") as server:
        limiter = ask.limiter(store_of(server.url, timeout=DEADLINE_S))
        for number in range(1, 6):
            with pytest.raises(StoreUnavailableError, match="cannot have said"):
                ask.limit(limiter)
            assert server.connections == number


def test_the_loop_goes_on_with_a_new_connection_after_a_reply_that_makes_no_sense(ask: Ask) -> None:
    answers = iter([b":5\r\n"])
    with FakeServer(lambda request: next(answers, None) or decided()) as server:
        limiter = ask.limiter(store_of(server.url, timeout=DEADLINE_S))
        with pytest.raises(StoreUnavailableError):
            ask.limit(limiter)
        assert not ask.limit(limiter).limited
        assert server.connections == 2


def asked(ask: Ask, method: Any) -> Any:
    """What a method of the limiter answers for a key."""
    if ask.as_task:
        return asyncio.run(_awaited(method))
    return method("k")


async def _awaited(method: Any) -> Any:
    return await method("k")


POLICIES: dict[str, Any] = {"allow": "allow", "deny": "deny", "a store": MemoryStore}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("using", ["gcra", "token_bucket", "fixed_window", "sliding_window"])
def test_a_peek_follows_on_error_as_a_decision_does(ask: Ask, policy: str, using: str) -> None:
    on_error = POLICIES[policy]
    store = RedisStore(NOWHERE, on_error=on_error if isinstance(on_error, str) else on_error())
    limiter = ask.limiter(store, using=using, limit=5)
    peeked = asked(ask, limiter.peek)
    assert peeked.limit == 5
    assert peeked.remaining == (0 if policy == "deny" else 5)
    told = asked(ask, limiter.limit)
    assert isinstance(told, RateLimitResult)
    assert told.limited is (policy == "deny")
    assert told.state.remaining == {"allow": 5, "deny": 0, "a store": 4}[policy]
    with pytest.raises(StoreUnavailableError):
        asked(ask, limiter.reset)


@pytest.mark.parametrize("policy", ["allow", "deny"])
def test_on_error_answers_where_it_cannot_be_found_out_who_serves(ask: Ask, policy: str) -> None:
    store = RedisStore("redis+sentinel://127.0.0.1:1/primary/0", on_error=policy)
    limiter = ask.limiter(store)
    assert asked(ask, limiter.limit).limited is (policy == "deny")


@pytest.mark.parametrize("done", ["close", "throw"])
def test_a_call_that_was_ended_as_its_reply_came_is_not_looked_at(done: str) -> None:
    """300 replies come in one packet, and the first one's callback ends all the other calls."""
    count = 300
    waiting: list[Any] = []

    def answer(request: bytes) -> Any:
        waiting.append(request)
        return decided() * count if len(waiting) == count else SILENCE

    async def main() -> list[Any]:
        store = store_of(server.url, timeout=DEADLINE_S)
        limiter = Throttled(using="gcra", quota="1000/s", store=store)
        calls = [limiter.limit(f"k{number}") for number in range(count)]
        first, *waits = [call.send(None) for call in calls]
        over = asyncio.Event()

        def end_all(_: object) -> None:
            for call in calls:
                if done == "close":
                    call.close()
                else:
                    with pytest.raises(KeyError):
                        call.throw(KeyError("thrown"))
            over.set()

        first.add_done_callback(end_all)
        await asyncio.wait_for(over.wait(), DEADLINE_S)
        for wait in waits:
            assert wait._check() is None
        for _ in range(20):
            await asyncio.sleep(0)
        store.close()
        return calls

    with FakeServer(answer) as server:
        calls = asyncio.run(main())
    for call in calls:
        with pytest.raises(RuntimeError, match="already awaited"):
            call.send(None)


@pytest.mark.parametrize("act", ["close", "send", "throw"])
def test_a_log_handler_cannot_end_the_call_that_logs(
    act: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was freed under its user, and went on."""
    refused: list[BaseException] = []
    call: Any = None

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                arguments = {"close": (), "send": (None,), "throw": (KeyError(),)}[act]
                getattr(call, act)(*arguments)
            except BaseException as error:
                refused.append(error)

    async def main() -> Any:
        nonlocal call
        limiter = Throttled(quota="10/s", store=RedisStore(NOWHERE, on_error=MemoryStore()))
        call = limiter.limit("k" * 5000 + "\u20ac")
        return await call

    logger, handler = logging.getLogger("headway.store"), Handler()
    logger.addHandler(handler)
    try:
        assert not asyncio.run(main()).limited
    finally:
        logger.removeHandler(handler)
    assert [type(error) for error in refused] == [ValueError]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_exception_as_a_reply_wakes_its_task_comes_out_and_the_task_goes_on(
    before: bool,
) -> None:
    """The request was given up, and the call crashed when it was resumed."""

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            ours = any(type(one).__name__ == "TaskWait" for one in (callback, *args))
            due, self.armed = self.armed and ours, self.armed and not ours
            if due and before:
                raise KeyboardInterrupt
            handle = super().call_soon(callback, *args, context=context)
            if due:
                raise KeyboardInterrupt
            return handle

    loop = Loop()

    async def main() -> Any:
        store = store_of(server.url, timeout=DEADLINE_S)
        limiter = Throttled(using="gcra", quota="1000/s", store=store)
        await limiter.limit("k")
        loop.armed = True
        result = await asyncio.wait_for(limiter.limit("k"), DEADLINE_S)
        store.close()
        return result

    with FakeServer() as server:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert not loop.run_until_complete(task).limited
    loop.close()
