"""Rules as they stand in a policy: with a name, a key function and a limiter."""

from collections.abc import Iterable
from typing import Any

from headway import _core
from headway.contrib._headers import policy_members
from headway.contrib._keys import KeyFunction
from headway.contrib._rules import Concurrency, Quotas, QuotaSource, Rule, RuleLike
from headway.exceptions import SetUpError
from headway.types import AnyStore

__all__ = ["Entry", "Limits", "order_of", "rules_of"]


class Limits:
    """The quotas of a rule, or of one tier of it, with the limiter that counts them."""

    __slots__ = ("limiter", "member", "members", "policies", "quotas")

    def __init__(
        self, entry: "Entry", rule: Rule, quotas: Quotas, store: AnyStore, awaits: bool
    ) -> None:
        self.quotas = quotas
        kind = _core.AsyncThrottled if awaits else _core.Throttled
        # A full store evicts by prefix: a flood of one rule's keys frees no key of another rule.
        self.limiter: Any = kind(
            quota=list(quotas),
            using=rule.using,
            store=store,
            key_prefix=f"headway:{entry.prefix}",
        )
        found = policy_members(entry.name, quotas)
        self.members = [member for member, _ in found]
        self.member = self.members[0] if len(found) == 1 else None
        self.policies = ", ".join(policy for _, policy in found)

    def member_of(self, state: _core.RateLimitState) -> str:
        """The name in RateLimit of the quota that a state is of: the result does not tell.

        Limits tell them apart; among equal ones the shortest period that the reset fits in.
        """
        fitting = [
            (quota.period_sec, member)
            for quota, member in zip(self.quotas, self.members, strict=True)
            if state.limit in (quota.burst, quota.rate.limit)
        ]
        fitting.sort()
        for period, member in fitting:
            if state.reset_after <= period:
                return member
        return fitting[-1][1] if fitting else self.members[0]


class Entry:
    """A rule as it stands in a policy: named, with its key function and its limiter."""

    __slots__ = ("cost", "counts", "dry_run", "key", "limits", "name", "prefix", "rule", "tiers")

    def __init__(
        self, rule: Rule | Concurrency, name: str, key: KeyFunction, dry_run: bool
    ) -> None:
        self.rule, self.name = rule, name
        self.key: KeyFunction = rule.key or key
        self.prefix = f"{rule.scope or name}|"
        self.dry_run = dry_run or rule.dry_run
        self.counts = {"denied": 0, "dry_run": 0, "unavailable": 0}
        self.cost = rule.cost if isinstance(rule, Rule) and rule.cost_of is None else -1
        """-1 where the request says what it is."""
        self.limits: Limits | None = None
        self.tiers: dict[Quotas, Limits] = {}


def rules_of(
    limits: "QuotaSource | RuleLike | Iterable[RuleLike]", name: str
) -> list[tuple[Rule | Concurrency, str]]:
    """Each rule with the name it has where it has none of its own: `name`, or "name:1" and so on.

    They count under it, so of two policies on one store each needs a `name` of its own.
    """
    if isinstance(limits, (Rule, Concurrency)):
        return [(limits, name)]
    if isinstance(limits, (str, _core.Quota)) or callable(limits):
        return [(Rule(limits), name)]
    if not isinstance(limits, Iterable):
        raise SetUpError(
            f"Invalid limits: {limits!r}, must be text such as '100/minute', a Quota, a Rule, or a "
            "list of these."
        )
    found = list(limits)
    if not found:
        raise SetUpError("Invalid limits: an empty list, must have at least one quota or Rule.")
    if not any(isinstance(one, (Rule, Concurrency)) for one in found):
        return [(Rule(found), name)]
    rules = [one if isinstance(one, (Rule, Concurrency)) else Rule(one) for one in found]
    if len(rules) == 1:
        return [(rules[0], name)]
    return [(rule, f"{name}:{number}") for number, rule in enumerate(rules, 1)]


def order_of(entry: Entry) -> int:
    """Permits first, then what can give back, then windows."""
    if isinstance(entry.rule, Concurrency):
        return 0
    return 1 if entry.rule.gives_back else 2
