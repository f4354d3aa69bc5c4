"""What clients are told, held against literal fields and headway's own reader of responses."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from contrib_stage import Plain
from hypothesis import given
from hypothesis import strategies as st

from headway import MemoryStore, VirtualClock, _core, per_duration
from headway.contrib import Concurrency, Policy, Rule
from headway.contrib._headers import policy_members, whole_seconds
from headway.contrib._verdict import accepts_json


def told(limits: Any, store: MemoryStore, **options: Any) -> dict[str, str]:
    return dict(Policy(limits, store=store, **options).decide(Plain()).fields())


class TestFields:
    def test_one_rule_in_both_forms(self, store: MemoryStore) -> None:
        assert told("100/m", store) == {
            "ratelimit-policy": '"default";q=100;w=60',
            "ratelimit": '"default";r=99;t=1',
            "x-ratelimit-limit": "100",
            "x-ratelimit-remaining": "99",
            "x-ratelimit-reset": "1",
        }

    def test_several_rules_are_all_in_ratelimit_and_the_tightest_in_x(
        self, store: MemoryStore
    ) -> None:
        rules = [Rule("100/m", name="all"), Rule("5/m", name="login"), Rule("1000/h", name="hour")]
        assert told(rules, store) == {
            "ratelimit-policy": '"all";q=100;w=60, "login";q=5;w=60, "hour";q=1000;w=3600',
            "ratelimit": '"all";r=99;t=1, "login";r=4;t=12, "hour";r=999;t=4',
            "x-ratelimit-limit": "5",
            "x-ratelimit-remaining": "4",
            "x-ratelimit-reset": "12",
        }

    def test_a_rule_of_several_quotas_tells_all_policies_and_the_tightest_state(
        self, store: MemoryStore
    ) -> None:
        found = told(Rule("10/m; 50/h", name="api"), store)
        assert found["ratelimit-policy"] == '"api-1";q=10;w=60, "api-2";q=50;w=3600'
        assert found["ratelimit"] == '"api-1";r=9;t=6'

    def test_equal_limits_are_told_apart_by_their_reset(self, store: MemoryStore) -> None:
        found = told(Rule("5/m; 5/h", name="api"), store)
        assert found["ratelimit"] == '"api-2";r=4;t=720'

    def test_a_denial_has_retry_after_and_names_who_denies(self, store: MemoryStore) -> None:
        policy = Policy([Rule("9/m", name="wide"), Rule("1/m", name="narrow")], store=store)
        policy.decide(Plain())
        verdict = policy.decide(Plain())
        assert dict(verdict.fields()) == {
            "ratelimit-policy": '"narrow";q=1;w=60',
            "ratelimit": '"narrow";r=0;t=60',
            "x-ratelimit-limit": "1",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "60",
            "retry-after": "60",
        }

    def test_retry_after_is_rounded_up_and_then_enough(self) -> None:
        clock = VirtualClock(1_700_000_003 * 10**9)
        policy = Policy("7/m", store=MemoryStore(clock=clock))
        for _ in range(7):
            policy.decide(Plain())
        verdict = policy.decide(Plain())
        assert verdict.retry_after == 9  # 60 / 7 is 8.57
        clock.advance(9)
        assert policy.decide(Plain()).allowed

    def test_a_cost_that_never_fits_has_no_retry_after(self, store: MemoryStore) -> None:
        verdict = Policy(Rule("5/m", cost=6), store=store).decide(Plain())
        assert verdict.status == 429
        assert "retry-after" not in dict(verdict.fields())
        assert verdict.problem()["detail"] == "This request costs more than the quota ever allows."

    def test_the_style_can_be_chosen(self, store: MemoryStore) -> None:
        assert set(told("9/m", store, headers="ietf")) == {"ratelimit-policy", "ratelimit"}
        assert all(name.startswith("x-") for name in told("9/m", store, headers="x"))
        assert told("9/m", store, headers="none") == {}

    def test_retry_after_stands_whatever_the_style(self, store: MemoryStore) -> None:
        policy = Policy("1/m", store=store, headers="none")
        policy.decide(Plain())
        assert policy.decide(Plain()).fields() == [("retry-after", "60")]

    def test_reset_may_be_a_unix_time(self, store: MemoryStore) -> None:
        before = time.time()
        found = told("1/m", store, reset="at")
        assert before + 60 <= int(found["x-ratelimit-reset"]) <= time.time() + 61
        assert found["ratelimit"] == '"default";r=0;t=60'

    def test_concurrency_is_told_where_it_denies(self) -> None:
        policy = Policy(Concurrency(1, name="live", retry_after=7))
        held = policy.decide(Plain())
        assert held.allowed
        assert dict(policy.decide(Plain()).fields()) == {
            "ratelimit-policy": '"live";q=1;qu="concurrent-requests"',
            "ratelimit": '"live";r=0;t=7',
            "x-ratelimit-limit": "1",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": "7",
            "retry-after": "7",
        }

    @pytest.mark.parametrize(
        ("milliseconds", "limit", "told"),
        [
            (500, 100, "q=200;w=1"),
            (1500, 3, "q=6;w=3"),
            (60_000, 5, "q=5;w=60"),
            (100, 7, "q=70;w=1"),
            (1500.001, 1000, "q=1333;w=2"),
        ],
    )
    def test_a_period_that_is_no_whole_second_is_told_as_one_that_is(
        self, milliseconds: float, limit: int, told: str
    ) -> None:
        quota = per_duration(timedelta(milliseconds=milliseconds), limit)
        assert policy_members("n", [quota]) == [('"n"', f'"n";{told}')]

    @given(
        st.lists(
            st.tuples(
                st.integers(1, 10**12),
                st.integers(1, 10**12).map(lambda us: timedelta(microseconds=us)),
                st.sampled_from(sorted(set(_core.ALGORITHMS))),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_a_client_reads_what_the_limiter_said(self, drawn: list[Any]) -> None:
        """headway's reader of responses is held against other readers elsewhere."""
        rules = [
            Rule(per_duration(period, limit), name=f"n{i}", using=using)
            for i, (limit, period, using) in enumerate(drawn)
        ]
        verdict = Policy(rules, headers="ietf").decide(Plain())
        seen = _core.parse_headers(verdict.fields(), 200)
        assert seen.ignored == 0
        by_name = {one.name: one for one in seen.dimensions}
        for outcome in verdict.outcomes:
            assert outcome.result is not None
            assert by_name[outcome.name].remaining == outcome.result.state.remaining

    def test_whole_seconds_are_never_early(self) -> None:
        found = [whole_seconds(value) for value in (0.001, 1.0, 1.0001, float("inf"))]
        assert found == [1, 1, 2, None]


class TestBody:
    def denied(self) -> Any:
        policy = Policy("1/m", store=MemoryStore(clock=VirtualClock(10**18)))
        policy.decide(Plain())
        return policy.decide(Plain())

    def test_json_is_a_problem_of_the_drafts_type(self) -> None:
        verdict = self.denied()
        assert verdict.body("application/json")[0] == "application/problem+json"
        assert verdict.problem() == {
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "Too Many Requests",
            "status": 429,
            "detail": "Rate limit exceeded: try again in 60 seconds.",
            "violated-policies": ["default"],
            "retry_after": 60,
        }

    def test_text_is_the_same_sentence(self) -> None:
        assert self.denied().body("text/html") == (
            "text/plain; charset=utf-8",
            b"Rate limit exceeded: try again in 60 seconds.\n",
        )

    @pytest.mark.parametrize(
        ("accept", "json"),
        [
            (None, True),
            ("*/*", True),
            ("application/json", True),
            ("application/problem+json, text/html", True),
            ("application/*;q=0.5", True),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
            ("text/plain", False),
            ("application/json;q=0, text/plain", False),
            ("image/png", False),
        ],
    )
    def test_json_is_for_those_who_accept_it(self, accept: str | None, json: bool) -> None:
        assert accepts_json(accept) is json


def test_only_the_beginning_of_a_long_accept_is_read() -> None:
    """A denial costs the server little, whatever a client sends with its request."""
    filler = "text/x-a;q=0.1," * 69
    assert accepts_json(f"text/html,{filler[:900]}application/json")
    assert not accepts_json(f"text/html,{filler}application/json")
    assert accepts_json("application/json," + ",;" * 30_000)
