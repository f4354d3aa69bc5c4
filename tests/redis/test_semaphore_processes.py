"""Semaphores that processes share: never too many inside, first come first served, woken at once,
and what becomes of the permits of those who die.
"""

# ruff: noqa: F811 (fixtures come from semaphore_help)

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable

import pytest
from semaphore_help import (
    Process,
    commands,
    held,
    in_line,
    most_inside,
    process,  # noqa: F401
    until,
)
from servers import RedisServer

from headway.limiters import MaxSleepExceededError, SyncSemaphore, _line
from headway.limiters._permits import BEAT
from headway.store import RedisStore

Start = Callable[..., Process]

CROWD = """
semaphore = SyncSemaphore("name", 3, connection=store)
own = AsyncSemaphore("name", 3, connection=store)

def thread():
    for _ in range(8):
        with semaphore:
            room_enter()
            room_leave()

async def task():
    for _ in range(8):
        async with own:
            await asyncio.to_thread(room_enter)
            await asyncio.to_thread(room_leave)

async def tasks():
    await asyncio.gather(*(task() for _ in range(3)))

say("ready")
hear()
threads = [threading.Thread(target=thread) for _ in range(3)]
for one in threads:
    one.start()
asyncio.run(tasks())
for one in threads:
    one.join()
say("done")
"""

HOLDER = """
semaphore = SyncSemaphore("name", 1, expiry=float(sys.argv[2]), connection=store)
with semaphore:
    say("in")
    hear()
say("out")
"""

TASK_HOLDER = """
async def main():
    async with AsyncSemaphore("name", 1, expiry=float(sys.argv[2]), connection=store):
        say("in")
        hear()
asyncio.run(main())
say("out")
"""


def test_four_processes_of_threads_and_tasks_keep_to_the_capacity(
    server: RedisServer, process: Start
) -> None:
    processes = [process(CROWD, server.url) for _ in range(4)]
    for one in processes:
        assert one.hears() == "ready"
    for one in processes:
        one.told()
    for one in processes:
        assert one.hears() == "done"
        assert one.ends() == 0
    assert int(server.command("GET", "room")) == 0
    assert 1 <= most_inside(server) <= 3
    assert held(server) == in_line(server) == 0


def test_first_come_first_served_across_processes(server: RedisServer, process: Start) -> None:
    store = RedisStore(server.url)
    with SyncSemaphore("name", 1, connection=store):
        waiters = []
        for number in range(6):
            program = HOLDER if number % 2 else TASK_HOLDER
            waiters.append(process(program, server.url, "30"))
            until(lambda number=number: in_line(server) == number + 1, "another one in line")
    for number, waiter in enumerate(waiters):
        assert waiter.hears() == "in"
        assert in_line(server) == 5 - number
        waiter.told()


@pytest.mark.alone
@pytest.mark.parametrize("program", [HOLDER, TASK_HOLDER], ids=["thread", "task"])
def test_a_waiter_of_another_process_is_woken_soon_after_the_release(
    server: RedisServer, process: Start, program: str
) -> None:
    loop = program.replace('"in"', '"in", time.clock_gettime(time.CLOCK_MONOTONIC)')
    loop = "for _ in range(8):\n" + "".join(
        f"    {line}\n" for line in ("hear()", *loop.strip().splitlines())
    )
    semaphore = SyncSemaphore("name", 1, connection=RedisStore(server.url))
    waiter = process(loop, server.url, "30")
    late = []
    for _ in range(8):
        with semaphore:
            waiter.told()
            until(lambda: in_line(server) == 1, "one in line")
            released = time.monotonic()
        late.append(float(waiter.hears().split()[1]) - released)
        waiter.told()
        assert waiter.hears() == "out"
    print("woken after ms:", [round(seconds * 1e3, 2) for seconds in late])
    assert statistics.median(late) < 0.05


@pytest.mark.parametrize("program", [HOLDER, TASK_HOLDER], ids=["thread", "task"])
def test_the_permit_of_a_killed_holder_is_free_after_expiry_and_not_before(
    server: RedisServer, process: Start, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_line, "LOOK", 60.0)  # it is not found by chance
    holder = process(program, server.url, "1.5")
    assert holder.hears() == "in"
    holder.kill()
    killed = time.monotonic()
    with SyncSemaphore("name", 1, connection=RedisStore(server.url)):
        # It was renewed every half second.
        assert 0.9 < time.monotonic() - killed < 30


@pytest.mark.slow
def test_a_killed_waiter_holds_the_others_up_no_longer_than_it_is_heard_of(
    server: RedisServer, process: Start
) -> None:
    semaphore = SyncSemaphore("name", 1, connection=RedisStore(server.url))
    with semaphore:
        head = process(HOLDER, server.url, "3600")
        until(lambda: in_line(server) == 1, "one in line")
        other = process(HOLDER, server.url, "30")
        until(lambda: in_line(server) == 2, "two in line")
        head.kill()
    released = time.monotonic()
    assert other.hears() == "in"
    assert time.monotonic() - released < BEAT + 25


@pytest.mark.slow
def test_a_waiting_process_that_was_stopped_takes_its_place_again_and_no_permit_twice(
    server: RedisServer, process: Start
) -> None:
    semaphore = SyncSemaphore("name", 1, connection=RedisStore(server.url))
    with semaphore:
        stopped = process(HOLDER, server.url, "30")
        until(lambda: in_line(server) == 1, "one in line")
        os.kill(stopped.pid, signal.SIGSTOP)
    # Its turn has come, it says nothing, and the next one is let in.
    with semaphore:
        os.kill(stopped.pid, signal.SIGCONT)
        until(lambda: in_line(server) == 1, "in line again")
        assert held(server) == 1
    assert stopped.hears() == "in"


def test_an_interrupted_waiter_leaves_the_line(server: RedisServer, process: Start) -> None:
    semaphore = SyncSemaphore("name", 1, connection=RedisStore(server.url))
    with semaphore:
        waiter = process(
            """
try:
    SyncSemaphore("name", 1, connection=store).__enter__()
except KeyboardInterrupt:
    say("interrupted")
""",
            server.url,
        )
        until(lambda: in_line(server) == 1, "one in line")
        asked = time.monotonic()
        os.kill(waiter.pid, signal.SIGINT)
        assert waiter.hears() == "interrupted"
        assert time.monotonic() - asked < 20
        assert waiter.ends() == 0
        until(lambda: in_line(server) == 0, "an empty line")
    with semaphore:
        pass


def test_ctrl_c_ends_a_program_of_tasks_and_their_places(
    server: RedisServer, process: Start
) -> None:
    with SyncSemaphore("name", 1, connection=RedisStore(server.url)):
        waiter = process(
            """
async def enter():
    async with AsyncSemaphore("name", 1, connection=store):
        pass

async def main():
    await asyncio.gather(*(enter() for _ in range(5)))

try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("interrupted")
""",
            server.url,
        )
        until(lambda: in_line(server) == 5, "five in line")
        os.kill(waiter.pid, signal.SIGINT)
        assert waiter.hears() == "interrupted"
        assert waiter.ends() == 0
        until(lambda: in_line(server) == 0, "an empty line")


def test_a_forked_child_holds_nothing_and_gives_nothing_of_its_parent_back(
    server: RedisServer, process: Start
) -> None:
    parent = process(
        """
semaphore = SyncSemaphore("name", 1, max_sleep=0.2, expiry=0.6, connection=store)
with semaphore:
    child = os.fork()
    if child == 0:
        semaphore.__exit__(None, None, None)     # the block that it was forked in
        try:
            semaphore.__enter__()
            say("the child is in")
        except MaxSleepExceededError:
            say("shut")
        os._exit(0)
    os.waitpid(child, 0)
    say("child gone")
    hear()
    child = os.fork()
    if child == 0:
        hear()                                   # nothing renews here
        os._exit(0)
    say("forked", child)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        server.url,
    )
    assert parent.hears() == "shut"
    assert parent.hears() == "child gone"
    assert held(server) == 1
    parent.told()
    child = int(parent.hears().split()[1])
    try:
        with SyncSemaphore("name", 1, connection=RedisStore(server.url)):
            pass
    finally:
        os.kill(child, 9)


def test_a_forked_child_uses_the_semaphore_as_anybody(server: RedisServer, process: Start) -> None:
    parent = process(
        """
semaphore = SyncSemaphore("name", 1, expiry=0.3, connection=store)
with semaphore:
    if os.fork() == 0:
        say("waits")
        with semaphore:
            say("in")
            time.sleep(0.6)                      # longer than expiry: its own thread renews
            say("held", store._run(None, (b"x",), ("ZCARD", "limiters:v1:semaphore:{name}:held")))
        os._exit(0)
    hear()
os.wait()
say("end")
""",
        server.url,
    )
    assert parent.hears() == "waits"
    until(lambda: in_line(server) == 1, "the child in line")
    parent.told()
    assert parent.hears() == "in"
    assert parent.hears() == "held 1"
    assert parent.hears() == "end"


def test_waiting_processes_ask_next_to_nothing(server: RedisServer, process: Start) -> None:
    with SyncSemaphore("name", 1, connection=RedisStore(server.url)):
        waiters = [process(HOLDER, server.url, "30") for _ in range(4)]
        until(lambda: in_line(server) == 4, "four in line")
        before, since = commands(server), time.monotonic()
        time.sleep(1.5)  # this time is what is measured
        asked, seconds = commands(server) - before, time.monotonic() - since
    print(f"4 processes in line for {seconds:.1f} s: {asked} commands")
    assert asked <= 4 + 8 * seconds
    for waiter in waiters:
        waiter.kill()


def test_the_end_of_a_program_that_holds_nothing_leaves_no_trace_behind(
    server: RedisServer, process: Start
) -> None:
    one = process("with SyncSemaphore('name', 1, connection=store): pass\nsay('end')", server.url)
    assert one.hears() == "end"
    assert one.ends() == 0
    assert server.command("KEYS", "*") == []
    with pytest.raises(MaxSleepExceededError), SyncSemaphore("x", 1, connection=server.url):
        SyncSemaphore("x", 1, max_sleep=0.01, connection=server.url).__enter__()
