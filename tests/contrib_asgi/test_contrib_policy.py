"""Rules to verdicts: which rules apply, what they take, and what a denial gives back."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from contrib_stage import Plain, closed_port, decisions

import headway
from headway import MemoryStore, VirtualClock, per_min
from headway.contrib import Concurrency, Policy, Rule, client_address, combine, route
from headway.contrib._paths import kept
from headway.exceptions import DataError, SetUpError, StoreUnavailableError

NOBODY = "redis://127.0.0.1:{}/0?connect_timeout=0.2&timeout=0.2"


def left(policy: Policy, facts: Plain) -> dict[str, int]:
    """What is left of each rule, asked without taking anything."""
    free = Policy(
        [
            Rule(list(e.rule.quotas or ()), name=e.name, using=e.rule.using, cost=0)
            for e in policy.entries
            if isinstance(e.rule, Rule)
        ],
        store=policy.store,
    )
    outcomes = free.decide(facts).outcomes
    return {one.name: one.result.state.remaining for one in outcomes if one.result}


class TestRules:
    def test_text_a_quota_and_a_list_are_limits(self) -> None:
        for limits in ("2/m", per_min(2), ["2/m", "100/h"], [per_min(2)], Rule("2/m")):
            assert decisions(Policy(limits), [Plain()] * 3) == [200, 200, 429]  # type: ignore[arg-type]

    def test_a_rule_holds_for_its_paths_and_methods_only(self) -> None:
        policy = Policy(Rule("1/m", paths=["/login", "/users/{id}", "/api/*"], methods="post"))
        for path in ("/login", "/users/7", "/api/a/b"):
            assert policy.applying("POST", path), path
            assert not policy.applying("GET", path), path
        for path in ("/login/x", "/logins", "/users/7/posts", "/api", "/x/login"):
            assert not policy.applying("POST", path), path

    def test_head_is_limited_as_get_is(self) -> None:
        assert Policy(Rule("1/m", methods="GET")).applying("HEAD", "/")

    def test_all_rules_that_match_must_admit(self) -> None:
        policy = Policy([Rule("3/m", name="all"), Rule("1/m", name="login", paths="/login")])
        login, other = Plain(path="/login"), Plain(path="/other")
        assert decisions(policy, [login, login, other, other, other]) == [200, 429, 200, 200, 429]

    def test_routes_of_one_rule_share_a_count_unless_the_key_has_the_route(self) -> None:
        a, b = Plain(path="/a"), Plain(path="/b")
        assert decisions(Policy("1/m"), [a, b]) == [200, 429]
        apart = Policy("1/m", key=combine(client_address(), route()))
        assert decisions(apart, [a, b, a]) == [200, 200, 429]

    def test_rules_of_one_scope_share_a_count(self) -> None:
        rules = [
            Rule("1/m", name="a", paths="/a", scope="both"),
            Rule("1/m", name="b", paths="/b", scope="both"),
        ]
        assert decisions(Policy(rules), [Plain(path="/a"), Plain(path="/b")]) == [200, 429]

    def test_policies_share_counts_by_a_store_and_not_otherwise(self) -> None:
        store = MemoryStore()
        first, second = Policy("1/m", store=store), Policy("1/m", store=store)
        assert decisions(first, [Plain()]) + decisions(second, [Plain()]) == [200, 429]
        assert decisions(Policy("1/m"), [Plain()]) == [200]

    def test_exempt_paths_and_callables_are_left_out(self) -> None:
        policy = Policy(
            "1/m", exempt=["/health", "/static/*", lambda request: request.name == "op"]
        )
        free = [Plain(path="/health"), Plain(path="/static/a/b.css"), Plain(name="op")]
        assert decisions(policy, free * 2) == [200] * 6
        assert decisions(policy, [Plain()] * 2) == [200, 429]

    def test_a_rule_has_exemptions_of_its_own(self) -> None:
        rules = [Rule("1/m", name="a", exempt="/free"), Rule("2/m", name="b")]
        assert decisions(Policy(rules), [Plain(path="/free")] * 3) == [200, 200, 429]

    def test_quota_by_user_tier(self) -> None:
        tiers = {"free": "1/m", "paid": ["3/m", "100/h"], "staff": None}
        policy = Policy(
            Rule(lambda request: tiers[request.headers["tier"]]), key=lambda r: r.headers["tier"]
        )
        for tier, expected in {
            "free": [200, 429, 429, 429],
            "paid": [200, 200, 200, 429],
            "staff": [200] * 4,
        }.items():
            assert decisions(policy, [Plain(headers={"tier": tier})] * 4) == expected, tier

    def test_a_bare_callable_is_a_quota_too(self) -> None:
        assert decisions(Policy(lambda request: "1/m"), [Plain()] * 2) == [200, 429]

    def test_cost_by_request(self) -> None:
        policy = Policy(Rule("10/m", cost=lambda request: int(request.headers["n"])))
        costs = ["6", "0", "5", "4"]
        requests = [Plain(headers={"n": n}) for n in costs]
        assert decisions(policy, requests) == [200, 200, 429, 200]

    def test_every_algorithm_can_be_chosen(self, store: MemoryStore) -> None:
        for using in headway._core.ALGORITHMS:
            policy = Policy(Rule("2/m", using=using, scope=using), store=store)
            assert decisions(policy, [Plain()] * 3) == [200, 200, 429], using


class TestGivingBack:
    def test_a_denied_request_consumes_nothing_of_other_rules(self) -> None:
        policy = Policy([Rule("10/m", name="wide"), Rule("1/m", name="narrow")])
        assert decisions(policy, [Plain()] * 5) == [200, 429, 429, 429, 429]
        assert left(policy, Plain()) == {"wide": 9, "narrow": 0}

    def test_a_bucket_gets_back_what_a_window_denies(self) -> None:
        policy = Policy(
            [Rule("1/h", name="window", using="fixed_window"), Rule("10/m", name="wide")]
        )
        assert decisions(policy, [Plain()] * 4) == [200, 429, 429, 429]
        assert left(policy, Plain()) == {"wide": 9, "window": 0}

    @pytest.mark.parametrize("using", ["fixed_window", "sliding_window"])
    def test_of_several_windows_the_one_that_denies_is_asked_first(
        self, using: str, store: MemoryStore
    ) -> None:
        rules = [Rule("10/h", name="wide", using=using), Rule("1/h", name="narrow", using=using)]
        policy = Policy(rules, store=store)
        assert decisions(policy, [Plain()] * 4) == [200, 429, 429, 429]
        assert left(policy, Plain()) == {"wide": 9, "narrow": 0}

    def test_one_rule_of_several_quotas_is_one_step(self) -> None:
        policy = Policy("1/m; 10/h")
        assert decisions(policy, [Plain()] * 4) == [200, 429, 429, 429]

    def test_a_rule_in_a_dry_run_gets_back_what_another_denies(self) -> None:
        rules = [Rule("10/m", name="dry", dry_run=True), Rule("1/m", name="real")]
        policy = Policy(rules)
        decisions(policy, [Plain()] * 5)
        assert left(policy, Plain())["dry"] == 9

    def test_what_is_left_of_two_rules_agrees_with_counting(self) -> None:
        store = MemoryStore(clock=VirtualClock(10**18))
        policy = Policy([Rule("7/h", name="a"), Rule("5/h", name="b", paths="/b")], store=store)
        a = b = 0
        for n in range(30):
            on_b = n % 3 != 1
            fits = a < 7 and (b < 5 or not on_b)
            path = "/b" if on_b else "/a"
            assert decisions(policy, [Plain(path=path)]) == [200 if fits else 429], n
            a, b = a + fits, b + (fits and on_b)


class TestDryRun:
    def test_it_denies_nothing_and_tells_the_log_and_the_counts(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = Policy("1/m", dry_run=True)
        with caplog.at_level(logging.INFO, "headway.contrib"):
            verdicts = [policy.decide(Plain()) for _ in range(3)]
        assert [verdict.status for verdict in verdicts] == [200] * 3
        assert [verdict.fields() for verdict in verdicts] == [[]] * 3
        assert [len(verdict.dry) for verdict in verdicts] == [0, 1, 1]
        assert len(caplog.records) == 2
        assert "'default' would deny" in caplog.text
        assert policy.counts() == {"default": {"denied": 0, "dry_run": 2, "unavailable": 0}}

    def test_one_rule_is_tried_beside_another_that_is_enforced(self) -> None:
        policy = Policy([Rule("3/m", name="old"), Rule("1/m", name="new", dry_run=True)])
        assert decisions(policy, [Plain()] * 4) == [200, 200, 200, 429]
        assert policy.counts()["new"]["dry_run"] == 2  # the fourth is denied before it is asked
        assert policy.counts()["old"]["denied"] == 1


class TestStoreDown:
    def policy(self, on_error: str, **options: Any) -> Policy:
        return Policy("1/m", store=NOBODY.format(closed_port()), on_error=on_error, **options)

    def test_deny_is_503_with_retry_after(self) -> None:
        verdict = self.policy("deny").decide(Plain())
        assert verdict.status == 503
        assert verdict.fields() == [("retry-after", "5")]
        assert isinstance(verdict.error, StoreUnavailableError)
        assert verdict.problem()["title"] == "Service Unavailable"

    def test_allow_lets_requests_pass_without_fields(self) -> None:
        verdict = self.policy("allow").decide(Plain())
        assert (verdict.status, verdict.fields()) == (200, [])
        assert isinstance(verdict.error, StoreUnavailableError)

    def test_raise_is_the_stores_own_error(self) -> None:
        with pytest.raises(StoreUnavailableError):
            self.policy("raise").decide(Plain())

    def test_a_dry_run_lets_pass_whatever_on_error_says(self) -> None:
        assert self.policy("raise", dry_run=True).decide(Plain()).status == 200

    def test_the_log_says_once_that_it_is_down(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = self.policy("deny")
        with caplog.at_level(logging.WARNING, "headway.contrib"):
            for _ in range(3):
                policy.decide(Plain())
        assert [r.name for r in caplog.records if r.name == "headway.contrib"] == [
            "headway.contrib"
        ]
        assert policy.counts()["default"]["unavailable"] == 3


class TestConcurrency:
    def test_so_many_at_a_time_for_each_key(self) -> None:
        policy = Policy(Concurrency(2))
        held = [policy.decide(Plain()) for _ in range(3)]
        assert [one.status for one in held] == [200, 200, 429]
        assert policy.decide(Plain(ip="192.0.2.99")).status == 200
        held[0].release()
        assert policy.decide(Plain()).status == 200

    def test_what_a_rule_denies_keeps_no_permit_after_release(self) -> None:
        policy = Policy([Concurrency(1, name="one"), Rule("1/m", name="rate")])
        for expected in (200, 429, 429):
            verdict = policy.decide(Plain())
            assert verdict.status == expected
            assert verdict.denied is None or verdict.denied.name == "rate"
            verdict.release()

    def test_what_it_denies_takes_nothing_of_a_rate(self) -> None:
        policy = Policy([Rule("10/m", name="rate"), Concurrency(1, name="one")])
        held = [policy.decide(Plain()) for _ in range(4)]
        assert [one.status for one in held] == [200, 429, 429, 429]
        assert left(policy, Plain()) == {"rate": 9}

    def test_a_callable_that_raises_leaves_no_permit_behind(self) -> None:
        fails = [True]

        def cost(request: Plain) -> int:
            if fails[0]:
                raise RuntimeError("no cost")
            return 1

        policy = Policy([Concurrency(1, name="one"), Rule("10/m", cost=cost, name="rate")])
        with pytest.raises(RuntimeError, match="no cost"):
            policy.decide(Plain())
        fails[0] = False
        assert policy.decide(Plain()).status == 200

    def test_a_file_has_permits_too(self, tmp_path: Any) -> None:
        policy = Policy(Concurrency(1), store=f"sqlite:///{tmp_path}/limits.db")
        verdict = policy.decide(Plain())
        assert [verdict.status, policy.decide(Plain()).status] == [200, 429]
        verdict.release()
        assert policy.decide(Plain()).status == 200


class TestAwaited:
    def test_it_decides_as_the_other_does(self) -> None:
        rules = [Rule("2/m", name="a"), Rule("3/m", name="b", using="fixed_window", paths="/b")]

        async def run() -> list[int]:
            policy = Policy(rules, awaits=True)
            return [(await policy.decide_async(Plain(path="/b"))).status for _ in range(4)]

        assert asyncio.run(run()) == decisions(Policy(rules), [Plain(path="/b")] * 4)

    def test_every_callable_may_be_a_coroutine_function(self) -> None:
        async def key(request: Plain) -> str:
            await asyncio.sleep(0)
            return "k"

        async def quota(request: Plain) -> str:
            return "4/m"

        async def cost(request: Plain) -> int:
            return 2

        async def never(request: Plain) -> bool:
            return False

        async def run() -> list[int]:
            rule = Rule(quota, key=key, cost=cost, exempt=never)
            policy = Policy(rule, awaits=True, exempt=never)
            return [(await policy.decide_async(Plain())).status for _ in range(3)]

        assert asyncio.run(run()) == [200, 200, 429]

    def test_where_nothing_is_awaited_a_coroutine_function_is_named(self) -> None:
        async def key(request: Plain) -> str:
            return "k"

        with pytest.raises(SetUpError, match="coroutine function"):
            Policy("1/m", key=key)
        with pytest.raises(DataError, match="not a coroutine function"):
            Policy("1/m", key=lambda request: key(request)).decide(Plain())


class TestBadInput:
    @pytest.mark.parametrize(
        ("limits", "options", "words"),
        [
            ("1/fortnight", {}, "fortnight"),
            ([], {}, "Invalid limits: an empty list"),
            (5, {}, "Invalid limits: 5"),
            ("1/m", {"headers": "all"}, "Invalid headers: 'all', must be one of: both, ietf, x"),
            ("1/m", {"reset": "soon"}, "Invalid reset: 'soon'"),
            ("1/m", {"on_error": "pass"}, "Invalid on_error: 'pass'"),
            ("1/m", {"store": 5}, "Invalid store: 5"),
            ("1/m", {"exempt": 5}, "Invalid exempt: 5"),
            ("1/m", {"exempt": "health"}, "Invalid exempt: 'health', must begin with"),
            ([Rule("1/m", name="a"), Rule("2/m", name="a")], {}, "two rules are named 'a'"),
        ],
    )
    def test_a_policy_names_what_is_wrong(self, limits: Any, options: Any, words: str) -> None:
        with pytest.raises((SetUpError, DataError)) as error:
            Policy(limits, **options)
        assert words in str(error.value)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"name": 'a"b'}, "Invalid name: 'a\"b'"),
            ({"name": ""}, "Invalid name: ''"),
            ({"scope": "a|b"}, "Invalid scope: 'a|b'"),
            ({"paths": "login"}, "Invalid paths: 'login', must begin with"),
            ({"paths": []}, "Invalid paths: []"),
            ({"methods": 5}, "Invalid methods: 5"),
            ({"cost": -1}, "Invalid cost: -1"),
            ({"cost": 1.5}, "Invalid cost: 1.5"),
            ({"using": "magic"}, "Invalid using: 'magic', must be one of"),
            ({"key": "ip"}, "Invalid key: 'ip'"),
        ],
    )
    def test_a_rule_names_what_is_wrong(self, options: Any, words: str) -> None:
        with pytest.raises((SetUpError, DataError)) as error:
            Rule("1/m", **options)
        assert words in str(error.value)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"limit": 0}, "Invalid limit: 0"),
            ({"limit": True}, "Invalid limit: True"),
            ({"limit": 1, "expiry": 0}, "Invalid expiry: 0"),
            ({"limit": 1, "retry_after": 0}, "Invalid retry_after: 0"),
        ],
    )
    def test_a_concurrency_names_what_is_wrong(self, arguments: Any, words: str) -> None:
        with pytest.raises(DataError) as error:
            Concurrency(**arguments)
        assert words in str(error.value)

    def test_what_a_quota_callable_returns_is_checked(self) -> None:
        with pytest.raises(DataError, match="Invalid quota: 7"):
            Policy(lambda request: 7).decide(Plain())

    def test_what_a_cost_callable_returns_is_checked(self) -> None:
        with pytest.raises(DataError, match="Invalid cost: -3"):
            Policy(Rule("1/m", cost=lambda request: -3)).decide(Plain())


def test_what_is_kept_of_paths_is_bounded_in_length_too() -> None:
    called: list[str] = []

    def found(path: str) -> int:
        called.append(path)
        return len(path)

    answer = kept(found, 8)
    for path in ("/short", "/" + "x" * 5000):
        assert [answer(path) for _ in range(3)] == [len(path)] * 3
    assert len(called) == 1 + 3
