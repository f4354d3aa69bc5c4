"""What became of a request: the answers of its rules, and what the client is told.

A `Verdict` is made for each request that a policy looks at. Integrations ask it for a status,
header fields and a body; `on_limited` callbacks are given it.

A request may have several: of a middleware, a dependency, a decorator. Where one of them denies,
what the others took is given back by whoever is outermost, as a policy does it among its own rules.
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from math import ceil
from typing import TYPE_CHECKING, Any

from headway.contrib._headers import Report, fields, whole_seconds
from headway.contrib._rules import Concurrency, Rule
from headway.exceptions import StoreUnavailableError

if TYPE_CHECKING:
    from headway._core import RateLimitResult
    from headway.contrib._entries import Entry, Limits

__all__ = [
    "Outcome",
    "Verdict",
    "accepts_json",
    "all_fields",
    "give_back_where_denied",
    "reports_of",
]

logger = logging.getLogger("headway.contrib")

STORE_DOWN_RETRY_AFTER_S = 5
"""A store that has failed is left alone for at most so long before it is tried again."""

_ACCEPT_MAX = 1024

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


class Outcome:
    """The answer of one rule: by which key, for what cost, and what the limiter said."""

    __slots__ = ("cost", "entry", "key", "limits", "result")

    def __init__(
        self,
        entry: "Entry",
        limits: "Limits | None",
        key: str,
        cost: int,
        result: "RateLimitResult | None",
    ) -> None:
        self.entry = entry
        self.limits = limits
        self.key = key
        self.cost = cost
        self.result = result
        """None where a rule for concurrency has denied."""

    @property
    def rule(self) -> Rule | Concurrency:
        return self.entry.rule

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def gives_back(self) -> bool:
        """Whether what was taken can be given back: from a bucket, not from a window."""
        rule = self.entry.rule
        return isinstance(rule, Rule) and rule.gives_back

    def give_back(self) -> None:
        """Put back what was taken. A store that cannot answer keeps it, which the log has."""
        limits = self.limits
        assert limits is not None, "only a rule that has a limiter takes"
        for rule in range(len(limits.quotas)):
            try:
                limits.limiter._settle(self.key, rule, self.cost)
            except StoreUnavailableError as error:
                logger.debug("%r is not given back: %s", self.key, error)

    def report(self) -> Report:
        limits = self.limits
        if self.result is None or limits is None:
            rule = self.entry.rule
            assert isinstance(rule, Concurrency), "every other rule has a result"
            policy = f'"{self.name}";q={rule.limit};qu="concurrent-requests"'
            return f'"{self.name}"', policy, rule.limit, 0, rule.retry_after
        state = self.result.state
        member = limits.member or limits.member_of(state)
        return member, limits.policies, state.limit, state.remaining, ceil(state.reset_after)

    def __repr__(self) -> str:
        return f"Outcome({self.name!r}, key={self.key!r}, cost={self.cost}, result={self.result!r})"


class Verdict:
    """allowed, status, outcomes, denied, error; and what goes into a response."""

    __slots__ = (
        "denied",
        "dry",
        "error",
        "headers",
        "outcomes",
        "permits",
        "reset",
        "status",
        "taken",
    )

    def __init__(self, headers: str, reset: str) -> None:
        self.headers, self.reset = headers, reset
        self.status = 200
        """200 to go on, 429 where a rule denies, 503 where the store cannot answer."""
        self.outcomes: list[Outcome] = []
        """What rules have said that are enforced. Where one denies, that one alone."""
        self.denied: Outcome | None = None
        """The rule that denies."""
        self.dry: list[Outcome] = []
        """Those that would have denied, were they not in a dry run."""
        self.error: StoreUnavailableError | None = None
        """Why the store did not answer, whatever on_error makes of it."""
        self.permits: list[Any] = []
        """What is held until the response has ended: release them."""
        self.taken: list[Outcome] = []
        """Whose cost was taken and not given back, those in a dry run included."""

    @property
    def allowed(self) -> bool:
        return self.status == 200

    @property
    def retry_after(self) -> int | None:
        """Whole seconds until it makes sense to try again; None where it never will."""
        if self.denied is None:
            return STORE_DOWN_RETRY_AFTER_S if self.status == 503 else None
        if self.denied.result is None:
            assert isinstance(self.denied.rule, Concurrency)
            return self.denied.rule.retry_after
        return whole_seconds(self.denied.result.state.retry_after)

    def fields(self) -> list[tuple[str, str]]:
        """Header fields, names in small letters: of any response, and Retry-After of a denial."""
        return all_fields((self,), self.headers, self.reset) + self.retry_fields()

    def retry_fields(self) -> list[tuple[str, str]]:
        """Retry-After alone, where there is one."""
        seconds = self.retry_after
        return [] if seconds is None else [("retry-after", str(seconds))]

    @property
    def title(self) -> str:
        return "Too Many Requests" if self.status == 429 else "Service Unavailable"

    @property
    def detail(self) -> str:
        """One sentence for whoever is denied. It names no key and nothing of the server."""
        if self.status == 503:
            return "The rate limit cannot be checked at the moment."
        seconds = self.retry_after
        if seconds is None:
            return "This request costs more than the quota ever allows."
        what = "Rate limit exceeded"
        if self.denied is not None and self.denied.result is None:
            what = "Too many at a time"
        return f"{what}: try again in {seconds} second{'s' if seconds > 1 else ''}."

    def problem(self) -> dict[str, Any]:
        """The same as problem details (RFC 9457), of the type that the RateLimit draft defines."""
        found: dict[str, Any] = {"type": "about:blank", "title": self.title}
        found.update(status=self.status, detail=self.detail)
        if self.denied is not None:
            found["type"] = QUOTA_EXCEEDED
            found["violated-policies"] = [self.denied.name]
        if self.retry_after is not None:
            found["retry_after"] = self.retry_after
        return found

    def body(self, accept: str | None) -> tuple[str, bytes]:
        """The content type and the body of a denial, for what the client accepts."""
        if accepts_json(accept):
            return "application/problem+json", json.dumps(self.problem()).encode()
        return "text/plain; charset=utf-8", f"{self.detail}\n".encode()

    def give_back(self) -> None:
        """Give back the cost of a request that something else has denied. Twice is once.

        Buckets give back, and are no longer told of. Windows cannot: they keep the cost, and are.
        In an event loop a store on a server is told so, and not waited for. Permits: `release`.
        """
        taken, self.taken = self.taken, []
        given = [outcome for outcome in taken if outcome.gives_back]
        for outcome in given:
            if outcome.cost:
                outcome.give_back()
        if given:
            self.outcomes = [outcome for outcome in self.outcomes if outcome not in given]

    async def give_back_async(self) -> None:
        """The same where it is awaited. It never blocks the event loop."""
        self.give_back()

    def release(self) -> None:
        """Give back the permits: at the end of the response, whatever became of it."""
        permits = self.permits
        try:
            while permits:
                permits.pop().__exit__(None, None, None)
        except BaseException:
            self.release()  # the others all the same
            raise

    async def release_async(self) -> None:
        """The same where it is awaited."""
        permits = self.permits
        try:
            while permits:
                leaving: Callable[..., Awaitable[None]] = permits.pop().__aexit__
                await leaving(None, None, None)
        except BaseException:
            await self.release_async()  # one who is cancelled gives back the others all the same
            raise

    def __repr__(self) -> str:
        return f"<Verdict {self.status} {self.outcomes!r}>"


def give_back_where_denied(verdicts: "Iterable[Verdict]", status: int) -> None:
    """Give back what was taken for a request that one of several has denied.

    status: of the response. Below 400 the application has caught the denial and served the request
    all the same, from a cache say, and that has its cost: else whoever has used up one limit would
    be free of the others.
    """
    if status >= 400 and not all(verdict.allowed for verdict in verdicts):
        for verdict in verdicts:
            verdict.give_back()


def all_fields(verdicts: "Iterable[Verdict]", style: str, reset: str) -> list[tuple[str, str]]:
    """The fields of a response that several have decided on: a middleware and a dependency, say."""
    if style == "none":
        return []
    return fields(reports_of(verdicts), style, reset, time.time() if reset == "at" else 0)


def reports_of(verdicts: "Iterable[Verdict]") -> tuple[Report, ...]:
    """What all rules say that were asked, in their order."""
    return tuple([outcome.report() for verdict in verdicts for outcome in verdict.outcomes])


def accepts_json(accept: str | None) -> bool:
    """Whether JSON is what to answer with: asked for, or nothing else is.

    Only the first 1,024 characters are read: a denial must cost little, whatever a client sends.
    """
    if not accept:
        return True
    ranges = []
    for part in accept[:_ACCEPT_MAX].lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if not any(one.replace(" ", "") in ("q=0", "q=0.0", "q=0.00") for one in parameters):
            ranges.append(name)
    if any(name == "application/*" or name.endswith(("/json", "+json")) for name in ranges):
        return True
    return "*/*" in ranges and not any(name.startswith("text/") for name in ranges)
