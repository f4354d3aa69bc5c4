"""A child that is forked under a running event loop leaves the parent's waits alone.

The loop's timer is a descriptor that both have; what the child does to it, it does to the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize("does", ["made.close()", "task.cancel()", "del made, task; gc.collect()"])
def test_a_child_that_gives_up_the_waits_does_not_stop_the_parents_timer(
    does: str, run_python: Callable[..., str]
) -> None:
    out = run_python(f"""
        import asyncio, gc, logging, os
        from headway import MemoryStore
        from headway.asyncio import Throttled

        logging.disable(50)

        async def main():
            throttle = Throttled("key", quota="2/s burst 1", store=MemoryStore(), timeout=100)
            other = Throttled("other", quota="2/s burst 1", store=throttle.store, timeout=100)
            await throttle.limit()
            await other.limit()
            made, going_on = throttle.limit(), asyncio.Event()
            made.send(None).add_done_callback(lambda _: going_on.set())
            task = asyncio.ensure_future(other.limit())
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                {does}
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            await asyncio.wait_for(going_on.wait(), 30)
            print(bool(await asyncio.wait_for(task, 30)))
            made.close()

        asyncio.run(main())
    """)
    assert out.split() == ["True"]
