"""Typed usage of the whole public API, for mypy --strict and pyright to check; nothing runs it.

`assert_type` says what each expression is. A line with `type: ignore` is one that must be refused:
both checkers are set to complain where there is nothing to ignore.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from typing_extensions import assert_type

import headway
from headway import (
    BaseThrottledError,
    DataError,
    Hook,
    HookContext,
    LimitedError,
    MemoryStore,
    Quota,
    Rate,
    RateLimiterRegistry,
    RateLimiterType,
    RateLimitExceeded,
    RateLimitResult,
    RateLimitState,
    Throttled,
    TokenBucket,
    VirtualClock,
    dropin,
    parse_quota,
    per_duration,
    per_min,
    per_sec,
)
from headway.algorithms import ALGORITHMS, step
from headway.clock import now_ns
from headway.hooks import build_hook_chain
from headway.rate_limiter import BaseRateLimiter, FixedWindowRateLimiter
from headway.rate_limiter.exceptions import RateLimitExceeded as OfTheDocument
from headway.rate_limiter.token_bucket import TokenBucket as TokenBucketOfTheDocument
from headway.store import BaseStore, RedisStore
from headway.throttled import Throttled as MirroredThrottled
from headway.throttled import exceptions, rate_limiter, store, utils
from headway.throttled.store import MemoryStore as MirroredMemoryStore
from headway.types import Key, QuotaLike
from headway.utils import Benchmark, Timer

T = TypeVar("T")


# Quotas


def quotas() -> None:
    assert_type(per_sec(100, burst=200), Quota)
    assert_type(per_duration(timedelta(minutes=2), limit=120), Quota)
    assert_type(parse_quota("100/s burst 200; 1000/h"), tuple[Quota, ...])
    quota = Quota(Rate(timedelta(seconds=1), 5), burst=10)
    assert_type(quota.rate.period, timedelta)
    assert_type(quota.rate.limit, int)
    assert_type(quota.burst, int)
    assert_type(hash(quota), int)
    match quota:
        case Quota(rate=Rate(limit=limit), burst=burst):
            assert_type(limit, int)
            assert_type(burst, int)
    per_sec("100")  # type: ignore[arg-type]
    quota.burst = 3  # type: ignore[misc]


# Limiters


def by_tier(key: Key) -> QuotaLike:
    return "100/s" if key == "gold" else [per_sec(1), "10/min"]


def limiters(clock: VirtualClock) -> None:
    memory = MemoryStore(options={"MAX_SIZE": 1000}, clock=clock, on_full="deny")
    assert_type(memory.stats(), dict[str, int])
    assert_type(len(memory), int)
    limiter = Throttled(
        key="/ping",
        timeout=1.5,
        using=RateLimiterType.GCRA,
        quota=per_sec(1_000, burst=1_000),
        store=memory,
        cost=2,
        hooks=[Counting()],
        key_prefix="app",
    )
    result = limiter.limit("user", cost=1, timeout=-1)
    assert_type(result, RateLimitResult)
    assert_type(result.limited, bool)
    assert_type(result.state, RateLimitState)
    assert_type(result.state.retry_after, float)
    assert_type(bool(result), bool)
    assert_type(limiter.peek(b"user"), RateLimitState)
    limiter.reset("user")
    with limiter as admitted:
        assert_type(admitted, RateLimitResult)
    match result:
        case RateLimitResult(limited=True, state=RateLimitState(retry_after=seconds)):
            assert_type(seconds, float)
        case _:
            pass
    Throttled(quota="10/s", store="memory://", using="sliding_window")
    Throttled(quota=["10/s", per_min(100)], key=lambda user: str(user), cost=lambda user: 1)
    Throttled(quota=by_tier)
    limiter.limit(3)  # type: ignore[arg-type]
    limiter.limit("k", cost="2")  # type: ignore[arg-type]
    Throttled(store=3)  # type: ignore[arg-type]
    result.limited = True  # type: ignore[misc]


# Decorated functions keep their signature


@Throttled(key="plain")
def plain(a: int, *, b: str = "") -> bytes:
    return f"{a}{b}".encode()


@Throttled(key="coroutine")
async def coroutine(a: int) -> bytes:
    return bytes(a)


@Throttled(key="generator")
def generator(n: int) -> Iterator[int]:
    yield n


@Throttled(key="async generator")
async def async_generator(n: int) -> AsyncIterator[int]:
    yield n


@Throttled(key="generic")
def generic(x: T) -> T:
    return x


class Service:
    @Throttled(key="method")
    def method(self, x: int) -> str:
        return str(x)

    @Throttled(key="async method")
    async def async_method(self, x: int) -> str:
        return str(x)

    @classmethod
    @Throttled(key="class method")
    def of_class(cls, x: int) -> str:
        return str(x)

    @staticmethod
    @Throttled(key="static method")
    def static(x: int) -> str:
        return str(x)

    @property
    @Throttled(key="property")
    def value(self) -> str:
        return ""


class Child(Service):
    def method(self, x: int) -> str:
        return super().method(x)


async def decorated() -> None:
    assert_type(plain(1, b="x"), bytes)
    assert_type(await coroutine(1), bytes)
    assert_type(generator(1), Iterator[int])
    assert_type(generic(1), int)
    assert_type(generic("x"), str)
    async for n in async_generator(3):
        assert_type(n, int)
    service = Child()
    assert_type(service.method(1), str)
    assert_type(await service.async_method(1), str)
    assert_type(Service.of_class(1), str)
    assert_type(service.of_class(1), str)
    assert_type(Service.static(1), str)
    assert_type(service.static(1), str)
    assert_type(service.value, str)
    called_back: Callable[[int], bytes] = plain
    awaited: Callable[[int], Coroutine[Any, Any, bytes]] = coroutine
    called_back(2)
    await awaited(2)
    plain("x")  # type: ignore[arg-type]
    plain(1, c=2)  # type: ignore[call-arg]
    service.method("x")  # type: ignore[arg-type]
    Service.static("x")  # type: ignore[arg-type]
    await coroutine("x")  # type: ignore[arg-type]


# Hooks


class Counting(Hook):
    def __init__(self) -> None:
        self.by_key: dict[Key, int] = {}

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        assert_type(context.cost, int)
        assert_type(context.algorithm, str)
        self.by_key[context.key] = self.by_key.get(context.key, 0) + context.cost
        return call_next()


def hooked(ask: Callable[[], RateLimitResult]) -> RateLimitResult:
    context = HookContext(key="k", cost=1, algorithm="gcra", store_type="memory")
    context.cost = 2  # type: ignore[misc]
    return build_hook_chain([Counting()], ask, context)()


# Errors


def errors() -> None:
    try:
        plain(1)
    except LimitedError as error:
        assert_type(error.rate_limit_result, RateLimitResult | None)
    except (DataError, headway.SetUpError, headway.StoreUnavailableError) as error:
        base: BaseThrottledError = error
        raise RateLimitExceeded("too many") from base
    except exceptions.BaseThrottledError:
        raise OfTheDocument from None


# The pure step, clocks, the token bucket, the registry


def arithmetic() -> None:
    state, result = step(None, "10/s burst 20", 1, now_ns(), using="gcra")
    assert_type(state, bytes)
    assert_type(result, RateLimitResult)
    step(state, per_sec(10), 1, 2, using=RateLimiterType.FIXED_WINDOW)
    step(state, [per_sec(10), "1/h"], 1, 2)
    assert_type(ALGORITHMS, tuple[str, ...])
    clock = VirtualClock(now_ns=5)
    clock.advance(0.5)
    clock.advance(ns=5)
    clock.set(7)
    assert_type(clock.now_ns, int)


class LoggingBucket(TokenBucket):
    def allow(self, tokens: float = 1) -> bool:
        return super().allow(tokens)


def buckets() -> None:
    bucket = LoggingBucket(capacity=2.5, tokens_per_second=1 / 60)
    assert_type(bucket.allow(0.5), bool)
    assert_type(bucket.try_consume(), bool)
    bucket.wait(2)
    assert_type(bucket.tokens, float)
    TokenBucketOfTheDocument(1, 1, clock=VirtualClock())
    TokenBucket("1", 1)  # type: ignore[arg-type]


def registry(memory: MirroredMemoryStore) -> None:
    limiter = RateLimiterRegistry.get("gcra")(per_min(1), memory, key_prefix="app")
    assert_type(limiter, BaseRateLimiter)
    assert_type(limiter.limit("k", 1), RateLimitResult)
    assert_type(limiter.peek("k"), RateLimitState)
    assert_type(limiter.quota, Quota | tuple[Quota, ...])
    FixedWindowRateLimiter("1/min", "memory://")


# The mirror and the tools


def mirrored() -> None:
    MirroredThrottled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=rate_limiter.per_sec(1_000, burst=1_000),
        store=store.MemoryStore(),
    )
    benchmark: utils.Benchmark = utils.Benchmark()
    assert_type(benchmark.serial(plain, 10, 1, b="x"), list[bytes])
    assert_type(benchmark.concurrent(plain, 10, 4, 1), list[bytes])
    dropin.install("throttled")
    dropin.uninstall()


async def measured() -> None:
    benchmark = Benchmark()
    assert_type(await benchmark.async_serial(coroutine, 10, 1), list[bytes])
    assert_type(await benchmark.async_concurrent(coroutine, 10, 4, 1), list[bytes])

    def tell(elapsed: float, start: float, end: float) -> None:
        print(elapsed, start, end)

    timer = Timer(callback=tell)
    with timer:
        pass
    async with timer:
        pass
    assert_type(timer(plain)(1), bytes)
    assert_type(await timer(coroutine)(1), bytes)


def stores(memory: object) -> None:
    assert_type(isinstance(memory, BaseStore), bool)
    RedisStore("redis://localhost")
