"""Timing in turn, for what is awaited: `harness.py` with `async def`.

All contenders run in one event loop, one after the other, round by round. A statement such as
``await limit("k")`` is compiled into a coroutine function in which every name is a local variable;
the factories run inside of the loop, as some contenders ask for it. A statement that never
suspends never returns to the loop, so the loop itself has no part in the figures.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import repeat
from time import perf_counter_ns
from typing import Any

from benchmarks.harness import Contender, Names, Settings, Timing

AsyncLoop = Callable[..., Coroutine[Any, Any, int]]


def time_awaited(contenders: Sequence[Contender], settings: Settings) -> list[Timing]:
    """Times every contender once a round, in the order given, after one round of warm-up."""
    return asyncio.run(_time_in_turn(contenders, settings))


def compile_async_loop(statement: str, names: Iterable[str]) -> AsyncLoop:
    """A coroutine function of (count, clock, repeat, *names) that times `count` runs."""
    body = "\n".join("        " + line for line in statement.splitlines())
    source = (
        f"async def loop(count, clock, repeat, {', '.join(names)}):\n"
        "    start = clock()\n"
        "    for _ in repeat(None, count):\n"
        f"{body}\n"
        "    return clock() - start\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(source, f"<loop of {statement!r}>", "exec"), scope)
    loop: AsyncLoop = scope["loop"]
    return loop


async def _run_batch(loop: AsyncLoop, names: Names, count: int) -> int:
    was_on = gc.isenabled()
    gc.disable()
    try:
        return await loop(count, perf_counter_ns, repeat, **names)
    finally:
        if was_on:
            gc.enable()


async def _time_in_turn(contenders: Sequence[Contender], settings: Settings) -> list[Timing]:
    loops = [compile_async_loop(c.statement, c.make().keys()) for c in contenders]
    counts = [
        await _calibrate(c, loop, settings) for c, loop in zip(contenders, loops, strict=True)
    ]
    timings = [Timing(c) for c in contenders]
    for number in range(settings.rounds + 1):
        for timing, loop, count in zip(timings, loops, counts, strict=True):
            names = timing.contender.make()
            await _run_batch(loop, names, min(settings.warm_calls, count))
            took = await _run_batch(loop, names, count)
            if number > 0:  # the first round is the warm-up
                timing.rounds_ns.append(took / count)
        gc.collect()
        await asyncio.sleep(0)
    return timings


async def _calibrate(contender: Contender, loop: AsyncLoop, settings: Settings) -> int:
    """How many turns fill one batch."""
    names = contender.make()
    count = 1_000
    while True:
        took = await _run_batch(loop, names, count)
        if took > 2_000_000 or count > 50_000_000:
            return max(1_000, int(count * settings.batch_seconds * 1e9 / max(took, 1)))
        count *= 4
