"""Many tasks on one key: what each costs in memory, and that all are through at the exact rate.

Figures are measured in a process of their own. The rate is a bound that nothing may break; how long
the loop stalls depends on the machine, so only a stall that no machine explains is an error.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from task_lines import Line

Run = Callable[..., str]

WAITERS = 20_000

MEMORY = """
    import asyncio, gc, json, sys
    from headway import MemoryStore
    from headway.asyncio import Throttled

    what, count = sys.argv[1], int(sys.argv[2])

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    async def main():
        store = MemoryStore()
        throttle = Throttled("key", using="gcra", quota="1/m burst 1", store=store, timeout=1e9)
        await throttle.limit()
        loop = asyncio.get_running_loop()
        shared = loop.create_future()

        async def on_limiter():
            await throttle.limit()

        async def on_future():
            await loop.create_future()

        async def on_nothing_of_its_own():
            await shared

        work = {
            "limiter": on_limiter, "future": on_future, "shared": on_nothing_of_its_own,
        }[what]
        tasks = [None] * count

        async def begin(first, last):
            for number in range(first, last):
                tasks[number] = asyncio.ensure_future(work())
            for _ in range(3):
                await asyncio.sleep(0)

        await begin(0, 1000)
        gc.collect()
        gc.freeze()
        gc.disable()
        before = resident()
        await begin(1000, count)
        assert not any(task.done() for task in tasks)
        print(json.dumps((resident() - before) / (count - 1000)))
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        gc.enable()

    asyncio.run(main())
"""

CROWD = '''
    import asyncio, gc, json, sys, time
    from headway import MemoryStore
    from headway.asyncio import Throttled
    from headway.clock import now_ns

    count, rate, burst = map(int, sys.argv[1:4])

    class Noting:
        """Awaits a call and notes whether it had to wait."""

        def __init__(self, call):
            self.call, self.waited = call, False

        def __await__(self):
            try:
                while True:
                    sleeping = self.call.send(None)
                    self.waited = True
                    yield sleeping
            except StopIteration as end:
                return end.value

    async def tick(stall):
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            stall[0] = max(stall[0], now - last)
            last = now

    async def main():
        throttle = Throttled(
            "key", using="gcra", quota=f"{rate}/s burst {burst}", store=MemoryStore(), timeout=1e6
        )
        instants, waited, at_once = [], [], []

        async def wait(number):
            noting = Noting(throttle.limit())
            assert await noting
            instants.append(now_ns())
            (waited if noting.waited else at_once).append(number)

        began = now_ns()
        await throttle.limit(cost=burst)
        tasks = []
        for first in range(0, count, 500):
            tasks += [asyncio.ensure_future(wait(number)) for number in range(first, first + 500)]
            await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        stall = [0.0]
        ticker = asyncio.ensure_future(tick(stall))
        for task in tasks:
            await task
        ticker.cancel()
        early = sum(
            instant < began + (number + 1) * 10**9 // rate
            for number, instant in enumerate(instants)
        )
        print(json.dumps({
            "early": early,
            "in_order": waited == sorted(waited) and at_once == sorted(at_once),
            "served": len(waited) + len(at_once),
            "waited": len(waited),
            "seconds": (instants[-1] - began) / 1e9,
            "stall": stall[0],
        }))

    asyncio.run(main())
'''


@pytest.mark.alone
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_waiter_costs_at_most_512_bytes(run_python: Run) -> None:
    """More than a task that waits on something that all share: so all that waiting itself takes."""
    costs: dict[str, float] = {}
    for what in ("limiter", "future", "shared"):
        runs = [json.loads(run_python(MEMORY, what, str(WAITERS))) for _ in range(3)]
        costs[what] = sorted(runs)[1]
    own = costs["limiter"] - costs["shared"]
    assert own <= 512, f"bytes a task: {costs}"
    assert costs["limiter"] - costs["future"] <= 512, f"bytes a task: {costs}"


def _run_crowd(run_python: Run) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_python(CROWD, str(WAITERS), "10000", "100"))
    return answer


@pytest.mark.slow
@pytest.mark.alone
def test_twenty_thousand_tasks_are_through_at_the_exact_rate_and_the_loop_runs_on(
    run_python: Run,
) -> None:
    crowd = _run_crowd(run_python)
    assert crowd["served"] == WAITERS
    assert crowd["waited"] > WAITERS // 2
    # Who is admitted at once needs no turn of the loop, and so may go on before one who was served
    # in line a moment earlier; each kind is in order in itself.
    assert crowd["in_order"]
    assert crowd["early"] == 0, f"admitted before their slot: {crowd}"
    assert crowd["seconds"] >= 2.0
    assert crowd["seconds"] <= 2.0 * 1.5, f"slower than the quota: {crowd}"
    assert crowd["stall"] < 0.1, f"the loop stood still: {crowd}"


def test_a_jump_of_the_clock_serves_thousands_in_order_and_others_have_a_turn_between() -> None:
    async def main() -> None:
        line = Line("5000/s burst 5000")
        await line.use_up(5000)
        tasks = [asyncio.ensure_future(line.wait(number)) for number in range(5000)]
        await asyncio.sleep(0)
        line.clock.advance(1)
        turned = 0
        while len(line.served) < 5000:
            await asyncio.sleep(0)
            turned += 1
            assert turned < 10_000, f"served in so many turns: {len(line.served)}"
        assert line.served == list(range(5000))
        assert turned > 5, "others had no turn meanwhile"
        await asyncio.gather(*tasks)

    asyncio.run(main())
