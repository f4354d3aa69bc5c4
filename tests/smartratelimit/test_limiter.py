"""RateLimiter: limits that are set, seeded, defaults or learned; costs; errors; storages."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from stub_adapter import StubAdapter, requests, session_of

from headway.smartratelimit import (
    MetricsCollector,
    Provider,
    RateLimiter,
    RateLimitExceeded,
    RetryConfig,
    SeedLimit,
    StorageUnavailable,
    register_provider,
)
from headway.smartratelimit.exceptions import InvalidArgument
from headway.smartratelimit.providers import PROVIDERS
from headway.smartratelimit.storage import Storage

URL = "https://api.example.com/data"


def told(limit: int, remaining: int, reset: int = 3000) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(reset),
    }


def test_a_limit_that_is_set_holds_though_headers_tell_another() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    limiter.set_limit("api.example.com", 2, "1h")
    session = session_of(limiter, StubAdapter(lambda request: (200, told(1000, 999))))
    session.get(URL)
    session.get(URL)
    with pytest.raises(RateLimitExceeded) as caught:
        session.get(URL)
    assert caught.value.endpoint == "https://api.example.com"
    assert 0 < (caught.value.retry_after or 0) <= 1800
    status = limiter.get_status("api.example.com")
    assert status is not None
    assert (status.limit, status.remaining, status.confidence) == (2, 0, "configured")


def test_a_limit_that_the_server_tells_is_kept() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    adapter = StubAdapter(lambda request: (200, told(10, 10 - len(adapter.sent))))
    session = session_of(limiter, adapter)
    for _ in range(10):
        session.get(URL)
    with pytest.raises(RateLimitExceeded, match=r"api\.example\.com"):
        session.get(URL)
    assert len(adapter.sent) == 10


def test_a_host_without_a_scheme_is_meant_for_http_too() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    limiter.set_limit("api.example.com", 1, "1h")
    session = session_of(limiter, StubAdapter())
    session.get("http://api.example.com/")
    with pytest.raises(RateLimitExceeded):
        session.get("http://api.example.com/")


def test_several_defaults_hold_together_until_a_header_tells() -> None:
    limits = {"requests_per_minute": 60, "requests_per_day": 3, "tokens_per_minute": 100}
    limiter = RateLimiter(default_limits=limits, raise_on_limit=True)
    session = session_of(limiter, StubAdapter())
    session.get(URL, cost={"tokens": 100})  # type: ignore[call-arg]
    with pytest.raises(RateLimitExceeded):
        session.get(URL, cost={"tokens": 100})  # type: ignore[call-arg]
    session.get(URL)
    session.get(URL)
    with pytest.raises(RateLimitExceeded):
        session.get(URL)
    other = session_of(limiter, StubAdapter(lambda request: (200, told(1000, 500))))
    other.get("https://b.example/")
    status = limiter.get_status("b.example")
    assert status is not None
    assert (status.limit, status.remaining, status.confidence) == (1000, 500, "confirmed")


def test_a_profile_is_a_seed_for_its_scopes() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    session = session_of(limiter, StubAdapter())
    for _ in range(10):
        session.get("https://api.github.com/search/code")
    with pytest.raises(RateLimitExceeded) as caught:
        session.get("https://api.github.com/search/users")
    assert caught.value.endpoint == "https://api.github.com/search"
    session.get("https://api.github.com/users/octocat")
    status = limiter.get_status("api.github.com")
    assert status is not None
    assert (status.limit, status.remaining, status.confidence) == (60, 59, "registry")
    assert RateLimiter(use_provider_profiles=False).get_status("api.github.com") is None


def test_a_registered_profile_knows_who_is_authenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.smartratelimit.providers.PROVIDERS", dict(PROVIDERS))
    monkeypatch.delitem(PROVIDERS, "own.example", raising=False)
    seeds = Provider("Own", "no headers", {"": [SeedLimit(1, "1h")]}, {"": [SeedLimit(3, "1h")]})
    register_provider("own.example", seeds)
    limiter = RateLimiter(authenticated=True, raise_on_limit=True)
    session = session_of(limiter, StubAdapter())
    for _ in range(3):
        session.get("https://own.example/")
    with pytest.raises(RateLimitExceeded):
        session.get("https://own.example/")


def test_resources_of_one_host_are_counted_apart() -> None:
    def answer(request: Any) -> tuple[int, dict[str, str]]:
        search = "/find" in (request.url or "")
        resource = {"X-RateLimit-Resource": "search" if search else "core"}
        return 200, {**told(10 if search else 5000, 0 if search else 4999), **resource}

    limiter = RateLimiter(raise_on_limit=True)
    session = session_of(limiter, StubAdapter(answer))
    session.get("https://h.example/users/1")
    session.get("https://h.example/find/code")
    session.get("https://h.example/users/2")
    with pytest.raises(RateLimitExceeded):
        session.get("https://h.example/find/code")


def test_partitions_have_limits_of_their_own() -> None:
    limiter = RateLimiter(
        raise_on_limit=True, partition=lambda url, headers: headers.get("Authorization")
    )
    limiter.set_limit("api.example.com", 1, "1h")
    session = session_of(limiter, StubAdapter())
    session.get(URL, headers={"Authorization": "a"})
    session.get(URL, headers={"Authorization": "b"})
    with pytest.raises(RateLimitExceeded) as caught:
        session.get(URL, headers={"Authorization": "a"})
    assert caught.value.endpoint == "https://api.example.com"


@pytest.mark.parametrize(
    "cost", [-1, float("nan"), float("inf"), "3", {"tokens": -1}, {1: 2}, True]
)
def test_a_cost_that_makes_no_sense_is_an_error_and_nothing_is_sent(cost: Any) -> None:
    adapter = StubAdapter()
    session = session_of(RateLimiter(), adapter)
    with pytest.raises(InvalidArgument, match="Invalid cost"):
        session.get(URL, cost=cost)  # type: ignore[call-arg]
    assert adapter.sent == []


def test_a_cost_that_nobody_meters_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    session = session_of(RateLimiter(), StubAdapter(lambda request: (200, told(100, 90))))
    for _ in range(3):
        session.get(URL, cost={"tokns": 900})  # type: ignore[call-arg]
    assert [record.message for record in caplog.records if "tokns" in record.message] == [
        "a request to api.example.com costs 'tokns', which has no limit there: it is not metered"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"default_limits": {"requests_per_fortnight": 3}},
        {"default_limits": {"requests_per_minute": 0}},
        {"default_limits": [1]},
        {"max_wait": -1},
        {"max_wait": float("nan")},
        {"retry": 3},
        {"partition": "key"},
        {"metrics": object()},
        {"headers_map": {"limits": "X-Limit"}},
        {"storage": "postgres://x"},
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, Exception), match=r"Invalid|Unknown storage"):
        RateLimiter(**arguments)


@pytest.mark.parametrize("window", ["1.5h", "h1", "", "0s", "10", "1y"])
def test_a_wrong_window_is_a_value_error(window: str) -> None:
    with pytest.raises(ValueError, match="Invalid window"):
        RateLimiter().set_limit("api.example.com", 1, window)


def test_what_would_wait_for_too_long_is_refused_at_once() -> None:
    limiter = RateLimiter(max_wait=5)
    session = session_of(limiter, StubAdapter(lambda request: (200, told(10, 0, 3000))))
    session.get(URL)
    with pytest.raises(RateLimitExceeded) as caught:
        session.get(URL)
    assert 2900 < (caught.value.retry_after or 0) <= 3000


def test_a_cost_that_never_fits_is_refused_for_ever() -> None:
    limiter = RateLimiter()
    limiter.set_limit("api.example.com", 10, "1h")
    with pytest.raises(RateLimitExceeded) as caught:
        session_of(limiter, StubAdapter()).get(URL, cost=11)  # type: ignore[call-arg]
    assert caught.value.retry_after == float("inf")


def test_absurd_headers_stop_nothing() -> None:
    absurd = {
        "X-RateLimit-Limit": "10" * 40,
        "X-RateLimit-Remaining": "-1",
        "X-RateLimit-Reset": "NaN",
        "Retry-After": "\u00ff" * 2_000,
        "Date": "Thu, 01 Jan 1970 00:00:00 GMT",
    }
    session = session_of(RateLimiter(max_wait=1), StubAdapter(lambda request: (200, absurd)))
    for _ in range(5):
        assert session.get(URL).status_code == 200


def test_a_map_of_headers_is_obeyed() -> None:
    names = {
        "limit": "X-My-API-Limit",
        "remaining": "X-My-API-Remaining",
        "reset": "X-My-API-Reset",
    }
    limiter = RateLimiter(headers_map=names)
    mine = {"X-My-API-Limit": "7", "X-My-API-Remaining": "3", "X-My-API-Reset": "60"}
    session_of(limiter, StubAdapter(lambda request: (200, mine))).get(URL)
    status = limiter.get_status("api.example.com")
    assert status is not None
    assert (status.limit, status.remaining) == (7, 3)
    assert 55 < (status.reset_in or 0) <= 60


def test_clear_forgets_one_host_or_all() -> None:
    limiter = RateLimiter()
    session = session_of(limiter, StubAdapter(lambda request: (200, told(10, 0))))
    session.get(URL)
    session.get("http://b.example/")
    assert limiter.list_endpoints() == ["http://b.example", "https://api.example.com"]
    limiter.clear("api.example.com")
    assert limiter.list_endpoints() == ["http://b.example"]
    session.get(URL)
    limiter.clear()
    assert limiter.list_endpoints() == []


def quick(**more: Any) -> RetryConfig:
    return RetryConfig(base_delay=0.001, **more)


def test_a_429_is_sent_again_and_the_last_answer_is_the_callers() -> None:
    adapter = StubAdapter(lambda request: (429 if len(adapter.sent) < 3 else 200, {}))
    response = session_of(RateLimiter(retry=quick()), adapter).post(URL, data=b"body")
    assert (response.status_code, len(adapter.sent)) == (200, 3)
    adapter = StubAdapter(lambda request: (503, {}))
    response = session_of(RateLimiter(retry=quick()), adapter).get(URL)
    assert (response.status_code, len(adapter.sent)) == (503, 4)
    assert response is adapter.responses[-1]


def test_a_body_that_cannot_be_sent_twice_is_sent_once() -> None:
    adapter = StubAdapter(lambda request: (429, {}))
    response = session_of(RateLimiter(retry=quick()), adapter).post(URL, data=iter([b"a", b"b"]))
    assert (response.status_code, len(adapter.sent)) == (429, 1)


def test_a_file_is_sent_again_from_where_it_began(tmp_path: Path) -> None:
    bodies = []

    def answer(request: Any) -> tuple[int, dict[str, str]]:
        bodies.append(request.body.read())  # type: ignore[union-attr]
        return (429 if len(bodies) == 1 else 200), {}

    file = tmp_path / "file"
    file.write_bytes(b"head-body")
    with file.open("rb") as body:
        body.seek(5)
        session_of(RateLimiter(retry=quick()), StubAdapter(answer)).post(URL, data=body)
    assert bodies == [b"body", b"body"]


def test_a_refusal_is_raised_where_nobody_wants_to_wait() -> None:
    limiter = RateLimiter(raise_on_limit=True)
    session = session_of(limiter, StubAdapter(lambda request: (429, {"Retry-After": "20"})))
    for _ in range(2):
        with pytest.raises(RateLimitExceeded) as caught:
            session.get(URL)
        assert 18 < (caught.value.retry_after or 0) <= 23


@pytest.mark.parametrize(
    ("error", "remaining"),
    [(requests.ConnectTimeout("no"), 5), (requests.ReadTimeout("late"), 4), (ValueError("x"), 4)],
)
def test_what_was_never_sent_costs_nothing(error: Exception, remaining: int) -> None:
    def fail(request: Any) -> tuple[int, dict[str, str]]:
        if len(adapter.sent) == 1:
            return 200, told(6, 5)
        raise error

    limiter, adapter = RateLimiter(), StubAdapter(fail)
    session = session_of(limiter, adapter)
    session.get(URL)
    with pytest.raises(type(error)):
        session.get(URL)
    status = limiter.get_status("api.example.com")
    assert status is not None
    assert status.remaining == remaining


def test_requests_and_waits_are_counted_where_a_collector_is_given() -> None:
    metrics = MetricsCollector()
    limiter = RateLimiter(metrics=metrics)
    session_of(limiter, StubAdapter(lambda request: (200, told(10, 4)))).get(URL)
    counted = metrics.get_metrics("api.example.com")
    assert counted["total_requests"] == 1
    assert counted["waits"]["count"] == 1
    assert counted["rate_limit_history"][0]["remaining"] == 4


class Failing(Storage):
    """Works until it is told to fail."""

    fails = False

    def update(self, key: str, step: Any) -> Any:
        if self.fails:
            raise OSError("the disk is gone")
        return step(None)[1]

    def get(self, key: str) -> None:
        return None

    def keys(self) -> list[str]:
        return []

    def clear(self, key: str | None = None) -> None:
        pass


def test_a_storage_that_fails_lets_requests_pass_and_says_so_once_each_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = Failing()
    session = session_of(RateLimiter(storage), StubAdapter())
    with caplog.at_level(logging.WARNING):
        session.get(URL)
        storage.fails = True
        for _ in range(3):
            assert session.get(URL).status_code == 200
        storage.fails = False
        session.get(URL)
    assert [record.message for record in caplog.records] == [
        "the storage of limits fails (the disk is gone); requests go unlimited until it answers",
        "the storage of limits answers again; requests are limited",
    ]


def test_fail_closed_stops_requests_when_the_storage_fails() -> None:
    storage, adapter = Failing(), StubAdapter()
    session = session_of(RateLimiter(storage, fail_closed=True), adapter)
    storage.fails = True
    with pytest.raises(StorageUnavailable, match="the disk is gone"):
        session.get(URL)
    assert adapter.sent == []


def test_a_storage_that_cannot_be_opened_is_an_error_always(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        RateLimiter(f"sqlite:///{tmp_path}/missing/limits.db")


def test_limits_outlive_the_limiter(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/limits.db"
    with RateLimiter(url) as first:
        session_of(first, StubAdapter(lambda request: (200, told(10, 0)))).get(URL)
        first.set_limit("api.example.com/search", 5, "1h")
    with RateLimiter(url, raise_on_limit=True) as second:
        session = session_of(second, StubAdapter())
        with pytest.raises(RateLimitExceeded):
            session.get(URL)
        session.get("https://api.example.com/search/x")
        status = second.get_status("api.example.com/search")
        assert status is not None
        assert (status.limit, status.remaining) == (5, 4)
