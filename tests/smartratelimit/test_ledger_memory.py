"""MemoryStorage is bounded: a program that meets hosts without end forgets those it can spare."""

from __future__ import annotations

import pytest
from fake_exchange import Exchange

from headway._core import now_ns
from headway.smartratelimit import RateLimiter, RateLimitExceeded
from headway.smartratelimit.storage import MemoryStorage

S = 10**9
HOUR = 3600 * S


def meet(storage: MemoryStorage, key: str, now: int) -> bytes:
    """A request that has come and gone; its ticket."""
    ticket = storage.change(key, "reserve", None, now, 0)
    assert isinstance(ticket, bytes)
    storage.change(key, "observe", ticket, None, now, now)
    return ticket


def test_hosts_without_end_are_bounded() -> None:
    storage = MemoryStorage(max_scopes=100)
    for number in range(1000):
        meet(storage, f"https://h{number}", now_ns())
        assert len(storage.keys()) <= 100
    assert f"https://h{number}" in set(storage.keys())


def test_the_least_recently_used_is_forgotten_first() -> None:
    storage, now = MemoryStorage(max_scopes=8), now_ns()
    for number in range(8):
        meet(storage, f"https://h{number}", now - HOUR + 60 * S * number)
    meet(storage, "https://h0", now)
    meet(storage, "https://new", now)
    assert sorted(storage.keys()) == [f"https://h{n}" for n in (0, 3, 4, 5, 6, 7)] + ["https://new"]


def test_what_is_under_way_or_exhausted_outlives_what_is_idle() -> None:
    storage, now = MemoryStorage(max_scopes=8), now_ns()
    storage.change("https://under.way", "reserve", None, now, 0)
    storage.change("https://full", "configure", "requests", 1, 100 * HOUR, "default")
    storage.change("https://full", "reserve", None, now - HOUR, 0)
    blocked = storage.change("https://blocked", "reserve", None, now - HOUR, 0)
    told = ((), None, "after", 2 * HOUR, True)
    storage.change("https://blocked", "observe", blocked, told, now - HOUR, now - HOUR)
    kept = {"https://under.way", "https://full", "https://blocked"}
    for number in range(100):
        meet(storage, f"https://h{number}", now)
    assert kept < set(storage.keys())


def test_it_is_bounded_where_nothing_is_idle_too() -> None:
    storage = MemoryStorage(max_scopes=10)
    for number in range(100):
        storage.change(f"https://h{number}", "reserve", None, now_ns(), 0)
    assert len(storage.keys()) <= 10


def test_what_was_set_by_hand_stays() -> None:
    limiter = RateLimiter(storage := MemoryStorage(max_scopes=10), raise_on_limit=True)
    limiter.set_limit("https://api.example.com", 1, "1h")
    exchange = Exchange(limiter)
    exchange.get("https://api.example.com/")
    for number in range(50):
        exchange.get(f"https://h{number}/")
    assert len(storage.keys()) <= 10
    with pytest.raises(RateLimitExceeded):
        exchange.get("https://api.example.com/")


def test_a_host_that_was_forgotten_gets_its_default_limits_again() -> None:
    storage = MemoryStorage(max_scopes=4)
    limiter = RateLimiter(storage, {"requests_per_hour": 2}, raise_on_limit=True)
    exchange = Exchange(limiter)
    exchange.get("https://a/")
    storage.clear()
    exchange.get("https://a/")
    exchange.get("https://a/")
    with pytest.raises(RateLimitExceeded):
        exchange.get("https://a/")


def test_a_response_that_comes_after_its_host_was_forgotten_harms_nothing() -> None:
    storage = MemoryStorage()
    limiter = RateLimiter(storage)

    def forget(_: object) -> tuple[int, dict[str, str]]:
        storage.clear()
        return 200, {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "8"}

    assert Exchange(limiter, forget).get("https://a/") == 200
    status = limiter.get_status("https://a")
    assert status is not None
    assert (status.limit, status.remaining) == (9, 8)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", None, True])
def test_a_bound_that_is_none_is_named(wrong: object) -> None:
    with pytest.raises(ValueError, match="Invalid max_scopes"):
        MemoryStorage(max_scopes=wrong)  # type: ignore[arg-type]
