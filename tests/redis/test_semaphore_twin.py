"""The script of semaphores and its twin for stores of one machine say and do the same."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from semaphore_help import semaphore_keys
from servers import RedisServer

from effort import examples
from headway.limiters._permit_steps import State, take
from headway.store import RedisStore

LONG_US = 600_000_000
LISTENERS = ("a", "b", "c")
names = itertools.count()

step = st.tuples(
    st.sampled_from(["enter", "enter", "wait", "leave", "renew"]),
    st.sampled_from(LISTENERS),
    st.integers(1, 3),
)
call = st.tuples(st.sampled_from(LISTENERS), st.integers(1, 3), st.lists(step, max_size=4))


def ranks(places: list[int]) -> list[int]:
    """Places are instants, by two clocks; their order is what counts."""
    order = sorted({place for place in places if place > 0})
    return [order.index(place) + 1 if place > 0 else place for place in places]


def test_the_script_and_its_twin_agree(server: RedisServer) -> None:
    store = RedisStore(server.url)

    @settings(max_examples=examples(150), deadline=None)
    @given(st.lists(call, min_size=1, max_size=25))
    def run(calls: list[Any]) -> None:
        keys = tuple(key.encode() for key in semaphore_keys(f"twin{next(names)}"))
        state, now = State(), 10**15
        known: dict[str, tuple[int, int]] = {}
        for listener, capacity, steps in calls:
            now += 1000
            ours, theirs = [], []
            for verb, owner, number in steps:
                id = f"{owner}:{number}"
                mine, its = known.get(id, (0, 0))
                if verb == "wait" and mine <= 0:
                    continue  # nobody says so who was never in line
                ours.append((verb, id, LONG_US, mine))
                theirs += [verb, id, LONG_US, its]
            answer = take(state, now, capacity, listener, LONG_US, ours)
            state = State.read(state.write())
            words = (capacity, listener, LONG_US, *theirs)
            held, waiting, lapse, *places = store._run("semaphore", keys, words)
            assert (answer.held, answer.waiting) == (held, waiting)
            assert (answer.lapse < 0) == (int(lapse) < 0)
            assert ranks(answer.places) == ranks([int(place) for place in places])
            for (_, id, _, _), mine, its in zip(ours, answer.places, places, strict=True):
                known[id] = mine, int(its)
            for name in LISTENERS:
                news = server.command("LRANGE", keys[0][:-4] + b"news:" + name.encode(), 0, -1)
                assert list(news) == state.news.get(name, [])

    run()
