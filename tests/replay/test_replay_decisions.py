"""Who is denied, when and how much: held against answers by hand and against exact fractions."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from made_logs import BASE, log_line

Write = Callable[..., str]
Report = Callable[..., Any]

ALGORITHMS = ("token_bucket", "leaking_bucket", "gcra", "fixed_window", "sliding_window")
SECOND = 10**9


def test_a_small_log_gives_the_answer_worked_out_by_hand(write: Write, report: Report) -> None:
    # 1/s burst 2, all requests of a second at its start. A: 4 at once (2 pass, 2 fail), 1 a second
    # later (passes), 3 at 60 s (2 pass, 1 fails), 1 at 61 s (passes). B: never more than 2.
    a, b = "192.0.2.1", "192.0.2.2"
    lines = [log_line(0, a)] * 4 + [log_line(0, b)] * 2 + [log_line(1, a)]
    lines += [log_line(60, a)] * 3 + [log_line(61, a), log_line(61, b)]
    result = report(write(lines), "--quota", "1/s burst 2", "--using", "gcra", "--no-spread")
    assert result["log"] == {
        "requests": 12,
        "clients": 2,
        "first": "2024-03-01T12:00:00+00:00",
        "last": "2024-03-01T12:01:01+00:00",
        "peak_per_second": 6,
        "peak_per_minute": 7,
    }
    assert result["quotas"] == [
        {
            "quota": "1/s burst 2",
            "using": "gcra",
            "requests": 12,
            "denied": 3,
            "denied_percent": 25.0,
            "clients_limited": 1,
            "clients_limited_percent": 50.0,
            "first_denied": "2024-03-01T12:00:00+00:00",
            "last_denied": "2024-03-01T12:01:00+00:00",
            "worst_minute": "2024-03-01T12:00:00+00:00",
            "worst_minute_denied": 2,
            "evictions": 0,
            "top": [
                {
                    "client": a,
                    "requests": 9,
                    "denied": 3,
                    "denied_percent": 33.3333,
                    "longest_run": 2,
                    "peak_per_second": 4,
                    "peak_per_minute": 5,
                    "first_denied": "2024-03-01T12:00:00+00:00",
                    "last_denied": "2024-03-01T12:01:00+00:00",
                    "worst_minute": "2024-03-01T12:00:00+00:00",
                    "worst_minute_denied": 2,
                }
            ],
        }
    ]


def test_requests_of_one_second_are_spread_over_it_in_order_of_appearance(
    write: Write, report: Report
) -> None:
    # Four requests in one second arrive at 0, 1/4, 1/2, 3/4 s. At 2/s burst 1, a token comes every
    # half second: the first and the third pass. All at the start: only the first does.
    path = write([log_line(0)] * 4)
    quota = ("--quota", "2/s burst 1", "--using", "gcra")
    assert report(path, *quota)["quotas"][0]["denied"] == 2
    assert report(path, *quota, "--spread") == report(path, *quota)
    assert report(path, *quota, "--no-spread")["quotas"][0]["denied"] == 3


def test_a_run_of_denials_ends_with_an_admission_of_the_same_client_only(
    write: Write, report: Report
) -> None:
    # 1/m burst 1. A is denied at 1, 2, 3 s while others come in between, and at 61 s.
    lines = [log_line(0, "a"), log_line(1, "a"), log_line(1, "b"), log_line(2, "a")]
    lines += [log_line(2, "c"), log_line(3, "a"), log_line(60, "a"), log_line(61, "a")]
    top = report(write(lines), "--quota", "1/m", "--using", "gcra")["quotas"][0]["top"]
    assert [(row["client"], row["denied"], row["longest_run"]) for row in top] == [("a", 4, 3)]


def test_a_fixed_cost_counts_every_request_several_times(write: Write, report: Report) -> None:
    path = write([log_line(0)] * 5)
    quota = ("--quota", "1/h burst 10", "--no-spread")
    assert report(path, *quota, "--cost", "3")["quotas"][0]["denied"] == 2
    assert report(path, *quota, "--cost", "2")["quotas"][0]["denied"] == 0
    assert report(path, *quota, "--cost", "11")["quotas"][0]["denied"] == 5


def test_the_cost_may_be_the_bytes_sent(write: Write, report: Report) -> None:
    path = write([log_line(0, size=size) for size in ("600", "-", "500", "400", "0")])
    result = report(path, "--quota", "1/h burst 1000", "--cost", "bytes", "--no-spread")
    assert result["cost"] == "bytes"
    assert result["quotas"][0]["denied"] == 1  # 600 fits, 500 does not, 400 does; - and 0 are free


class Bucket:
    """Token bucket in fractions of a token."""

    def __init__(self, limit: int, period: int, burst: int) -> None:
        self.rate, self.burst = Fraction(limit, period), burst
        self.tokens, self.at = Fraction(burst), 0

    def admits(self, now: int) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Windows:
    """Fixed windows, or sliding ones that weigh the window before."""

    def __init__(self, limit: int, period: int, sliding: bool) -> None:
        self.limit, self.period, self.sliding = limit, period, sliding
        self.counts: dict[int, int] = defaultdict(int)

    def admits(self, now: int) -> bool:
        window, into = divmod(now, self.period)
        used = Fraction(self.counts[window])
        if self.sliding:
            used += self.counts[window - 1] * Fraction(self.period - into, self.period)
        if used + 1 > self.limit:
            return False
        self.counts[window] += 1
        return True


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("using", ALGORITHMS)
def test_denials_are_those_of_exact_fractions(
    using: str, spread: bool, write: Write, report: Report
) -> None:
    rng = random.Random(f"{using} {spread}")
    seconds = sorted(rng.randrange(40) for _ in range(600))
    requests = [
        (second, f"192.0.2.{min(rng.randrange(12), rng.randrange(12))}") for second in seconds
    ]
    expected: dict[str, int] = defaultdict(int)
    limiters: dict[str, Bucket | Windows] = {}
    position: dict[int, int] = defaultdict(int)
    for second, client in requests:
        step = SECOND // seconds.count(second) if spread else 0
        now = (BASE + second) * SECOND + position[second] * step
        position[second] += 1
        if client not in limiters:
            limiters[client] = (
                Windows(7, 3 * SECOND, using == "sliding_window")
                if using.endswith("window")
                else Bucket(7, 3 * SECOND, 4)
            )
        expected[client] += not limiters[client].admits(now)
    path = write([log_line(second, client) for second, client in requests])
    how = "--spread" if spread else "--no-spread"
    result = report(path, "--quota", "7/3s burst 4", "--using", using, how, "--top", "99")
    found = {row["client"]: row["denied"] for row in result["quotas"][0]["top"]}
    assert found == {client: count for client, count in expected.items() if count}
    assert result["quotas"][0]["denied"] == sum(expected.values()) > 0


def test_quotas_side_by_side_decide_as_each_alone(write: Write, report: Report) -> None:
    path = write([log_line(i // 5, f"192.0.2.{i % 4}") for i in range(300)])
    quotas = ["1/s", "5/m", "2/s; 30/m", "1000/s"]
    together = report(path, *(word for quota in quotas for word in ("--quota", quota)))["quotas"]
    assert together == [report(path, "--quota", quota)["quotas"][0] for quota in quotas]
    assert together[-1]["denied"] == 0
    assert together[-1]["top"] == []


def test_peaks_count_seconds_and_minutes_of_the_clock(write: Write, report: Report) -> None:
    lines = [log_line(58, "a")] * 3 + [log_line(59, "a")] + [log_line(60, "a")] * 2
    lines += [log_line(61, "b")] * 2
    result = report(write(lines), "--quota", "1/h burst 0", "--top", "9")
    assert (result["log"]["peak_per_second"], result["log"]["peak_per_minute"]) == (3, 4)
    peaks = {
        row["client"]: (row["peak_per_second"], row["peak_per_minute"])
        for row in result["quotas"][0]["top"]
    }
    assert peaks == {"a": (3, 4), "b": (2, 2)}


def test_the_same_log_gives_the_same_bytes(write: Write, replay: Callable[..., Any]) -> None:
    path = write([log_line(i // 9, f"192.0.2.{i * i % 7}") for i in range(500)])
    for arguments in (["--quota", "1/s"], ["--quota", "1/s", "--json"], ["--json"], []):
        first, second = replay(path, *arguments), replay(path, *arguments)
        assert first.code == 0
        assert first.out == second.out
