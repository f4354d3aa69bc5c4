"""Decisions of many threads at once: what is admitted is exact."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from headway import Hook, LimitedError, MemoryStore, Throttled, TokenBucket, VirtualClock

THREADS = 8
ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")


@pytest.mark.parametrize("using", ALGORITHMS)
def test_one_key_admits_its_quota(crowd: Any, rounds: Any, using: str) -> None:
    quota, each = rounds(10_000), rounds(4000)
    limiter = Throttled("k", quota=f"{quota}/3650d", using=using, store=MemoryStore())
    admitted = crowd(lambda _: sum(bool(limiter.limit("k")) for _ in range(each)))
    assert sum(admitted) == quota


@pytest.mark.parametrize("using", ALGORITHMS)
def test_two_rules_and_a_cost_admit_what_the_tighter_rule_has(
    crowd: Any, rounds: Any, using: str
) -> None:
    few, each = rounds(8000), rounds(2000)
    limiter = Throttled(quota=f"{few * 2}/3650d; {few}/3000d", using=using, store=MemoryStore())
    admitted = crowd(lambda _: sum(bool(limiter.limit("k", 3)) for _ in range(each)))
    assert sum(admitted) == few // 3
    assert limiter.peek("k").remaining == few % 3


@pytest.mark.parametrize("using", ALGORITHMS)
def test_each_of_many_keys_admits_its_quota(crowd: Any, rounds: Any, using: str) -> None:
    limiter, keys = Throttled(quota="5/3650d", using=using, store=MemoryStore()), rounds(3000)

    def work(number: int) -> int:
        order = [f"key {(i * 7919 + number * 31) % keys}" for i in range(keys)]
        return sum(bool(limiter.limit(key)) for key in order for _ in "ab")

    crowd(work)
    left = [limiter.peek(f"key {i}").remaining for i in range(keys)]
    assert all(remaining >= 0 for remaining in left)
    assert sum(bool(limiter.limit(f"key {i}")) for i in range(keys) for _ in range(5)) == sum(left)


def test_texts_and_bytes_of_one_key_count_together(crowd: Any, rounds: Any) -> None:
    limiter, keys = (
        Throttled(quota="100/3650d", store=MemoryStore()),
        ["schlüssel", "ключ", "日本" * 50],
    )

    def work(_: int) -> int:
        given = [key if i % 2 else key.encode() for i in range(rounds(400)) for key in keys]
        return sum(bool(limiter.limit(key)) for key in given)

    assert sum(crowd(work)) == min(300, THREADS * 3 * rounds(400))


def test_a_clock_that_moves_meanwhile_frees_what_its_time_frees(crowd: Any, rounds: Any) -> None:
    clock, steps = VirtualClock(10**18), rounds(1000)
    limiter = Throttled(quota="1000/h", using="gcra", store=MemoryStore(clock=clock))

    def work(number: int) -> int:
        if number == 0:
            for _ in range(steps):
                clock.advance(3.6)
            return 0
        return sum(bool(limiter.limit("k")) for _ in range(rounds(8000)))

    assert sum(crowd(work)) <= 1000 + steps


def test_entering_and_decorated_calls_are_admitted_exactly(crowd: Any, rounds: Any) -> None:
    store, quota = MemoryStore(), rounds(3000)
    entered = Throttled("entered", quota=f"{quota}/3650d", store=store)

    @Throttled("called", quota=f"{quota}/3650d", store=store)
    def call() -> int:
        return 1

    def work(_: int) -> tuple[int, int]:
        inside = called = 0
        for _ in range(rounds(1500)):
            with contextlib.suppress(LimitedError), entered:
                inside += 1
            with contextlib.suppress(LimitedError):
                called += call()
        return inside, called

    assert [sum(counts) for counts in zip(*crowd(work), strict=True)] == [quota, quota]


def test_hooks_change_no_count(crowd: Any, rounds: Any) -> None:
    class Passing(Hook):
        def on_limit(self, call_next: Any, context: Any) -> Any:
            return call_next()

    limiter = Throttled(quota=f"{rounds(2000)}/3650d", store=MemoryStore(), hooks=[Passing()])
    admitted = crowd(lambda _: sum(bool(limiter.limit("k")) for _ in range(rounds(800))))
    assert sum(admitted) == rounds(2000)


def test_a_token_bucket_gives_its_tokens_once(crowd: Any, rounds: Any) -> None:
    bucket = TokenBucket(rounds(20_000), 1e-9)
    assert sum(crowd(lambda _: sum(bucket.allow() for _ in range(rounds(8000))))) == rounds(20_000)


@pytest.mark.parametrize("on_full", ["evict", "deny"])
def test_a_full_store_never_says_that_it_holds_more_than_its_ceiling(
    crowd: Any, rounds: Any, on_full: str
) -> None:
    store = MemoryStore(options={"MAX_SIZE": 500}, on_full=on_full)
    limiter = Throttled(quota="3/3650d", store=store)

    def work(number: int) -> None:
        for i in range(rounds(8000)):
            if number == 0:
                assert 0 <= store.stats()["keys"] <= 500
                assert 0 <= len(store) <= 500
            elif number == 1 and i % 1000 == 0:
                store.clear()
            elif number == 2 and i % 3 == 0:
                limiter.reset(f"{i % 700}")
            elif number == 3 and i % 2 == 0:
                limiter.peek(f"{i % 700}")
            else:
                limiter.limit(f"{number}:{i % 2000}")

    crowd(work)
    assert len(store) <= 500


def test_that_a_store_is_full_is_said_once(crowd: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        caplog.clear()
        limiter = Throttled(quota="3/3650d", store=MemoryStore(options={"MAX_SIZE": 4}))

        def flood(number: int, limiter: Throttled = limiter) -> None:
            for i in range(20):
                limiter.limit(f"{number}:{i}")

        crowd(flood)
        assert len([r for r in caplog.records if "MemoryStore is full" in r.getMessage()]) == 1


@pytest.mark.parametrize("url", ["shm:///{}", "sqlite:///{}"])
@pytest.mark.parametrize("using", ALGORITHMS)
def test_stores_outside_the_process_admit_the_quota(
    crowd: Any, rounds: Any, using: str, url: str, tmp_path: Any
) -> None:
    name = f"headway-crowd-{tmp_path.name}"
    place = url.format(name if url.startswith("shm") else tmp_path / "limits.db")
    quota = rounds(600)
    limiter = Throttled(quota=f"{quota}/3650d", store=place, using=using, key_prefix=using)
    try:
        each = rounds(200)
        admitted = crowd(lambda _: sum(bool(limiter.limit("k")) for _ in range(each)))
        assert sum(admitted) == quota
    finally:
        if url.startswith("shm"):
            limiter.store.remove()
