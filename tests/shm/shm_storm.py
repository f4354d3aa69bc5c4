"""A program for the tests: members that decide on one key, and are killed in the middle of it.

    python shm_storm.py NAME ROUNDS SEED kill|stop

In each round four forked members take from a key until it is denied, and one or two of them are
killed, or stopped for a while, at some moment. What was admitted is counted by the members
themselves. Prints the smallest and largest number that was given in a round, less the quota, after
this process has taken what was left, the longest time that it had to wait for a decision, and how
many members were killed before they were through.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time

from headway import SharedMemoryStore, Throttled

MEMBERS = 4
QUOTA = 60_000


def main(name: str, rounds: int, seed: int, way: str) -> None:
    chance = random.Random(seed)
    counts = memoryview(mmap.mmap(-1, 4096)).cast("q")
    store = SharedMemoryStore(name, size="256K")
    smallest, largest, longest, killed = 0, -QUOTA, 0.0, 0
    for at in range(rounds):
        limiter = Throttled(
            f"round-{at}", quota=f"{QUOTA}/1000h; {QUOTA + 1}/2000h", store=store, using="gcra"
        )
        for i in range(MEMBERS):
            counts[i] = 0
        members = [start(limiter, counts, i) for i in range(MEMBERS)]
        time.sleep(chance.random() * 0.004)
        hit = chance.sample(members, chance.choice([1, 2]))
        for member in hit:
            os.kill(member, signal.SIGKILL if way == "kill" else signal.SIGSTOP)
        own = 0
        while True:
            before = time.perf_counter()
            admitted = bool(limiter.limit())
            longest = max(longest, time.perf_counter() - before)
            if not admitted:
                break
            own += 1
        for member in hit if way == "stop" else ():
            os.kill(member, signal.SIGCONT)
        for member in members:
            killed += os.WIFSIGNALED(os.waitpid(member, 0)[1])
        given = own + sum(counts[:MEMBERS]) - QUOTA
        smallest, largest = min(smallest, given), max(largest, given)
        assert not limiter.limit()
    print(smallest, largest, longest, killed)


def start(limiter: Throttled, counts: memoryview, index: int) -> int:
    member = os.fork()
    if member == 0:
        admitted = 0
        while limiter.limit():
            admitted += 1
            counts[index] = admitted  # one store; struct.pack_into would clear it first
        os._exit(0)
    return member


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
