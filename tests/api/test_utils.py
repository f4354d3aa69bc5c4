"""`Benchmark` runs and reports, `Timer` times a scope, the registry finds limiters by name."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from headway import MemoryStore, Quota, RateLimiterRegistry, RateLimiterType, SetUpError, per_min
from headway.rate_limiter import BaseRateLimiter, TokenBucketRateLimiter
from headway.store import BaseStore
from headway.utils import Benchmark, Timer

LINE = re.compile(
    r"✅ Total: (\d+), 🕒 Latency: \d+\.\d{4} ms/op, "
    r"(🚀|💤) Throughput: \d+ req/s \((--|⬆️\d+\.\d\d%|⬇️-\d+\.\d\d%)\)"
)


async def doubled(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


class TestBenchmark:
    def test_serial_returns_what_the_task_returned(self) -> None:
        numbers = iter(range(5))
        assert Benchmark().serial(lambda: next(numbers), 5) == [0, 1, 2, 3, 4]

    def test_concurrent_calls_from_as_many_threads_as_asked(self) -> None:
        together = threading.Barrier(4)

        def task(x: int, *, y: int) -> int:
            together.wait(30)
            return x + y

        assert Benchmark().concurrent(task, 8, 4, 1, y=2) == [3] * 8

    @pytest.mark.parametrize("method", ["async_serial", "async_concurrent"])
    def test_coroutine_functions_are_awaited(self, method: str) -> None:
        args = (2, 3) if method == "async_concurrent" else (3,)
        run: Callable[..., Coroutine[Any, Any, list[int]]] = getattr(Benchmark(), method)
        assert asyncio.run(run(doubled, 5, *args)) == [6] * 5

    def test_async_concurrent_keeps_to_the_number_of_workers(self) -> None:
        running, most = 0, 0

        async def task() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        asyncio.run(Benchmark().async_concurrent(task, 20, 3))

        assert most == 3

    def test_it_prints_the_machine_once_and_a_line_for_each_run(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        benchmark = Benchmark()
        benchmark.serial(lambda: None, 10)
        benchmark.serial(lambda: None, 20)

        machine, first, second = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"💻 Python \d.*, .+, Arch: .+, Specs: .+\.", machine)
        assert LINE.fullmatch(first)
        assert first.endswith("(--)")
        match = LINE.fullmatch(second)
        assert match
        assert match[1] == "20"
        assert (match[2] == "💤") == match[3].startswith("⬇️")
        assert benchmark.last_qps > 0
        assert benchmark.last_avg > 0

    def test_an_empty_batch_prints_no_figures(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert Benchmark().serial(lambda: None, 0) == []
        assert "Total" not in capsys.readouterr().out


class TestTimer:
    @pytest.fixture
    def ticking(self) -> Callable[[], float]:
        """A clock that reads 0, 1, 3, 6, 10, …"""

        def ticks() -> Iterator[float]:
            now = 0.0
            step = 1.0
            while True:
                yield now
                now, step = now + step, step + 1

        clock = ticks()
        return lambda: next(clock)

    def test_with_calls_back_with_elapsed_start_and_end(self, ticking: Callable[[], float]) -> None:
        calls: list[tuple[float, ...]] = []
        timer = Timer(ticking, lambda *times: calls.append(times))
        with timer:
            pass
        with pytest.raises(KeyError):
            with timer:
                raise KeyError
        assert calls == [(1, 0, 1), (3, 3, 6)]

    def test_async_with_is_timed_too(self, ticking: Callable[[], float]) -> None:
        calls: list[tuple[float, ...]] = []

        async def main() -> None:
            async with Timer(ticking, lambda *times: calls.append(times)):
                await asyncio.sleep(0)

        asyncio.run(main())
        assert calls == [(1, 0, 1)]

    def test_a_decorated_function_is_timed_at_each_call(self, ticking: Callable[[], float]) -> None:
        calls: list[tuple[float, ...]] = []

        @Timer(ticking, lambda *times: calls.append(times))
        def recurse(depth: int) -> int:
            """Go down."""
            return recurse(depth - 1) + 1 if depth else 0

        assert recurse(1) == 1
        assert recurse.__doc__ == "Go down."
        assert calls == [(2, 1, 3), (6, 0, 6)]

    def test_a_decorated_coroutine_function_is_timed_while_awaited(
        self, ticking: Callable[[], float]
    ) -> None:
        calls: list[tuple[float, ...]] = []
        timed = Timer(ticking, lambda *times: calls.append(times))(doubled)

        assert inspect.iscoroutinefunction(timed)
        assert asyncio.run(timed(4)) == 8
        assert calls == [(1, 0, 1)]

    def test_without_a_callback_nothing_happens(self) -> None:
        with Timer():
            pass


class TestRegistry:
    @pytest.mark.parametrize("name", RateLimiterType.choice())
    def test_each_algorithm_limits_and_peeks(self, name: str, store: MemoryStore) -> None:
        limiter = RateLimiterRegistry.get(name)(per_min(2), store)

        assert [limiter.limit("k").limited for _ in range(3)] == [False, False, True]
        assert limiter.peek("k").remaining == 0
        assert limiter.limit("other", 2).limited is False
        assert limiter.quota == per_min(2)

    def test_a_member_of_the_enumeration_is_a_name_too(self) -> None:
        assert RateLimiterRegistry.get(RateLimiterType.TOKEN_BUCKET) is TokenBucketRateLimiter

    @pytest.mark.parametrize("name", ["leaky", "", None, []])
    def test_an_unknown_name_lists_the_known_ones(self, name: Any) -> None:
        with pytest.raises(SetUpError) as caught:
            RateLimiterRegistry.get(name)
        assert all(known in str(caught.value) for known in RateLimiterType.choice())
        assert repr(name) in str(caught.value)

    def test_a_class_registers_itself_under_its_type(self, store: MemoryStore) -> None:
        class Doubling(TokenBucketRateLimiter):
            class Meta(BaseRateLimiter.Meta):
                type = "token_bucket"

        try:
            assert RateLimiterRegistry.get("token_bucket") is Doubling
            assert isinstance(Doubling("1/min", store).quota, Quota)
        finally:
            RateLimiterRegistry.register(TokenBucketRateLimiter)

    def test_limiters_with_prefixes_keep_apart(self, store: MemoryStore) -> None:
        limiter = RateLimiterRegistry.get("gcra")
        first, second = limiter("1/min", store, "a"), limiter("1/min", store, key_prefix="b")
        assert not first.limit("k").limited
        assert not second.limit("k").limited
        assert first.limit("k").limited

    def test_a_memory_store_is_a_store(self, store: MemoryStore) -> None:
        assert isinstance(store, BaseStore)
        assert store.TYPE == "memory"
