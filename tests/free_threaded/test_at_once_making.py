"""What the first thread makes that needs it is made once, though others need it at that instant."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from headway import MemoryStore, Throttled, VirtualClock, parse_quota, per_sec

THREADS = 8
MAKERS = 4
"""Threads that walk through one list of stores, as fast as each other."""
ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")


def test_prefixes_that_are_made_at_once_do_not_share_their_counts(crowd: Any, rounds: Any) -> None:
    stores = [MemoryStore() for _ in range(rounds(20_000))]

    def make(number: int) -> list[Throttled]:
        return [Throttled(quota="2/3650d", store=s, key_prefix=f"p{number}") for s in stores]

    for limiters in zip(*crowd(make, MAKERS), strict=True):
        assert [sum(bool(t.limit("k")) for _ in range(3)) for t in limiters] == [2] * MAKERS


def test_limiters_of_one_prefix_that_are_made_at_once_share_their_counts(
    crowd: Any, rounds: Any
) -> None:
    stores = [MemoryStore() for _ in range(rounds(5000))]

    def make(_: int) -> list[Throttled]:
        return [Throttled(quota="2/3650d; 3/3000d", store=s, key_prefix="p") for s in stores]

    for limiters in zip(*crowd(make, MAKERS), strict=True):
        assert sum(bool(t.limit("k")) for t in limiters) == 2


FIRST_LIMITERS = """
    import threading
    from headway import Throttled
    from headway.asyncio import Throttled as AsyncThrottled
    begin, stores, admitted = threading.Barrier(8), [], []
    def work(number):
        begin.wait()
        made = (AsyncThrottled if number % 2 else Throttled)("k", quota="100/3650d")
        stores.append(made.store)
        if number % 2 == 0:
            admitted.append(sum(bool(made.limit()) for _ in range(50)))
    crowd = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [thread.start() for thread in crowd]
    [thread.join() for thread in crowd]
    print(len({id(store) for store in stores}), sum(admitted))
"""


def test_the_first_limiters_of_a_process_have_one_default_store(
    run_python: Callable[..., str], rounds: Any
) -> None:
    for _ in range(rounds(20)):
        assert run_python(FIRST_LIMITERS).split() == ["1", "100"]


FIRST_USE = """
    import asyncio, threading
    import headway, headway.asyncio
    begin, done = threading.Barrier(8), []
    class Hook(headway.Hook):
        def on_limit(self, call_next, context):
            return call_next()
    limiter = headway.Throttled("k", quota="80/3650d", hooks=[Hook()])
    awaited = headway.asyncio.Throttled("j", quota="1000/s burst 1", timeout=20)
    async def wait():
        return [bool(await awaited.limit()) for _ in range(3)]
    def work(number):
        begin.wait()
        @limiter
        def call():
            return headway.per_sec(3).rate.period.total_seconds()
        done.append((call(), *asyncio.run(wait())))
    crowd = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [thread.start() for thread in crowd]
    [thread.join() for thread in crowd]
    print(done.count((1.0, True, True, True)))
"""


def test_what_is_imported_when_first_needed_may_be_needed_by_all_threads_at_once(
    run_python: Callable[..., str], rounds: Any
) -> None:
    for _ in range(rounds(5)):
        assert run_python(FIRST_USE).strip() == "8"


def test_a_quota_callable_with_many_answers_is_right_for_every_key(crowd: Any, rounds: Any) -> None:
    """More answers than are kept: what is kept is dropped while other threads read it."""
    many = Throttled(quota=lambda key: f"{int(key) % 600 + 1}/3650d", store=MemoryStore())

    def work(number: int) -> None:
        for i in range(rounds(6000)):
            many.limit(str((i * 7 + number * 131) % 600))

    crowd(work)
    for key in range(0, 600, 7):
        while many.limit(str(key)):
            pass
        assert many.peek(str(key)).limit == key + 1


def test_limiters_and_stores_come_and_go_in_all_threads(crowd: Any, rounds: Any) -> None:
    store = MemoryStore()

    def work(_: int) -> int:
        admitted = 0
        for i in range(rounds(2000)):
            limiter = Throttled("k", quota="3/3650d", store=store, key_prefix="p")
            admitted += bool(limiter.limit(f"k{i % 50}"))
            quotas = parse_quota("5/s; 7/h")
            assert parse_quota("5/s; 7/h") == quotas
            assert per_sec(3) != per_sec(4)
            own = MemoryStore()
            Throttled("k", quota="3/3650d", store=own).limit("a")
            own.stats()
            if i % 500 == 0:
                gc.collect()
        return admitted

    assert sum(crowd(work)) == min(150, rounds(2000) * 3)


def test_a_virtual_clock_goes_on_by_the_sum_of_what_threads_advance_it_by(
    crowd: Any, rounds: Any
) -> None:
    clock, steps = VirtualClock(), rounds(200_000)

    def work(_: int) -> None:
        for _ in range(steps):
            clock.advance(ns=3)

    crowd(work)
    assert clock.now_ns == THREADS * steps * 3


@pytest.mark.parametrize("using", ALGORITHMS)
def test_a_result_says_the_same_to_all_threads(crowd: Any, rounds: Any, using: str) -> None:
    limiter = Throttled(quota="10/3650d", using=using, store=MemoryStore())
    for number in range(rounds(20)):
        results = [limiter.limit(f"k{number}") for _ in range(12)]

        def read(_: int, results: list[Any] = results) -> list[Any]:
            return [(bool(r), r.limited, r.state, hash(r), repr(r)) for r in results for _ in "ab"]

        answers = crowd(read)
        assert answers == [answers[0]] * THREADS
