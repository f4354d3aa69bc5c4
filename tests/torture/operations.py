"""The table of operations: every public entry point, on every store, from threads and from tasks.

An `Operation` builds a `Case`: objects of its own, and `act`, which is called once for each moment
of a torment. A case also says what `act` takes from its key (`used`, `takes`), what must hold when
nothing runs (`trouble`), and what a signal handler asks of the same store (`ask`).

Names are STORE.ENTRY, and STORE.ENTRY@LOOP where the entry is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import headway
import headway.asyncio
from headway import AtomicStore, MemoryStore, SharedMemoryStore, SQLiteStore, Throttled, TokenBucket
from headway.exceptions import LimitedError, StoreUnavailableError
from headway.limiters import AsyncSemaphore, AsyncTokenBucket, SyncSemaphore, SyncTokenBucket

REDIS_PORT = "HEADWAY_TORTURE_REDIS"
"""The environment variable with the port of the run's server; unset where there is none."""
MANY = "1000000/3650d"
"""So slow to fill that a count is exact for minutes."""
STORES = ("memory", "shm", "sqlite", "atomic", "redis", "lease", "client")
LOOPS = ("asyncio", "uvloop")
_numbers = itertools.count()
_folder = tempfile.mkdtemp(prefix="headway-torture-")


class OwnStore(AtomicStore):
    """A store of a user's own."""

    def __init__(self) -> None:
        self.values: dict[bytes, Any] = {}
        self.lock = threading.RLock()  # a signal handler may ask, too

    def update(self, key: bytes, step: Any) -> Any:
        with self.lock:
            self.values[key], answer = step(self.values.get(key))
        return answer


@dataclass
class Case:
    """One set of objects, on which the operation is done again and again."""

    act: Callable[[], Any]
    """A function, or a coroutine function where the operation is awaited."""
    takes: int = 1
    used: Callable[[], int] | None = None
    """What the key has given so far."""
    trouble: Callable[[], str] = str
    """What is wrong while nothing runs; empty when all is well."""
    ask: Callable[[], Any] | None = None
    prepare: Callable[[], Any] = int
    """Called before each `act`, undisturbed."""
    clean: Callable[[], Any] = int
    documented: tuple[type[BaseException], ...] = (StoreUnavailableError,)
    """What may be raised where memory is short, besides MemoryError."""
    passes: Callable[[Any], bool] = bool
    """Whether this is what an undisturbed `act` returns."""


@dataclass(frozen=True)
class Operation:
    name: str
    make: Callable[[], Case]
    loop: str = ""
    waits: bool = False
    store: str = ""


OPERATIONS: dict[str, Operation] = {}


def _add(
    name: str, make: Callable[[], Case], *, waits: bool = False, awaited: bool = False
) -> None:
    store = name.partition(".")[0]
    for loop in LOOPS if awaited else ("",):
        full = f"{name}@{loop}" if loop else name
        OPERATIONS[full] = Operation(full, make, loop, waits, store)


# --- stores


def open_store(kind: str, *, awaited: bool = False) -> tuple[Any, Callable[[], None]]:
    """A new store, and what closes it."""
    match kind:
        case "memory":
            return MemoryStore(), lambda: None
        case "shm":
            store = SharedMemoryStore(f"torture-{os.getpid()}-{next(_numbers)}", size="4M")
            return store, store.remove
        case "sqlite":
            file = SQLiteStore(os.path.join(_folder, f"{os.getpid()}-{next(_numbers)}.db"))
            return file, file.close
        case "atomic":
            return OwnStore(), lambda: None
        case "redis" | "lease":
            options = {"lease": {"tokens": 3}} if kind == "lease" else {}
            remote = headway.RedisStore(f"{redis_url()}?timeout=5", **options)
            return remote, remote.close
        case "client":
            return _open_client(awaited)
    raise ValueError(kind)


def redis_url() -> str:
    return f"redis://127.0.0.1:{os.environ[REDIS_PORT]}/0"


def _open_client(awaited: bool) -> tuple[Any, Callable[[], None]]:
    import redis
    import redis.asyncio

    client: Any
    if awaited:
        client = redis.asyncio.Redis.from_url(redis_url())
        return headway.RedisStore(client), lambda: None
    client = redis.Redis.from_url(redis_url())
    return headway.RedisStore(client), client.close


def unique(kind: str) -> str:
    return f"{kind}-{os.getpid()}-{next(_numbers)}-{time.monotonic_ns()}"


# --- entry points, by threads


def _limits(kind: str) -> tuple[Any, Callable[[], None], Throttled, dict[str, Any]]:
    store, close = open_store(kind)
    key = unique(kind)
    limiter = Throttled(key, quota=MANY, store=store, timeout=-1)
    other = Throttled(unique(kind), quota=MANY, store=store)
    common: dict[str, Any] = {
        "used": lambda: 1_000_000 - limiter.peek().remaining,
        "ask": other.limit,
        "clean": close,
    }
    if kind == "lease":
        common["used"] = None  # the server gives blocks
    limiter.limit()
    return store, close, limiter, common


def _drained(limiter: Throttled) -> Callable[[], None]:
    """Holds so many results that the next one is not taken from the free list."""
    kept: list[Any] = []

    def prepare() -> None:
        kept.clear()
        kept.extend(limiter.limit() for _ in range(40))

    return prepare


def _limit(kind: str) -> Case:
    _, _, limiter, common = _limits(kind)
    spare = Throttled("spare", quota=MANY)
    return Case(limiter.limit, prepare=_drained(spare), **common)


def _several(kind: str) -> Case:
    store, _, _limiter, common = _limits(kind)
    several = Throttled(unique(kind), quota=f"{MANY}; 900000/3650d", store=store)
    several.limit()
    used = (lambda: 900_000 - several.peek().remaining) if kind != "lease" else None
    return Case(several.limit, **(common | {"used": used}))


def _new_key(kind: str) -> Case:
    store, _, _limiter, common = _limits(kind)
    fresh = Throttled(quota=MANY, store=store)

    def act() -> Any:
        return fresh.limit("longer than one cell of the table holds " + str(next(_numbers) % 200))

    for _ in range(200):
        act()
    return Case(act, **(common | {"takes": 0}))


def _denied(kind: str) -> Case:
    store, _, _limiter, common = _limits(kind)
    never = Throttled(unique(kind), quota="1/1000h", store=store)
    never.limit()
    return Case(
        never.limit,
        **(common | {"used": lambda: 1 - never.peek().remaining, "takes": 0}),
        passes=lambda result: result.limited and result.state.retry_after > 0,
    )


def _waits(kind: str) -> Case:
    store, _, _limiter, common = _limits(kind)
    slow = Throttled(unique(kind), quota="200/s burst 1", timeout=60, store=store)

    def trouble() -> str:
        owed = slow.peek().reset_after
        return f"a queue of {owed} s is left behind" if owed > 0.03 else ""

    def prepare() -> None:
        _drain(slow)
        if slow.peek().remaining:
            slow.limit()

    slow.limit()
    return Case(slow.limit, **(common | {"used": None}), trouble=trouble, prepare=prepare)


def _drain(limiter: Throttled) -> None:
    """Waits until no more than two slots are taken ahead of time."""
    while (owed := limiter.peek().reset_after) > 0.011:
        time.sleep(owed - 0.01)


def _peek(kind: str) -> Case:
    _, _, limiter, common = _limits(kind)
    return Case(
        limiter.peek, **(common | {"takes": 0}), passes=lambda state: state.limit == 1_000_000
    )


def _reset(kind: str) -> Case:
    store, _, _limiter, common = _limits(kind)
    other = Throttled(unique(kind), quota=MANY, store=store)
    return Case(
        other.reset,
        **(common | {"takes": 0}),
        prepare=other.limit,
        passes=lambda value: value is None and other.peek().remaining == 1_000_000,
    )


def _decorator(kind: str) -> Case:
    _, _, limiter, common = _limits(kind)
    function = limiter(lambda a, b=1: (a, b))
    return Case(lambda: function(5, b=7), **common, passes=lambda value: value == (5, 7))


def _with(kind: str) -> Case:
    _, _, limiter, common = _limits(kind)

    def act() -> bool:
        with limiter:
            return True

    return Case(act, **common)


def _made(kind: str) -> Case:
    """A limiter is made, and asked once."""
    store, _, limiter, common = _limits(kind)

    def act() -> Any:
        return Throttled(limiter.key, quota=MANY, store=store).limit()

    return Case(act, **common)


def _opened(kind: str) -> Case:
    """A store is opened, asked once and closed: connecting, mapping, making tables."""
    name = unique(kind)

    def act() -> Any:
        match kind:
            case "shm":
                store: Any = SharedMemoryStore(f"torture-{name}", size="128K")
            case "sqlite":
                store = SQLiteStore(os.path.join(_folder, "opened.db"))
            case "redis":
                store = headway.RedisStore(f"{redis_url()}?timeout=5")
            case _:
                store = MemoryStore(options={"MAX_SIZE": 10})
        try:
            return Throttled(name, quota=MANY, store=store).limit()
        finally:
            if kind not in ("memory", "shm"):
                store.close()

    clean: Any = (lambda: SharedMemoryStore(f"torture-{name}").remove()) if kind == "shm" else int
    from headway.exceptions import SetUpError

    return Case(act, clean=clean, documented=(StoreUnavailableError, SetUpError))


ENTRIES: dict[str, Callable[[str], Case]] = {
    "limit": _limit,
    "several": _several,
    "new_key": _new_key,
    "denied": _denied,
    "wait": _waits,
    "peek": _peek,
    "reset": _reset,
    "decorator": _decorator,
    "with": _with,
    "made": _made,
}

# --- entry points, awaited


def _async_limits(kind: str) -> tuple[Any, Any, dict[str, Any]]:
    store, close = open_store(kind, awaited=True)
    key = unique(kind)
    limiter = headway.asyncio.Throttled(key, quota=MANY, store=store, timeout=-1)
    common: dict[str, Any] = {"clean": close}
    if kind != "client":
        sync = Throttled(key, quota=MANY, store=store, timeout=-1)
        other = Throttled(unique(kind), quota=MANY, store=store)
        common["ask"] = other.limit
        common["used"] = lambda: 1_000_000 - sync.peek().remaining
        if kind == "lease":
            common["used"] = None
        sync.limit()
    return store, limiter, common


def _async_limit(kind: str) -> Case:
    _, limiter, common = _async_limits(kind)
    return Case(lambda: limiter.limit(), **common)


def _async_peek(kind: str) -> Case:
    _, limiter, common = _async_limits(kind)
    return Case(lambda: limiter.peek(), **(common | {"takes": 0}), passes=lambda s: s is not None)


def _async_reset(kind: str) -> Case:
    store, _, common = _async_limits(kind)
    other = headway.asyncio.Throttled(unique(kind), quota=MANY, store=store)
    return Case(lambda: other.reset(), **(common | {"takes": 0}), passes=lambda v: v is None)


def _async_with(kind: str) -> Case:
    _, limiter, common = _async_limits(kind)

    async def act() -> bool:
        async with limiter:
            return True

    return Case(act, **common)


def _async_decorator(kind: str) -> Case:
    _, limiter, common = _async_limits(kind)

    @limiter  # type: ignore[misc]
    async def function() -> bool:
        await asyncio.sleep(0)
        return True

    return Case(lambda: function(), **common)


def _async_wait(kind: str) -> Case:
    store, _, common = _async_limits(kind)
    key = unique(kind)
    slow = headway.asyncio.Throttled(key, quota="200/s burst 1", timeout=60, store=store)

    async def act() -> bool:
        return all(await asyncio.gather(slow.limit(), slow.limit(), slow.limit()))

    trouble: Callable[[], str] = str
    if kind != "client":
        sync = Throttled(key, quota="200/s burst 1", store=store)
        common["prepare"] = lambda: _drain(sync)

        def trouble() -> str:
            owed = sync.peek().reset_after
            return f"a queue of {owed} s is left behind" if owed > 0.05 else ""

    return Case(act, **(common | {"used": None}), trouble=trouble)


def _async_wait_one(kind: str) -> Case:
    """One awaitable of headway's own, which is suspended until its slot."""
    case = _async_wait(kind)
    store, _ = open_store(kind, awaited=True)
    key = unique(kind)
    slow = headway.asyncio.Throttled(key, quota="100/s burst 1", timeout=60, store=store)
    sync = Throttled(key, quota="100/s burst 1", store=store) if kind != "client" else None
    if sync is not None:

        def prepare() -> None:
            _drain(sync)
            if sync.peek().remaining:
                sync.limit()

        case.prepare = prepare
        case.trouble = lambda: (
            f"a queue of {sync.peek().reset_after} s" if sync.peek().reset_after > 0.08 else ""
        )
    case.act = lambda: slow.limit()
    return case


ASYNC_ENTRIES: dict[str, Callable[[str], Case]] = {
    "limit": _async_limit,
    "peek": _async_peek,
    "reset": _async_reset,
    "with": _async_with,
    "decorator": _async_decorator,
    "wait": _async_wait,
    "wait_one": _async_wait_one,
}

# --- semaphores and buckets


def _permits(semaphore: Any) -> Callable[[], str]:
    """Nothing is held, nobody waits: at the latest when the permit's term of 2 s has ended."""

    def trouble() -> str:
        end = time.monotonic() + 4
        while True:
            held, waiting = semaphore._pool.held, semaphore._pool.waiting
            if not held and not waiting:
                return ""
            if time.monotonic() > end:
                return f"{held} permits are held and {waiting} wait, after it was left"
            time.sleep(0.01)

    return trouble


def _semaphore(kind: str) -> Case:
    store, close = open_store(kind)
    semaphore = SyncSemaphore(unique(kind), 1, max_sleep=30, expiry=2, connection=store)
    other = Throttled(unique(kind), quota=MANY, store=store)

    def act() -> bool:
        with semaphore:
            return True

    return Case(act, trouble=_permits(semaphore), ask=other.limit, clean=close)


def _semaphore_waits(kind: str) -> Case:
    store, close = open_store(kind)
    semaphore = SyncSemaphore(unique(kind), 1, max_sleep=30, expiry=2, connection=store)
    other = Throttled(unique(kind), quota=MANY, store=store)
    in_it, out = threading.Semaphore(0), threading.Semaphore(0)

    def holder() -> None:
        with semaphore:
            in_it.release()
            time.sleep(0.01)
        out.release()

    def prepare() -> None:
        threading.Thread(target=holder, daemon=True).start()
        in_it.acquire()

    def act() -> bool:
        with semaphore:
            return True

    def trouble() -> str:
        if not out.acquire(timeout=20):
            return "the holder does not end"
        return _permits(semaphore)()

    return Case(act, prepare=prepare, trouble=trouble, ask=other.limit, clean=close)


def _async_semaphore(kind: str) -> Case:
    store, close = open_store(kind)
    semaphore = AsyncSemaphore(unique(kind), 1, max_sleep=30, expiry=2, connection=store)

    async def act() -> bool:
        async with semaphore:
            return True

    return Case(act, trouble=_permits(semaphore), clean=close)


def _async_semaphore_waits(kind: str) -> Case:
    store, close = open_store(kind)
    semaphore = AsyncSemaphore(unique(kind), 1, max_sleep=30, expiry=2, connection=store)

    async def enter() -> bool:
        async with semaphore:
            await asyncio.sleep(0.001)
            return True

    async def act() -> bool:
        return all(await asyncio.gather(enter(), enter(), enter()))

    return Case(act, trouble=_permits(semaphore), clean=close)


def _bucket_allow() -> Case:
    bucket = TokenBucket(1e6, 1e-6)
    return Case(bucket.allow, used=lambda: round(1e6 - bucket.tokens), ask=TokenBucket(9, 9).allow)


def _bucket_wait() -> Case:
    bucket = TokenBucket(1, 200)

    def trouble() -> str:
        end = time.monotonic() + 5
        while bucket.tokens < 1:
            if time.monotonic() > end:
                return f"only {bucket.tokens} tokens come back"
            time.sleep(0.001)
        return ""

    return Case(
        bucket.wait,
        prepare=bucket.allow,
        trouble=trouble,
        ask=bucket.allow,
        passes=lambda value: value is None,
    )


def _limiters_bucket(kind: str) -> Case:
    store, close = open_store(kind)
    bucket = SyncTokenBucket(unique(kind), 1, 0.005, 1, connection=store)

    def act() -> bool:
        with bucket:
            return True

    return Case(act, clean=close)


def _async_limiters_bucket(kind: str) -> Case:
    store, close = open_store(kind)
    bucket = AsyncTokenBucket(unique(kind), 1, 0.005, 1, connection=store)

    async def act() -> bool:
        async with bucket:
            return True

    return Case(act, clean=close)


# --- the other families


def _choked() -> Case:
    from headway.choked import choked

    function = choked(unique("choked"), 10**6, 86400.0)(lambda: True)
    return Case(function, documented=(LimitedError,))


def _choked_settles() -> Case:
    from headway.choked import Choked, settle

    function = Choked()(
        key=unique("choked"),
        request_limit="1000000/d",
        token_limit="1000000/d",
        token_estimator=lambda: 7,
    )(lambda: True)

    def act() -> bool:
        value = function()
        settle(5)
        return bool(value)

    return Case(act, documented=(LimitedError,))


def _async_choked() -> Case:
    from headway.choked import choked

    @choked(unique("choked"), 10**6, 86400.0)
    async def function() -> bool:
        return True

    return Case(lambda: function(), documented=(LimitedError,))


def _request() -> Case:
    """A request by requests' session to an adapter that answers at once."""
    import requests
    from requests.adapters import BaseAdapter

    from headway.smartratelimit import RateLimiter

    class Answers(BaseAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            response.headers["X-RateLimit-Limit"] = "1000000"
            response.headers["X-RateLimit-Remaining"] = "999999"
            response.headers["X-RateLimit-Reset"] = "3600"
            response.raw = None
            response._content = b"ok"
            return response

        def close(self) -> None: ...

    limiter = RateLimiter()
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Answers())
    limiter.wrap_session(session)
    return Case(
        lambda: session.get("http://example.invalid/"),
        passes=lambda response: response.status_code == 200,
        clean=limiter.close,
    )


def _ledger() -> Case:
    from headway._core import Ledger, now_ns, parse_headers

    ledger = Ledger()
    ledger.configure("requests", 10**9, 10**9 * 3600)
    headers = {"X-RateLimit-Limit": "9999999", "X-RateLimit-Remaining": "9999998"}

    def act() -> bool:
        now = now_ns()
        ticket = ledger.reserve({"requests": 1}, now, 0)
        assert isinstance(ticket, bytes)
        ledger.observe(ticket, parse_headers(headers, 200, now / 1e9), now, now)
        return bool(Ledger(ledger.state()).status(now))

    return Case(act)


def _values() -> Case:
    """The values: quotas from text, results and states made, compared, hashed and shown."""
    from headway import RateLimitResult, RateLimitState, parse_quota

    def act() -> bool:
        quotas = parse_quota("100/s burst 200; 5 per minute | 7/10s")
        state = RateLimitState(5, 3, 1.5, 0)
        result = RateLimitResult(False, state)
        return bool(len(quotas) == 3 and hash(quotas) and hash(result) and repr((quotas, result)))

    return Case(act)


def _step() -> Case:
    from headway._core import now_ns, step

    return Case(lambda: step(None, ["5/s", " 9/m"][0], 1, now_ns())[1])


for _kind in STORES:
    for _entry, _make in ENTRIES.items():
        if (_kind, _entry) != ("lease", "made"):
            _add(f"{_kind}.{_entry}", lambda m=_make, k=_kind: m(k), waits=_entry == "wait")
    for _entry, _make in ASYNC_ENTRIES.items():
        if _kind != "client" or _entry != "wait":
            _add(
                f"{_kind}.{_entry}",
                lambda m=_make, k=_kind: m(k),
                waits=_entry.startswith("wait"),
                awaited=True,
            )
for _kind in ("memory", "shm", "redis", "sqlite"):
    _add(f"{_kind}.opened", lambda k=_kind: _opened(k))
for _kind in ("memory", "shm", "redis"):
    _add(f"{_kind}.semaphore", lambda k=_kind: _semaphore(k))
    _add(f"{_kind}.semaphore_wait", lambda k=_kind: _semaphore_waits(k), waits=True)
    _add(f"{_kind}.semaphore", lambda k=_kind: _async_semaphore(k), awaited=True)
    _add(
        f"{_kind}.semaphore_wait",
        lambda k=_kind: _async_semaphore_waits(k),
        waits=True,
        awaited=True,
    )
    _add(f"{_kind}.limiters_bucket", lambda k=_kind: _limiters_bucket(k), waits=True)
    _add(
        f"{_kind}.limiters_bucket",
        lambda k=_kind: _async_limiters_bucket(k),
        waits=True,
        awaited=True,
    )
_add("bucket.allow", _bucket_allow)
_add("bucket.wait", _bucket_wait, waits=True)
_add("choked.call", _choked)
_add("choked.settle", _choked_settles)
_add("choked.call", _async_choked, awaited=True)
_add("smartratelimit.request", _request)
_add("ledger.all", _ledger)
_add("values.all", _values)
_add("values.step", _step)
for _name in (
    *("limit", "peek", "reset", "with", "decorator", "semaphore", "wait", "semaphore_wait"),
):
    _add(f"protocol.{_name}", lambda: Case(bool))
# What these do is in hostile_redis.py and surroundings.py.
for _name in ("limit", "wait", "peek", "semaphore"):
    _add(f"hostile.{_name}", lambda: Case(bool))
    _add(f"hostile.{_name}", lambda: Case(bool), awaited=True)
_add("types.all", lambda: Case(bool))
_add("arguments.all", lambda: Case(bool))


APART = ("protocol", "types", "arguments", "hostile")
"""Stores of operations that belong to one torment only."""


def needs_redis(name: str) -> bool:
    return OPERATIONS[name].store in ("redis", "lease", "client", "hostile")


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """A loop: asyncio, uvloop, or asyncio's with eager tasks, tasks in Python, debug mode."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    loop = asyncio.new_event_loop()
    if kind == "eager":
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    elif kind == "pytask":
        task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
        loop.set_task_factory(lambda loop, coro, **how: task(coro, loop=loop, **how))
    elif kind == "debug":
        loop.set_debug(True)
        loop.slow_callback_duration = 1e9
    return loop


def has_loop(kind: str) -> bool:
    if kind == "uvloop":
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: F401

            return True
        return False
    return kind != "eager" or hasattr(asyncio, "eager_task_factory")
