"""A store of one's own: one operation, which compares and swaps, and every family can use it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from headway import AtomicStore, MemoryStore, Throttled, VirtualClock
from headway.algorithms import expires_ns, step
from headway.asyncio import Throttled as AsyncThrottled
from headway.choked import Choked
from headway.exceptions import SetUpError
from headway.limiters import SyncTokenBucket
from headway.store import BaseStore
from reference.strategies import USINGS

_A = TypeVar("_A")


class Swapping(AtomicStore):
    """Compares and swaps; somebody may come between reading and writing."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = clock
        self.values: dict[bytes, bytes] = {}
        self.threads: set[int] = set()
        self.between: Callable[[], None] = lambda: None
        self._guard = threading.Lock()

    def update(self, key: bytes, step: Callable[[bytes | None], tuple[bytes | None, _A]]) -> _A:
        self.threads.add(threading.get_ident())
        while True:
            old = self.values.get(key)
            new, answer = step(old)
            self.between()
            with self._guard:
                if self.values.get(key) is old:
                    if new is None:
                        self.values.pop(key, None)
                    else:
                        self.values[key] = new
                    return answer


class Broken(AtomicStore):
    def update(self, key: bytes, step: Any) -> Any:
        raise ConnectionError("nobody there")


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("quota", ["3/s", "3/s; 5/m; 9/m"])
def test_it_decides_as_memory_does(using: str, quota: str, clock: VirtualClock) -> None:
    own = Throttled(using=using, quota=quota, store=Swapping(clock))
    memory = Throttled(using=using, quota=quota, store=MemoryStore(clock=clock))
    for number in range(60):
        cost = number % 3
        assert own.limit("key", cost) == memory.limit("key", cost)
        assert own.peek("key") == memory.peek("key")
        clock.advance(ns=number * 37_000_001)
    own.reset("key")
    assert own.peek("key").remaining == 3


def test_all_rules_are_one_value_of_the_pure_step(clock: VirtualClock) -> None:
    store = Swapping(clock)
    Throttled(using="gcra", quota="3/s; 5/m", store=store).limit("key")
    name = b"headway:v1:gcra:{key}:1000000us#0:60000000us#0"
    state, _ = step(None, "3/s; 5/m", 1, clock.now_ns, using="gcra")
    assert store.values == {name: state}
    assert expires_ns(state) == clock.now_ns + 12 * 10**9


def test_who_comes_between_makes_it_decide_again(clock: VirtualClock) -> None:
    store = Swapping(clock)
    limiter = Throttled(quota="2/h", store=store)

    def between() -> None:
        store.between = lambda: None
        assert limiter.limit("key", 2)

    limiter.limit("key", 0)
    store.between = between
    assert not limiter.limit("key")


@pytest.mark.parametrize("using", USINGS)
def test_threads_admit_exactly_the_quota(using: str, start: Any) -> None:
    limiter = Throttled("key", using=using, quota="60/1000h", store=Swapping())
    workers = [start(lambda: sum(bool(limiter.limit()) for _ in range(20))) for _ in range(6)]
    assert sum(worker.result() for worker in workers) == 60


def test_in_an_event_loop_a_thread_asks_it() -> None:
    store = Swapping()
    limiter = AsyncThrottled("key", quota="3/h", store=store)

    async def main() -> list[bool]:
        return [bool(result) for result in await asyncio.gather(*(limiter.limit() for _ in "1234"))]

    assert sorted(asyncio.run(main())) == [False, True, True, True]
    assert threading.get_ident() not in store.threads


def test_the_other_families_take_it(clock: VirtualClock) -> None:
    store = Swapping(clock)
    with SyncTokenBucket("bucket", 2, 3600, 1, connection=store):
        pass
    limits = Choked(redis_url=store)  # type: ignore[arg-type]

    @limits(key="both", request_limit="5/h", token_limit="50/h", token_estimator=lambda: 10)
    def call() -> None:
        pass

    call()
    call.settle(30)  # type: ignore[attr-defined]
    assert call.limiter.peek("both").remaining == 4  # type: ignore[attr-defined]
    assert len(store.values) == 2


def test_it_is_a_store_of_its_own_kind() -> None:
    store = Swapping()
    assert isinstance(store, BaseStore)
    assert store.TYPE == "custom"
    assert Throttled(store=store).store is store
    with pytest.raises(TypeError, match="update"):
        AtomicStore()  # type: ignore[abstract]


def test_what_update_raises_the_limiter_raises() -> None:
    limiter = Throttled("key", store=Broken())
    for call in (limiter.limit, limiter.peek, limiter.reset, lambda: limiter.limit(timeout=5)):
        with pytest.raises(ConnectionError, match="nobody there"):
            call()
    patient = AsyncThrottled("key", store=Broken(), timeout=5)

    async def main() -> None:
        with pytest.raises(ConnectionError, match="nobody there"):
            await patient.limit()

    asyncio.run(main())


def test_a_clock_that_is_none_is_refused() -> None:
    store = Swapping()
    store.clock = 3  # type: ignore[assignment]
    with pytest.raises(SetUpError, match="Invalid clock: 3"):
        Throttled("key", store=store).limit()


def test_a_store_that_mixes_up_its_keys_is_told_so() -> None:
    class Odd(Swapping):
        def update(self, key: bytes, step: Any) -> Any:
            return step((None, None, None))

    with pytest.raises(TypeError, match="takes 1 values"):
        Throttled("key", store=Odd()).limit()


class Forgetful(AtomicStore):
    """Never calls the step that it is given."""

    def update(self, key: bytes, step: Any) -> Any:
        return None


def test_a_store_that_never_takes_the_step_admits_nothing_and_says_so() -> None:
    throttle = Throttled(quota="1/h", store=Forgetful())
    from_asyncio = AsyncThrottled(quota="1/h", store=Forgetful())
    said = r"Forgetful\.update\(\) returned without having called the step"
    for call in (
        lambda: throttle.limit("key"),
        lambda: throttle.limit("key", timeout=0.01),
        lambda: throttle.peek("key"),
        lambda: throttle.reset("key"),
        lambda: throttle._settle("key", 0, 1),
        lambda: asyncio.run(_awaited(from_asyncio.limit("key"))),
        lambda: asyncio.run(_awaited(from_asyncio.limit("key", timeout=0.01))),
        lambda: asyncio.run(_awaited(from_asyncio.peek("key"))),
        lambda: asyncio.run(_awaited(from_asyncio.reset("key"))),
    ):
        with pytest.raises(TypeError, match=said):
            call()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
