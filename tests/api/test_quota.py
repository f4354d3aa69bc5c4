"""Quota and Rate: the constructors, their bounds, and that a value once made never changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from headway import (
    Quota,
    Rate,
    parse_quota,
    per_day,
    per_duration,
    per_hour,
    per_min,
    per_sec,
    per_week,
)
from headway.exceptions import DataError

PERIODS: list[tuple[Callable[..., Quota], timedelta]] = [
    (per_sec, timedelta(seconds=1)),
    (per_min, timedelta(minutes=1)),
    (per_hour, timedelta(hours=1)),
    (per_day, timedelta(days=1)),
    (per_week, timedelta(weeks=1)),
]


@pytest.mark.parametrize(("make", "period"), PERIODS)
def test_a_named_period_makes_the_quota_of_that_period(
    make: Callable[..., Quota], period: timedelta
) -> None:
    quota = make(60, burst=90)
    assert quota == Quota(Rate(period, 60), 90)
    assert quota == make(60, 90)
    assert (quota.rate.period, quota.rate.limit, quota.burst) == (period, 60, 90)


@pytest.mark.parametrize(("make", "period"), PERIODS)
def test_the_burst_is_the_limit_unless_given(make: Callable[..., Quota], period: timedelta) -> None:
    assert make(60).burst == 60
    assert make(60, burst=0).burst == 0
    assert make(60, burst=None) == make(60)
    assert Quota(Rate(period, 60)).burst == 60
    assert per_duration(period, 60) == make(60)


def test_the_derived_values_are_in_seconds_and_per_second() -> None:
    quota = per_duration(timedelta(minutes=2), limit=120, burst=150)
    assert quota.period_sec == quota.get_period_sec() == 120
    assert quota.emission_interval == 1
    assert quota.fill_rate == 1
    assert quota.get_limit() == 120
    assert per_sec(100).emission_interval == 0.01
    assert per_min(100).fill_rate == pytest.approx(100 / 60)


def test_the_bounds_themselves_are_accepted() -> None:
    ten_years, microsecond = timedelta(days=3650), timedelta(microseconds=1)
    for period in (microsecond, ten_years):
        for limit in (1, 10**12):
            for burst in (0, 10**12):
                quota = per_duration(period, limit, burst)
                assert quota.rate.period == period
                assert quota.get_limit() == limit
                assert quota.burst == burst


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: per_sec(0), "0"),
        (lambda: per_sec(-1), "-1"),
        (lambda: per_sec(10**12 + 1), "1000000000001"),
        (lambda: per_sec(2**63), str(2**63)),
        (lambda: per_sec(10**30), "1" + "0" * 30),
        (lambda: per_sec(1, burst=-1), "-1"),
        (lambda: per_sec(1, burst=10**12 + 1), "1000000000001"),
        (lambda: per_sec(1, burst=2**64), str(2**64)),
        (lambda: per_duration(timedelta(0), 1), "0"),
        (lambda: per_duration(timedelta(seconds=-1), 1), "-1"),
        (lambda: per_duration(timedelta(days=3650, microseconds=1), 1), "3650"),
        (lambda: per_duration(timedelta.max, 1), "999999999"),
        (lambda: Rate(timedelta(0), 1), "0"),
        (lambda: Rate(timedelta(seconds=1), 0), "0"),
        (lambda: Quota(Rate(timedelta(seconds=1), 1), -1), "-1"),
    ],
)
def test_a_number_out_of_bounds_is_a_data_error_that_names_it(
    make: Callable[[], object], named: str
) -> None:
    with pytest.raises(DataError) as caught:
        make()
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: per_sec(bad),
        lambda bad: per_sec(1, burst=bad),
        lambda bad: per_duration(bad, 1),
        lambda bad: Rate(bad, 1),
        lambda bad: Rate(timedelta(seconds=1), bad),
        lambda bad: Quota(bad),
        lambda bad: Quota(Rate(timedelta(seconds=1), 1), bad),
    ],
)
@pytest.mark.parametrize("bad", [1.5, "1", b"1", [], object(), float("nan")])
def test_a_value_of_another_type_is_refused(make: Callable[[Any], object], bad: Any) -> None:
    with pytest.raises((DataError, TypeError)):
        make(bad)


@pytest.mark.parametrize(
    "value", [Rate(timedelta(seconds=3), 5), per_min(60, burst=90), per_sec(10**12)]
)
def test_a_value_is_immutable_comparable_hashable_and_picklable(value: Any) -> None:
    for name in ("limit", "burst", "rate", "period", "anything"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copied = pickle.loads(pickle.dumps(value, protocol))
        assert copied == value
        assert hash(copied) == hash(value)
        assert type(copied) is type(value)
    assert value != object()
    assert value != repr(value)
    assert value != None  # noqa: E711


def test_quotas_differ_when_any_field_differs() -> None:
    quotas = {per_sec(5), per_sec(6), per_sec(5, burst=6), per_min(5), per_sec(5)}
    assert len(quotas) == 4
    assert Rate(timedelta(seconds=60), 1) == Rate(timedelta(minutes=1), 1)
    assert Rate(timedelta(seconds=1), 1) != Rate(timedelta(seconds=1), 2)


def test_quota_and_rate_can_be_taken_apart_by_match() -> None:
    match per_min(60, burst=90):
        case Quota(Rate(period, limit), burst):
            assert (period, limit, burst) == (timedelta(minutes=1), 60, 90)
        case _:
            pytest.fail("a Quota did not match")


def test_the_repr_names_the_fields() -> None:
    text = repr(per_min(60, burst=90))
    assert text.startswith("Quota(")
    assert "Rate(" in text
    assert "limit=60" in text
    assert "burst=90" in text


def test_keywords_and_positions_mean_the_same() -> None:
    assert Rate(period=timedelta(seconds=1), limit=5) == Rate(timedelta(seconds=1), 5)
    assert Quota(rate=Rate(timedelta(seconds=1), 5), burst=7) == per_sec(limit=5, burst=7)
    assert per_duration(duration=timedelta(seconds=1), limit=5, burst=7) == per_sec(5, 7)
    with pytest.raises(TypeError):
        per_sec()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        per_sec(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        per_sec(1, brust=2)  # type: ignore[call-arg]


def test_quotas_come_in_text_too() -> None:
    assert parse_quota("60/min burst 90; 5/s") == (per_min(60, burst=90), per_sec(5))
