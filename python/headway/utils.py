"""Measuring: `Benchmark` runs a task many times and prints one line, `Timer` times one scope.

Both are of throttled.md. Times are taken with the monotonic clock; a benchmark's line reads

    ✅ Total: 100000, 🕒 Latency: 0.0068 ms/op, 🚀 Throughput: 122513 req/s (--)

where the brackets hold the change of throughput against the run before it.
"""

import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Benchmark", "Timer", "now_mono_f", "now_ms", "now_sec"]

P = ParamSpec("P")
R = TypeVar("R")

TimerCallback = Callable[[float, float, float], object]


def now_sec() -> int:
    """Return the wall clock in whole seconds since the epoch."""
    return int(time.time())


def now_ms() -> int:
    """Return the wall clock in whole milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def now_mono_f() -> float:
    """Return the monotonic clock in seconds."""
    return time.monotonic()


class Timer:
    """Time a scope: `with`, `async with`, or a decorator for plain and coroutine functions.

    `clock` returns the time (monotonic seconds by default). `callback(elapsed, start, end)` is
    called at the end of every scope, left by an exception or not. As a decorator, every call has
    a timer of its own, so concurrent calls do not disturb each other.
    """

    def __init__(
        self, clock: Callable[[], float] | None = None, callback: TimerCallback | None = None
    ) -> None:
        self._clock = clock or now_mono_f
        self._callback = callback
        self._start: float = 0

    def __enter__(self) -> "Self":
        self._start = self._clock()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._callback is not None:
            end = self._clock()
            self._callback(end - self._start, self._start, end)

    async def __aenter__(self) -> "Self":
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_val, exc_tb)

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Decorate `func` so that every call is timed."""
        from functools import wraps
        from inspect import iscoroutinefunction

        cls, clock, callback = type(self), self._clock, self._callback
        if iscoroutinefunction(func):

            @wraps(func)
            async def timed_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with cls(clock, callback):
                    return await func(*args, **kwargs)

            return cast("Callable[P, R]", timed_async)

        @wraps(func)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with cls(clock, callback):
                return func(*args, **kwargs)

        return timed


class Benchmark:
    """Run a task `batch` times, print how it went, return what it returned, in order.

    `last_avg` (nanoseconds a call) and `last_qps` (calls a second) hold the latest figures, and
    the next run is compared with them. The first run prints a line about the machine.
    """

    def __init__(self) -> None:
        self.last_avg: float = 0
        self.last_qps: float = 0
        self._spans: list[tuple[int, int]] = []  # start and end of each call, in nanoseconds
        self._machine_told = False

    def serial(
        self, task: Callable[P, R], batch: int, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Call `task` one time after the other."""
        self._begin()
        results = [self._timed(task, *args, **kwargs) for _ in range(batch)]
        self.stats()
        return results

    def concurrent(
        self,
        task: Callable[P, R],
        batch: int,
        workers: int = 32,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """Call `task` from `workers` threads."""
        from concurrent.futures import ThreadPoolExecutor

        self._begin()
        with ThreadPoolExecutor(max_workers=workers) as executor:
            results = list(executor.map(lambda _: self._timed(task, *args, **kwargs), range(batch)))
        self.stats()
        return results

    async def async_serial(
        self,
        task: Callable[P, Coroutine[Any, Any, R]],
        batch: int,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """Await `task` one time after the other."""
        self._begin()
        results = [await self._timed_async(task, *args, **kwargs) for _ in range(batch)]
        self.stats()
        return results

    async def async_concurrent(
        self,
        task: Callable[P, Coroutine[Any, Any, R]],
        batch: int,
        workers: int = 32,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """Await `task` from at most `workers` asyncio tasks at a time."""
        import asyncio

        room = asyncio.Semaphore(workers)

        async def one() -> R:
            async with room:
                return await self._timed_async(task, *args, **kwargs)

        self._begin()
        results = await asyncio.gather(*(one() for _ in range(batch)))
        self.stats()
        return results

    def stats(self) -> None:
        """Print the line for the calls since the last run began; nothing if there were none."""
        total = len(self._spans)
        if total == 0:
            return
        average = sum(end - start for start, end in self._spans) / total
        elapsed = max(end for _, end in self._spans) - min(start for start, _ in self._spans)
        qps = int(total * 1e9 / max(elapsed, 1))
        change, mark = "--", "🚀"
        if self.last_qps:
            percent = (qps - self.last_qps) * 100 / self.last_qps
            change = f"{'⬇️' if percent < 0 else '⬆️'}{percent:.2f}%"
            mark = "💤" if percent < 0 else "🚀"
        print(
            f"✅ Total: {total}, 🕒 Latency: {average / 1e6:.4f} ms/op, "
            f"{mark} Throughput: {qps} req/s ({change})"
        )
        self.last_avg, self.last_qps = average, qps

    def _begin(self) -> None:
        self._spans.clear()
        if not self._machine_told:
            self._machine_told = True
            print(_machine())

    def _timed(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        start = time.perf_counter_ns()
        result = task(*args, **kwargs)
        self._spans.append((start, time.perf_counter_ns()))
        return result

    async def _timed_async(
        self, task: Callable[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        start = time.perf_counter_ns()
        result = await task(*args, **kwargs)
        self._spans.append((start, time.perf_counter_ns()))
        return result


def _machine() -> str:
    import os
    import platform

    specs = f"{os.cpu_count()}C"
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        specs += f"{round(memory / 2**30)}G"
    except (ValueError, OSError):
        pass  # this system does not tell
    return (
        f"💻 Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"Arch: {platform.machine()}, Specs: {specs}."
    )
