"""`Choked`: a limit of calls and a limit of tokens for each key, taken in one step or not at all.

The tokens of a call are estimated from its arguments before it is made. What it really took is
known afterwards: `settle(actual)` gives back what was too much, or charges what was too little.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import ref

from headway import _core
from headway._checks import LIMIT_MAX, text
from headway._wrap import decorate
from headway.choked.decorator import Definition, Waiting, service_from_env
from headway.choked.estimators import Estimator, estimator
from headway.exceptions import DataError, LimitedError
from headway.hooks import Hook, HookContext, Limit
from headway.store import shared_store
from headway.types import AnyStore

if TYPE_CHECKING:
    from headway.choked.remote import Remote
    from headway.choked.service import Service

__all__ = ["Choked", "settle"]

_F = TypeVar("_F", bound=Callable[..., object])


class _Ticket:
    """What an admitted call has taken, until it is settled."""

    __slots__ = ("limiter", "tokens")

    def __init__(self, limiter: "_Dual | Remote", tokens: int) -> None:
        self.limiter = limiter
        self.tokens = tokens

    def settle(self, actual: int) -> None:
        if not isinstance(actual, int) or isinstance(actual, bool) or not 0 <= actual <= LIMIT_MAX:
            raise ValueError(
                f"Invalid actual: {actual!r}, must be the tokens that the call took, an integer "
                f"from 0 to {LIMIT_MAX}."
            )
        surplus, self.tokens = self.tokens - actual, actual
        if surplus:
            for rule in self.limiter.token_rules:
                self.limiter._settle(str(self.limiter.key), rule, surplus)


# The calls that were admitted in this context, the latest of each limiter, the latest of all last.
_admitted: "ContextVar[dict[_Dual | Remote, _Ticket]]" = ContextVar("headway.choked.admitted")


class _Dual(Waiting):
    """The limiter of a function with a limit of tokens; the rules for calls come first."""

    def __init__(
        self, definition: Definition, key: str, store: AnyStore, estimate: Estimator
    ) -> None:
        calls, tokens = definition.rules
        super().__init__(
            definition,
            key,
            store,
            quota=[*calls, *tokens],
            cost=estimate,
            hooks=[_Tickets(ref(self))],
        )
        for rule in range(len(calls)):
            self._charge_per_call(rule)
        self.token_rules = range(len(calls), len(calls) + len(tokens))

    def _limited_error(self, result: _core.RateLimitResult, /) -> Exception:
        # It waits without end, so the only denial is of what can never fit.
        error = LimitedError(result)
        error.args = (
            f"The call needs more tokens than {self.key!r} can ever hold "
            f"({result.state.limit}), so waiting would not help.",
        )
        return error


class _Tickets(Hook):
    """Notes what a call has taken, once it has."""

    def __init__(self, limiter: "ref[_Dual]") -> None:
        self._limiter = limiter

    def on_limit(self, call_next: Limit, context: HookContext) -> _core.RateLimitResult:
        result = call_next()
        limiter = self._limiter()
        if result and limiter is not None:
            _admit(limiter, context.cost)
        return result


def _admit(limiter: "_Dual | Remote", tokens: int) -> None:
    """Note what a call of this context has taken."""
    tickets = dict(_admitted.get({}))
    tickets.pop(limiter, None)
    tickets[limiter] = _Ticket(limiter, tokens)
    _admitted.set(tickets)


def settle(actual: int) -> None:
    """Say how many tokens the latest call in this context really took.

    Call it in the decorated function, or after it in the same thread or task. `fn.settle(actual)`
    does the same for the latest call of `fn`. A surplus is given back at once, and may let the
    next in line go; a shortfall is charged, and those who come later wait the longer. Settling
    again corrects. Raises LookupError where no call with a token limit was made, ValueError where
    `actual` is not a number of tokens.
    """
    _ticket(None).settle(actual)


def _ticket(limiter: "_Dual | Remote | None") -> _Ticket:
    tickets = _admitted.get({})
    ticket = tickets.get(limiter) if limiter else next(reversed(tickets.values()), None)
    if ticket is None:
        whose = f" of {limiter.key!r}" if limiter else ""
        raise LookupError(f"No call{whose} with a token limit was made here, to be settled.")
    return ticket


class Choked:
    """A decorator with two limits: calls, and the tokens of a language model.

        choke = Choked()

        @choke(key="openai_chat", request_limit="50/s", token_limit="100000/m")
        def chat(messages): ...

    redis_url: where the state is kept. api_token: a service keeps it, the one that CHOKED_API_URL
    names; `headway serve` is one. With neither, what CHOKED_API_TOKEN names, else what REDIS_URL
    names, else the process. Raises SetUpError for a URL that is none, or that a token lacks.
    """

    def __init__(self, redis_url: str | None = None, api_token: str | None = None) -> None:
        if redis_url and api_token:
            raise ValueError("Give redis_url or api_token, not both.")
        service = None
        if api_token:
            from headway.choked.service import service_from

            service = service_from(api_token)
        elif redis_url is None:
            service = service_from_env()
        self._store = service or shared_store("choked", redis_url)

    def __call__(
        self,
        key: str,
        request_limit: str | None = None,
        token_limit: str | None = None,
        token_estimator: "str | Estimator | None" = None,
    ) -> Callable[[_F], _F]:
        """Make a function wait until both limits of `key` admit the call.

        key: who shares the limits. request_limit, token_limit: quotas such as "10/s" or
        "100000/m"; at least one. token_estimator: "default" or "openai" (tiktoken where it is
        installed), "voyageai" (tokenizers), or a callable that takes the call's arguments and
        returns its tokens; without these libraries four characters count as a token.

        A call that needs more tokens than the bucket holds raises LimitedError at once.
        Raises ValueError where no limit is given or one cannot be read.
        """
        text("key", key)
        calls = _quotas("request_limit", request_limit)
        tokens = _quotas("token_limit", token_limit)
        if not calls and not tokens:
            raise ValueError("At least one of request_limit or token_limit must be given.")
        estimate = estimator(token_estimator) if tokens else None
        params = {"request_limit": request_limit, "token_limit": token_limit}

        def decorator(func: _F) -> _F:
            definition = Definition.of(self._store, key, params, func, (calls, tokens))
            return cast("_F", definition.decorate(func, key, self._store, estimate))

        return decorator

    def settle(self, actual: int) -> None:
        """Say how many tokens the latest call in this context took: see `choked.settle`."""
        settle(actual)


def decorate_dual(
    definition: Definition,
    func: Any,
    key: str,
    store: AnyStore,
    estimate: Estimator | None,
) -> Any:
    """Return `func` behind a limit of tokens, with `settle` as an attribute."""
    dual = _Dual(definition, key, store, estimate or estimator(None))
    decorated: Any = decorate(dual, func)
    decorated.settle = lambda actual: _ticket(dual).settle(actual)
    return decorated


def decorate_remote(
    definition: Definition,
    func: Any,
    key: str,
    service: "Service",
    estimate: Estimator | None,
) -> Any:
    """Return `func` behind limits that a service keeps."""
    from headway.choked.remote import Remote

    calls, tokens = definition.rules
    if len(calls) > 1 or len(tokens) > 1:
        raise ValueError(
            "Invalid limit: a service takes one rule for calls and one for tokens; several rules "
            "need Redis, or the process."
        )
    estimate = (estimate or estimator(None)) if tokens else None
    limiter = Remote(service, key, next(iter(calls), None), next(iter(tokens), None), estimate)
    limiter.definition = definition  # kept as long as a function goes by it
    decorated: Any = limiter.decorate(func)
    if tokens:
        limiter.on_admitted = lambda taken: _admit(limiter, taken)
        inner = getattr(decorated, "__func__", decorated)  # of a classmethod or staticmethod
        inner.settle = lambda actual: _ticket(limiter).settle(actual)
    return decorated


def _quotas(field: str, limit: object) -> tuple[_core.Quota, ...]:
    if limit is None:
        return ()
    if not isinstance(limit, str):
        raise ValueError(f"Invalid {field}: {limit!r}, must be text such as '10/s'.")
    try:
        return _core.parse_quota(limit)
    except DataError as error:
        raise ValueError(f"Invalid {field}: {error}") from None
