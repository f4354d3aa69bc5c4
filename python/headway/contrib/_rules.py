"""Rules: which requests are limited, how much, and under which key.

    Rule("100/minute")                                            everything, by client address
    Rule("5/minute", name="login", paths="/login", methods="POST")
    Rule(quota_of_plan, name="api", paths="/api/*", key=api_key(), exempt="/api/health")
    Concurrency(5, paths="/ws/*")                                 five at a time for each client

All rules that match a request must admit it. A rule counts by its scope, which is its name, and
its key: routes that one rule matches share a count, and so do rules of one scope on one store. A
rule without a name has that of the endpoint or the policy it is for: "search", or of several
"search:1" and so on.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from headway import _core
from headway.contrib._facts import Facts
from headway.contrib._keys import KeyFunction, KeyLike, key_function
from headway.contrib._paths import Paths
from headway.exceptions import DataError, SetUpError

__all__ = [
    "BUCKETS",
    "Concurrency",
    "Exempt",
    "Exemptions",
    "QuotaSource",
    "Rule",
    "RuleLike",
    "checked_name",
    "checked_switch",
    "quotas_of",
]

Quotas = tuple[_core.Quota, ...]
QuotaSource = Any
"""A quota, quota text, a list of either, or a callable of the request that returns one or None."""
Exempt = str | Callable[[Any], Any]

_NAME = re.compile(r"[!#-\[\]-{}~]+")  # visible ASCII, but what quotes it in a header, and "|"
BUCKETS = frozenset({"token_bucket", "leaking_bucket", "gcra"})
"""The algorithms that can give back."""


def quotas_of(quota: object) -> Quotas:
    """The quotas that `quota` stands for. Raises DataError, as every limiter does."""
    if isinstance(quota, _core.Quota):
        return (quota,)
    if isinstance(quota, str):
        return _core.parse_quota(quota)
    if isinstance(quota, (list, tuple)) and quota:
        return tuple(one for part in quota for one in quotas_of(part))
    raise DataError(
        f"Invalid quota: {quota!r}, must be text such as '100/minute', a Quota, or a list of them."
    )


def checked_name(field: str, value: object) -> str:
    """A name of a rule: it stands in header fields and begins keys. Raises SetUpError."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise SetUpError(
        f"Invalid {field}: {value!r}, must be visible ASCII characters without quotation marks, "
        "backslashes and '|'."
    )


def checked_switch(field: str, value: object) -> bool:
    """A bool: the text "false" of an environment is true. Raises SetUpError."""
    if isinstance(value, bool):
        return value
    raise SetUpError(f"Invalid {field}: {value!r}, must be True or False.")


def _names(field: str, value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if isinstance(names, Iterable):
        found = tuple(names)
        if found and all(isinstance(name, str) and name for name in found):
            return found
    raise SetUpError(f"Invalid {field}: {value!r}, must be a non-empty string or a list of them.")


class Exemptions:
    """Who is left out: path patterns, and callables that say so of a request."""

    __slots__ = ("asked", "paths")

    def __init__(self, exempt: "Exempt | Iterable[Exempt] | None") -> None:
        if exempt is None:
            exempt = ()
        elif isinstance(exempt, str) or callable(exempt):
            exempt = (exempt,)
        elif not isinstance(exempt, Iterable):
            exempt = (cast("Exempt", exempt),)
        paths, self.asked = [], []
        for one in exempt:
            if isinstance(one, str):
                paths.append(one)
            elif callable(one):
                self.asked.append(_of_facts(one))
            else:
                raise SetUpError(
                    f"Invalid exempt: {one!r}, must be a path such as '/health' or '/static/*', a "
                    "callable that takes the request, or a list of these."
                )
        self.paths = Paths("exempt", paths) if paths else None


def _of_facts(function: Callable[[Any], Any]) -> Callable[[Facts], Any]:
    def of_facts(facts: Facts) -> Any:
        return function(facts.request)

    of_facts.function = function  # type: ignore[attr-defined]
    return of_facts


class _Matched:
    """What rules of both kinds have: a name, a scope, a key, and what they match."""

    def __init__(
        self,
        name: str | None,
        key: KeyLike | None,
        paths: "str | Iterable[str] | None",
        methods: "str | Iterable[str] | None",
        exempt: "Exempt | Iterable[Exempt] | None",
        scope: str | None,
        dry_run: bool,
    ) -> None:
        self.name = None if name is None else checked_name("name", name)
        self.scope = None if scope is None else checked_name("scope", scope)
        self.key: KeyFunction | None = None if key is None else key_function(key)
        self.paths = None if paths is None else Paths("paths", _names("paths", paths))
        self.methods: frozenset[str] | None = None
        if methods is not None:
            found = {method.upper() for method in _names("methods", methods)}
            self.methods = frozenset(found | {"HEAD"} if "GET" in found else found)
        self.exempt = Exemptions(exempt)
        self.dry_run = checked_switch("dry_run", dry_run)

    @property
    def matches_all(self) -> bool:
        return self.paths is None and self.methods is None and self.exempt.paths is None

    def matches(self, method: str, path: str) -> bool:
        """Whether it is for this method and path; callables of `exempt` are asked elsewhere."""
        if self.methods is not None and method not in self.methods:
            return False
        if self.paths is not None and not self.paths.match(path):
            return False
        return self.exempt.paths is None or not self.exempt.paths.covers(path)


class Rule(_Matched):
    """A quota for the requests that match.

    quota: "100/minute", "10/s burst 20; 1000/h", a Quota, a list of these, or a callable that takes
    the request and returns one (by user tier, say), or None for no limit. name: by which headers,
    logs and errors call it. key: a key function; that of the middleware by default.
    paths: where it holds: "/login", "/api/*", "/users/{id}", or a list; `*` is anything, `{…}` one
    segment, `{…:path}` several, as in a route's template. It is the path that the application
    sees, so without the root path of a server or a mount. methods: "POST" or a list; GET is HEAD
    too. exempt: paths or callables of the request
    that are left out. cost: what a request takes, or a callable of the request; 0 is free.
    using: the algorithm. scope: rules of one scope share their counts; its name by default.
    dry_run: decides and logs, but never denies. Raises SetUpError or DataError naming the argument.
    """

    def __init__(
        self,
        quota: QuotaSource,
        *,
        name: str | None = None,
        key: KeyLike | None = None,
        paths: "str | Iterable[str] | None" = None,
        methods: "str | Iterable[str] | None" = None,
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        cost: "int | Callable[[Any], Any]" = 1,
        using: str = "token_bucket",
        scope: str | None = None,
        dry_run: bool = False,
    ) -> None:
        super().__init__(name, key, paths, methods, exempt, scope, dry_run)
        self.quotas: Quotas | None = None
        self.quota_of: Callable[[Facts], Any] | None = None
        if callable(quota) and not isinstance(quota, type):
            self.quota_of = _of_facts(quota)
        else:
            self.quotas = quotas_of(quota)
        self.cost: int = 1
        self.cost_of: Callable[[Facts], Any] | None = None
        if callable(cost):
            self.cost_of = _of_facts(cost)
        elif isinstance(cost, int) and not isinstance(cost, bool) and cost >= 0:
            self.cost = cost
        else:
            raise DataError(
                f"Invalid cost: {cost!r}, must be an integer greater than or equal to 0, or a "
                "callable that takes the request."
            )
        if using not in _core.ALGORITHMS:
            raise SetUpError(
                f"Invalid using: {using!r}, must be one of: {', '.join(_core.ALGORITHMS)}."
            )
        self.using = str(getattr(using, "value", using))

    @property
    def gives_back(self) -> bool:
        """Whether what was taken can be given back: from a bucket, not from a window."""
        return self.using in BUCKETS

    def __repr__(self) -> str:
        return f"Rule({self.name!r}, quota={self.quotas or self.quota_of!r})"


class Concurrency(_Matched):
    """At most `limit` at a time for each key: WebSockets and long-lived streams.

    A permit is held until the connection, or the response with all its body, has ended.
    limit: how many. websockets, requests: which of both it is for. expiry: seconds after which the
    permit of a process that was killed is free again. retry_after: what a client that is denied is
    told to wait, in seconds; nobody knows when one of the others will end.
    name, key, paths, methods, exempt, scope, dry_run: as in `Rule`.
    """

    def __init__(
        self,
        limit: int,
        *,
        name: str | None = None,
        key: KeyLike | None = None,
        paths: "str | Iterable[str] | None" = None,
        methods: "str | Iterable[str] | None" = None,
        exempt: "Exempt | Iterable[Exempt] | None" = None,
        scope: str | None = None,
        websockets: bool = True,
        requests: bool = True,
        expiry: float = 30,
        retry_after: int = 5,
        dry_run: bool = False,
    ) -> None:
        super().__init__(name, key, paths, methods, exempt, scope, dry_run)
        for field, value, least in (("limit", limit, 1), ("retry_after", retry_after, 1)):
            if type(value) is not int or not least <= value <= 10**9:
                raise DataError(
                    f"Invalid {field}: {value!r}, must be an integer from {least} to 10^9."
                )
        if isinstance(expiry, bool) or not isinstance(expiry, (int, float)) or not expiry > 0:
            raise DataError(f"Invalid expiry: {expiry!r}, must be a positive number of seconds.")
        self.limit = limit
        self.websockets = checked_switch("websockets", websockets)
        self.requests = checked_switch("requests", requests)
        self.expiry = expiry
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return f"Concurrency({self.limit}, name={self.name!r})"


RuleLike = Rule | Concurrency | _core.Quota | str
