"""Processes that share memory: never more than the quota, whoever is killed, stopped or forked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headway import SharedMemoryStore, Throttled
from reference.strategies import USINGS

DEADLINE_S = 300.0
STORM = Path(__file__).with_name("shm_storm.py")


def start(program: str, *args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def storm(name: str, rounds: int, way: str) -> tuple[int, int, float, int]:
    done = subprocess.run(
        [sys.executable, str(STORM), name, str(rounds), "7", way],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    smallest, largest, longest, killed = done.stdout.split()
    return int(smallest), int(largest), float(longest), int(killed)


@pytest.mark.slow
def test_members_that_are_killed_take_nothing_along_and_give_nothing_twice(name: str) -> None:
    smallest, largest, longest, killed = storm(name, 100, "kill")
    assert killed > 20  # the rest were through before
    assert largest <= 0  # never more than the quota
    assert smallest >= -2  # each that was killed may have been admitted and not have counted it
    assert longest < 20


@pytest.mark.slow
def test_members_that_are_stopped_hold_nobody_up(name: str) -> None:
    smallest, largest, longest, _ = storm(name, 40, "stop")
    assert (smallest, largest) == (0, 0)
    assert longest < 20


_ASKS = """
import sys
from headway import Throttled
limiter = Throttled("key", using=sys.argv[2], quota="500/1000h; 600/2000h", store=sys.argv[1])
print(sum(bool(limiter.limit()) for _ in range(300)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("using", USINGS)
def test_unrelated_processes_are_given_exactly_the_quota(using: str, name: str) -> None:
    url = f"shm:///{name}?size=256K"
    children = [start(_ASKS, url, using, PYTHONHASHSEED=str(seed)) for seed in range(4)]
    given = [int(child.communicate(timeout=DEADLINE_S)[0]) for child in children]
    assert sum(given) == 500


_FORKS = """
import os, sys
from headway import Throttled
limiter = Throttled("key", quota="1000/1000h", store=sys.argv[1])
if sys.argv[2] == "used":
    assert limiter.limit()
reader, writer = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.write(writer, b"%d\\n" % sum(bool(limiter.limit()) for _ in range(400)))
        os._exit(0)
os.close(writer)
given = sum(map(int, os.fdopen(reader)))
for _ in range(4):
    os.wait()
print(given + (sys.argv[2] == "used"), limiter.store.processes)
"""


@pytest.mark.parametrize("when", ["used", "unused"])
def test_a_limiter_made_before_a_fork_serves_the_children(when: str, name: str) -> None:
    child = start(_FORKS, f"shm:///{name}?size=256K", when)
    given, alive = child.communicate(timeout=DEADLINE_S)[0].split()
    assert int(given) == 1000
    assert int(alive) == (1 if when == "used" else 0)  # the children are gone


_SPAWNS = """
import multiprocessing, sys
from headway import SharedMemoryStore, Throttled
def ask(store):
    limiter = Throttled("key", quota="100/1000h", store=store)
    return sum(bool(limiter.limit()) for _ in range(60))
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        store = SharedMemoryStore(sys.argv[2], size="256K")
        print(sum(pool.map(ask, [sys.argv[1], store] * 2, chunksize=1)))
"""


@pytest.mark.slow
def test_spawned_workers_share_by_name_and_by_a_store_that_they_are_given(
    name: str, tmp_path: Path
) -> None:
    program = tmp_path / "spawns.py"
    program.write_text(_SPAWNS)
    done = subprocess.run(
        [sys.executable, str(program), f"shm:///{name}?size=256K", name],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout == "100\n", done.stderr


_RACES = """
import sys
from headway import SharedMemoryStore, Throttled
store = SharedMemoryStore(sys.argv[1], size="1M")
print(int(store._created), int(bool(Throttled("key", quota="1/1000h", store=store).limit())))
"""


@pytest.mark.slow
def test_of_processes_that_make_it_at_once_one_does(name: str) -> None:
    children = [start(_RACES, name) for _ in range(6)]
    said = [child.communicate(timeout=DEADLINE_S)[0].split() for child in children]
    assert sum(int(made) for made, _ in said) == 1
    assert sum(int(admitted) for _, admitted in said) == 1


def test_what_a_process_leaves_behind_is_found_by_the_next(name: str) -> None:
    url = f"shm:///{name}?size=256K"
    first = start(_ASKS, url, "gcra")
    assert first.communicate(timeout=DEADLINE_S)[0] == "300\n"
    limiter = Throttled("key", using="gcra", quota="500/1000h; 600/2000h", store=url)
    assert limiter.peek().remaining == 200


def test_a_closed_descriptor_does_not_make_a_process_look_dead(name: str) -> None:
    store = SharedMemoryStore(name, size="256K")
    limiter = Throttled("key", quota="10/1000h", store=store)
    assert limiter.limit()
    place = f"/dev/shm/headway.{name}"
    if not os.path.exists(place):
        pytest.skip("no /dev/shm here")
    os.close(os.open(place, os.O_RDONLY))  # drops the process' record locks
    child = start(_COUNTS, name)
    assert child.communicate(timeout=DEADLINE_S)[0] == "2\n"


def test_a_store_that_goes_closes_no_descriptor_of_others(
    name: str, run_python: Callable[..., str]
) -> None:
    """A daemon closes all that is open; the number may be another file's by then."""
    said = run_python(_CLOSES, name)
    assert said.split() == ["open"]


_CLOSES = """
import os, sys
from headway import SharedMemoryStore
before = os.open(os.devnull, os.O_RDONLY)
os.close(before)
store = SharedMemoryStore(sys.argv[1], size="128K")
os.close(before)  # its own, which was the lowest that is free
assert os.open(os.devnull, os.O_RDONLY) == before
del store
os.fstat(before)
print("open")
"""


_COUNTS = """
import sys
from headway import SharedMemoryStore, Throttled
store = SharedMemoryStore(sys.argv[1])
Throttled("key", quota="10/1000h", store=store).limit()
print(store.processes)
"""
