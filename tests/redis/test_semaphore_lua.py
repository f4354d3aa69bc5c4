"""The script of semaphores on its own: who gets a permit, who is told, what lapses, and that each
key lives as long as what it holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from semaphore_help import semaphore_keys
from servers import RedisServer

from headway.store import RedisStore

HELD, LINE, LISTENERS = semaphore_keys("name")
SECOND = 1_000_000
Ask = Callable[..., tuple[int, int, float, list[int]]]


@pytest.fixture
def ask(server: RedisServer) -> Ask:
    """Takes steps: `ask("a", ("enter", "a:1"), capacity=1)`; a term and a place may follow."""
    store = RedisStore(server.url)
    keys = tuple(key.encode() for key in (HELD, LINE, LISTENERS))

    def take(listener: str, *steps: Any, capacity: int = 1, beat: float = 5.0) -> Any:
        words: list[Any] = [capacity, listener, int(beat * SECOND)]
        for step in steps:
            verb, name, term, place = (*step, *(1.0, 0)[len(step) - 2 :])
            words += [verb, name, int(term * SECOND), place]
        held, waiting, lapse_us, *places = store._run("semaphore", keys, tuple(words))
        lapse = int(lapse_us) / SECOND if int(lapse_us) >= 0 else -1
        return held, waiting, lapse, [int(place) for place in places]

    return take


def news(server: RedisServer, listener: str) -> list[str]:
    return list(server.command("LRANGE", f"limiters:v1:semaphore:{{name}}:news:{listener}", 0, -1))


def test_a_free_permit_is_held_at_once(ask: Ask) -> None:
    assert ask("a", ("enter", "a:1")) == (1, 0, -1, [0])


def test_who_finds_none_is_in_line_in_the_order_of_asking(ask: Ask) -> None:
    ask("a", ("enter", "a:1"))
    first = ask("b", ("enter", "b:1"))[3][0]
    held, waiting, _, places = ask("c", ("enter", "c:1"), ("enter", "c:2"))
    assert (held, waiting) == (1, 3)
    assert 0 < first < places[0] < places[1]


def test_a_permit_that_comes_back_goes_to_the_head_who_is_told(
    ask: Ask, server: RedisServer
) -> None:
    ask("a", ("enter", "a:1"))
    ask("b", ("enter", "b:1"))
    ask("c", ("enter", "c:1"))
    assert ask("a", ("leave", "a:1")) == (1, 1, -1, [-1])
    assert (news(server, "b"), news(server, "c")) == (["b:1"], [])
    assert server.command("ZRANGE", HELD, 0, -1) == ["b:1"]


def test_nobody_overtakes_the_line_though_a_permit_is_free(ask: Ask, server: RedisServer) -> None:
    ask("a", ("enter", "a:1"), capacity=1)
    ask("b", ("enter", "b:1"), capacity=1)
    # Who knows of a larger capacity gives the free one to the head first.
    assert ask("c", ("enter", "c:1"), capacity=2)[3][0] > 0
    assert news(server, "b") == ["b:1"]


def test_who_asks_is_told_by_the_reply_and_not_by_news(ask: Ask, server: RedisServer) -> None:
    ask("a", ("enter", "a:1"))
    place = ask("b", ("enter", "b:1"))[3][0]
    assert ask("b", ("leave", "a:1"), ("wait", "b:1", 1.0, place))[3] == [-1, 0]
    assert news(server, "b") == []


def test_leaving_the_line_is_no_more_than_that(ask: Ask) -> None:
    ask("a", ("enter", "a:1"))
    ask("b", ("enter", "b:1"))
    assert ask("b", ("leave", "b:1")) == (1, 0, -1, [-1])


def test_a_permit_that_was_handed_over_and_is_not_wanted_goes_on(
    ask: Ask, server: RedisServer
) -> None:
    ask("a", ("enter", "a:1"))
    ask("b", ("enter", "b:1"))
    ask("c", ("enter", "c:1"))
    ask("a", ("leave", "a:1"))
    ask("", ("leave", "b:1"))
    assert news(server, "c") == ["c:1"]


def test_a_lease_lapses_after_its_term_and_not_before(ask: Ask) -> None:
    start = time.monotonic()
    ask("a", ("enter", "a:1", 0.2))
    places = [1]
    while places != [0]:
        held, _, lapse, places = ask("b", ("wait", "b:1", 1.0, 1))
        assert held == 1
        assert lapse <= 0.2
    assert 0.2 <= time.monotonic() - start < 30


def test_renewing_extends_a_lease_and_writes_a_lost_one_again(
    ask: Ask, server: RedisServer
) -> None:
    ask("a", ("enter", "a:1", 0.5))
    ask("a", ("renew", "a:1", 60.0))
    assert 30 < float(server.command("ZSCORE", HELD, "a:1")) / SECOND - _now(server) < 61
    server.command("FLUSHALL")
    assert ask("a", ("renew", "a:1", 60.0)) == (1, 0, -1, [0])


def test_a_place_that_the_server_lost_is_taken_again(ask: Ask, server: RedisServer) -> None:
    ask("a", ("enter", "a:1"))
    first = ask("b", ("enter", "b:1"))[3][0]
    second = ask("c", ("enter", "c:1"))[3][0]
    server.command("FLUSHALL")
    ask("a", ("renew", "a:1"))
    ask("c", ("wait", "c:1", 1.0, second))
    ask("b", ("wait", "b:1", 1.0, first))
    assert server.command("ZRANGE", LINE, 0, -1) == ["b:1", "c:1"]


def test_a_listener_that_is_not_heard_of_loses_its_turn(ask: Ask, server: RedisServer) -> None:
    ask("a", ("enter", "a:1"))
    ask("dead", ("enter", "dead:1"), beat=0.05)
    ask("c", ("enter", "c:1"))
    time.sleep(0.06)
    ask("a", ("leave", "a:1"))
    assert (news(server, "dead"), news(server, "c")) == ([], ["c:1"])


def test_a_permit_handed_to_one_who_dies_is_free_when_he_is_not_heard_of(
    ask: Ask, server: RedisServer
) -> None:
    ask("a", ("enter", "a:1"))
    ask("dead", ("enter", "dead:1", 60.0), beat=0.1)
    ask("a", ("leave", "a:1"))
    assert server.command("ZRANGE", HELD, 0, -1) == ["dead:1"]
    time.sleep(0.11)
    assert ask("c", ("enter", "c:1"))[3] == [0]
    assert news(server, "dead") == []  # whoever reads it now is told nothing wrong


def test_only_the_head_of_the_line_is_told_when_the_next_lease_lapses(ask: Ask) -> None:
    ask("a", ("enter", "a:1", 5.0))
    assert 4 < ask("b", ("enter", "b:1"))[2] <= 5
    assert ask("c", ("enter", "c:1"))[2] < 0


def test_a_smaller_capacity_takes_nothing_away(ask: Ask) -> None:
    ask("a", ("enter", "a:1"), ("enter", "a:2"), capacity=2)
    assert ask("b", ("enter", "b:1"), capacity=1)[:2] == (2, 1)
    assert ask("a", ("leave", "a:1"), capacity=1)[:2] == (1, 1)


def test_every_key_outlives_what_it_holds_and_ends(ask: Ask, server: RedisServer) -> None:
    ask("a", ("enter", "a:1", 7.0))
    ask("b", ("enter", "b:1"))
    ask("c", ("enter", "c:1"))
    ask("a", ("leave", "a:1"))
    ask("c", ("enter", "c:2", 9.0), capacity=2)
    keys = server.command("KEYS", "*")
    assert len(keys) == 5
    for key in keys:
        left_ms = server.command("PTTL", key)
        assert 4000 < left_ms < 11_000, key
        if key in (HELD, LISTENERS):
            last = float(server.command("ZREVRANGE", key, 0, 0, "WITHSCORES")[1]) / SECOND
            assert _now(server) + server.command("PTTL", key) / 1000 > last


def test_a_step_that_is_not_known_is_an_error(ask: Ask) -> None:
    with pytest.raises(Exception, match="no step 'push'"):
        ask("a", ("push", "a:1"))


def _now(server: RedisServer) -> float:
    seconds, microseconds = server.command("TIME")
    return int(seconds) + int(microseconds) / SECOND
