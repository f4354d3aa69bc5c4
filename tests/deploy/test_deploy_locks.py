"""A fork while another thread is making limiters: the child can make some too."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from deploy_places import Place

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PROGRAM = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway import Throttled
from headway.limiters import SyncSemaphore
url = sys.argv[1]
signal.alarm(25)

def make():
    Throttled("made", quota="10/s", store=url)
    SyncSemaphore(f"made {time.monotonic_ns()}", 1, connection=url)

make()  # what is imported when first used is there before anything is forked

def makes():
    while True:
        make()

for _ in range(2):
    threading.Thread(target=makes, daemon=True).start()
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        make()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        sys.stderr.write("the child hung")
        os._exit(1)
os._exit(0)
"""


def test_a_child_can_make_limiters_whatever_its_parents_threads_were_making(
    place: Place, run_python: Callable[..., str]
) -> None:
    run_python(PROGRAM, place.url)


LOADS = """
import asyncio, sys, threading
from headway import Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.limiters import AsyncSemaphore, SyncSemaphore, SyncTokenBucket
url = sys.argv[1]
limiter = Throttled("key", quota="50/s burst 1", timeout=5, store=url)
tasks = AsyncThrottled("key", quota="50/s burst 1", timeout=5, store=url)
semaphore = SyncSemaphore("permit", 1, connection=url)
permits = AsyncSemaphore("permit", 1, connection=url)
bucket = SyncTokenBucket("bucket", 1, 0.02, 1, connection=url)
before = set(sys.modules)

def work():
    for _ in range(3):
        assert limiter.limit()
        with semaphore, bucket:
            pass
    limiter.peek()

async def work_as_task():
    for _ in range(3):
        assert await tasks.limit()
        async with permits:
            pass
    await tasks.peek()

async def main():
    await asyncio.gather(*(work_as_task() for _ in range(3)))

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
asyncio.run(main())
for thread in threads:
    thread.join()
limiter.reset()
print(*sorted(name for name in set(sys.modules) - before if name.startswith("headway")))
"""


def test_what_limiters_need_is_loaded_when_they_are_made(
    place: Place, run_python: Callable[..., str]
) -> None:
    """A child that is forked while a thread imports a module never gets that module."""
    assert run_python(LOADS, place.url).split() == []


HELD = """
import os, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from headway.choked import remote, service

for lock, use in (
    (remote._pool_lock, remote._threads),
    (service._known_lock, lambda: service.service_from("token", "http://127.0.0.1:9")),
):
    lock.acquire()  # as another thread may at the moment of a fork
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        use()
        os._exit(0)
    lock.release()
    assert os.waitpid(pid, 0)[1] == 0, use
os._exit(0)
"""


def test_a_child_can_ask_a_service_whatever_its_parents_threads_were_doing(
    run_python: Callable[..., str],
) -> None:
    run_python(HELD)
