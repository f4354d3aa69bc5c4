"""The service as an ASGI application: from a request to its answer.

There is no framework here. A route is one entry of a table: the method, whether a token is needed,
and what answers. Whatever goes wrong on the way raises `Refused` with the answer to give.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from headway.activity import SORTS, Snapshot
from headway.asyncio import Throttled
from headway.exceptions import DataError, SetUpError, StoreUnavailableError
from headway.serve import asking, proxy
from headway.serve.answers import Answer, Refused, failure, json_answer
from headway.serve.asking import shown
from headway.serve.looking import Turns
from headway.serve.pages import Pages
from headway.serve.protocol import Guard, respond
from headway.serve.tokens import Tenant, Tenants
from headway.types import AnyStore

__all__ = ["Service"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("headway.serve")
_HEALTH_S = 2.0
"""The store's deadline for a health check."""
_HEALTH_KEPT_S = 1.0
"""How long its answer holds, so that asking without a token does not load the store."""
_UNAUTHORIZED = failure(
    401, "A valid token is needed: Authorization: Bearer TOKEN", (b"www-authenticate", b"Bearer")
)
_UNAVAILABLE = failure(503, "The store cannot answer.", (b"retry-after", b"1"))
_CLOSING = failure(503, "The service is about to stop.", (b"retry-after", b"1"))
_WRONG = failure(500, "Something went wrong here; the service's log says what.")
_TOO_MANY_WAIT = failure(
    503, "Too many requests of this tenant wait for their turn.", (b"retry-after", b"1")
)
_LOGGED_EVERY_S = 10.0
"""A store that cannot answer is logged so often, whatever is asked meanwhile."""
_IDEMPOTENCY_KEY = b"idempotency-key"
_INSTANCE = b"headway-instance"


class _Request:
    """What a handler is given. A route without a token has no tenant."""

    __slots__ = ("_tenant", "admin", "headers", "query", "receive")

    def __init__(
        self,
        tenant: Tenant | None,
        admin: bool,
        query: bytes,
        headers: dict[bytes, bytes],
        receive: Receive,
    ) -> None:
        self._tenant, self.admin = tenant, admin
        self.query, self.headers, self.receive = query, headers, receive

    @property
    def tenant(self) -> Tenant:
        assert self._tenant is not None, "a route that needs a tenant is guarded"
        return self._tenant


@dataclass(slots=True)
class _Route:
    method: str
    guarded: bool
    handler: Callable[[_Request], Awaitable[Answer]]
    other_method: Answer
    reads: bool
    """Whether it takes nothing: then HEAD does as GET."""


class Service:
    """The application, and what it knows: a store, tenants, and what was counted.

    `max_body` is in bytes, `max_wait` in seconds: how long a request may ask to be kept waiting.
    `metrics_public` serves `/metrics` without a token.
    """

    def __init__(
        self,
        store: AnyStore,
        tenants: Tenants,
        guard: Guard,
        *,
        max_body: int = 64 * 1024,
        max_wait: float = 60.0,
        metrics_public: bool = False,
    ) -> None:
        self.tenants, self.guard = tenants, guard
        self.responses: dict[tuple[str, int], int] = {}
        self.waiting = 0
        self.store_failures = 0
        self._max_body = max_body
        self._calls = proxy.Calls(max_wait)
        self._questions = asking.Questions(max_wait)
        self._pages = Pages()
        self._metrics: Any = None
        self._health: tuple[float, Answer] | None = None
        self._checking: asyncio.Future[Answer] | None = None
        self._turns = Turns()
        self._logged = float("-inf")
        self._probe = Throttled(quota="1/s", store=store, key_prefix="headway.serve")
        self._closing: asyncio.Event | None = None
        self._stop = False
        self._instance = secrets.token_hex(8).encode()
        """Of this process: who sends a request again says whom it asked first."""
        self._routes: dict[str, _Route] = {}
        self._route("GET", "/choked/acquire", self._acquire, reads=False)
        self._route("POST", "/choked/settle", self._settle)
        for what in asking.ANSWERED:
            self._route("POST", f"/v1/{what}", functools.partial(self._ask, what))
        self._route("GET", "/v1/keys", self._keys)
        self._route("GET", "/healthz", self._healthz, guarded=False)
        self._route("GET", "/metrics", self._show_metrics, guarded=not metrics_public)

    def _route(
        self,
        method: str,
        path: str,
        handler: Callable[[_Request], Awaitable[Answer]],
        guarded: bool = True,
        reads: bool = True,
    ) -> None:
        other = failure(405, f"Use {method}.", (b"allow", method.encode()))
        self._routes[path] = _Route(method, guarded, handler, other, reads and method == "GET")

    def use_tokens(self, tokens: dict[str, tuple[str, bool]] | None) -> None:
        """Let exactly these tokens in from now on; None for everybody.

        Raises SetUpError where a tenant's store cannot be made; then all stays as it was.
        """
        self.tenants.use(tokens)
        self._calls.forget()
        self._questions.forget()

    def tidy(self) -> None:
        """Forget what is over, also of tenants that ask nothing any more."""
        for tenant in self.tenants.all():
            tenant.remembered.forget_old()

    def stop(self) -> None:
        """Answer those who wait, so that the server can end."""
        self._stop = True
        if self._closing is not None:
            self._closing.set()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        route = self._routes.get(path)
        try:
            if route is None:
                path, answer = "page", self._page(path, scope)
            elif method == route.method or (method == "HEAD" and route.reads):
                answer = await self._answer(route, scope, receive)
            else:
                answer = route.other_method
        except Refused as refusal:
            answer = refusal.answer
        except (DataError, SetUpError) as error:
            answer = failure(400, str(error))
        except StoreUnavailableError as error:
            self._count_failure(error)
            answer = _UNAVAILABLE
        except Exception:
            _log.exception("A request of %s %s failed", method, path)
            answer = _WRONG
        counted = (path, answer.status)
        self.responses[counted] = self.responses.get(counted, 0) + 1
        unchanged = answer.status == 304  # has no length: it would be that of what is not sent
        if method != "HEAD" and not unchanged and respond(send, answer):
            return
        headers = list(answer.headers)
        if not unchanged:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if method == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def _count_failure(self, error: StoreUnavailableError) -> None:
        self.store_failures += 1
        now = time.monotonic()
        if now - self._logged >= _LOGGED_EVERY_S:
            self._logged = now
            _log.warning(
                "The store cannot answer (%d requests so far): %s", self.store_failures, error
            )

    def _answer(
        self, route: _Route, scope: MutableMapping[str, Any], receive: Receive
    ) -> Awaitable[Answer]:
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            _check_twice(scope["headers"])
        if not route.guarded:
            return route.handler(_Request(None, True, scope["query_string"], headers, receive))
        who = self.tenants.by_authorization(headers.get(b"authorization"))
        if who is None:
            raise Refused(_UNAUTHORIZED)
        if self.tenants.open:
            _check_browser(headers)
        return route.handler(_Request(*who, scope["query_string"], headers, receive))

    async def _read_body(self, request: _Request, message: Message) -> bytes:
        """Return the body that `message` begins."""
        length = request.headers.get(b"content-length")
        if length is not None and int(length) > self._max_body:
            raise self._too_large()
        body: bytes = message.get("body", b"")
        while message.get("more_body") and len(body) <= self._max_body:
            message = await request.receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise Refused.because(408, "The body did not arrive.")
        if len(body) > self._max_body:
            raise self._too_large()
        return body

    def _too_large(self) -> Refused:
        # The connection stays: what is left of the body is read and dropped, within limits. Closed
        # at once, it would be reset, and the client might never see the answer.
        return Refused.because(413, f"The body is larger than {self._max_body} bytes.")

    # ---- decisions

    async def _ask(self, what: str, request: _Request) -> Answer:
        message = await request.receive()
        body = message.get("body", b"")
        if not body or message["more_body"] or len(body) > self._max_body:
            body = await self._read_body(request, message)
        others = self.tenants if request.admin else None
        question = self._questions.read(body, what, request.tenant, others)
        if isinstance(question, list):
            waits = False
            work = asking.answer_all(question, what)
        else:
            waits = question.timeout is not None
            work = asking.ANSWERED[what](question)
        if not waits and _IDEMPOTENCY_KEY not in request.headers:
            return await work
        return await self._decide(request, work, b"%s %s" % (what.encode(), body), waits)

    async def _acquire(self, request: _Request) -> Answer:
        call = self._calls.read(request.tenant, request.query)
        waits = call.timeout is not None
        work = proxy.acquire(call)
        if not waits and _IDEMPOTENCY_KEY not in request.headers:
            return await work
        return await self._decide(request, work, b"acquire " + request.query, waits)

    async def _settle(self, request: _Request) -> Answer:
        await self._read_body(request, await request.receive())
        call = self._calls.read(request.tenant, request.query)
        asked = b"settle " + request.query
        return await self._decide(request, proxy.settle(call), asked, False)

    async def _decide(
        self,
        request: _Request,
        work: Coroutine[Any, Any, Answer],
        asked: bytes,
        waits: bool,
    ) -> Answer:
        """Decide where a request may come again, or its client may leave while it waits."""
        if waits and (self._stop or self._too_many_wait(request.tenant)):
            work.close()
            return _CLOSING if self._stop else _TOO_MANY_WAIT
        idempotency_key = request.headers.get(_IDEMPOTENCY_KEY)
        if idempotency_key is None:
            return await self._decide_now_or_later(request, work, waits)
        first_asked = request.headers.get(_INSTANCE, self._instance)
        if first_asked != self._instance:
            work.close()
            return failure(409, "Another process of this service was asked first, and may know.")
        work = request.tenant.remembered.once(idempotency_key, asked, work)
        answer = await self._decide_now_or_later(request, work, waits)
        return replace(answer, headers=(*answer.headers, (_INSTANCE, self._instance)))

    async def _decide_now_or_later(
        self, request: _Request, work: Coroutine[Any, Any, Answer], waits: bool
    ) -> Answer:
        if not waits:
            return await work
        if self._closing is None:
            self._closing = asyncio.Event()
        deciding = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_left(request.receive))
        closing = asyncio.ensure_future(self._closing.wait())
        tenant = request.tenant
        self.waiting += 1
        tenant.waiting += 1
        try:
            await asyncio.wait((deciding, leaving, closing), return_when=asyncio.FIRST_COMPLETED)
            return await deciding if deciding.done() else _CLOSING
        finally:
            self.waiting -= 1
            tenant.waiting -= 1
            for task in (deciding, leaving, closing):
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await task

    def _too_many_wait(self, tenant: Tenant) -> bool:
        """Whether a tenant has taken half of the connections that all tenants may have."""
        several = len(self.tenants) > 1
        return several and tenant.waiting >= max(1, self.guard.max_connections // 2)

    # ---- for those who watch

    async def _keys(self, request: _Request) -> Answer:
        wanted = _fields(request.query, ("search", "sort", "limit", "tenant"))
        sort = wanted.get("sort", "denied")
        if sort not in SORTS:
            raise DataError(f"Invalid sort: {shown(sort)}, must be one of {', '.join(SORTS)}.")
        text = wanted.get("limit", "100")
        limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
        if not 0 <= limit <= 1000:
            raise DataError(f"Invalid limit: {shown(text)}, must be an integer from 0 to 1000.")
        search = wanted.get("search", "")
        tenants = self.tenants.all() if request.admin else [request.tenant]
        if "tenant" in wanted:
            tenants = [tenant for tenant in tenants if tenant.name == wanted["tenant"]]
        return await self._turns.take(request.tenant, _look(tenants, search, sort, limit))

    async def _healthz(self, request: _Request) -> Answer:
        loop = asyncio.get_running_loop()
        if self._health is not None and loop.time() < self._health[0]:
            return self._health[1]
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(self._check_health())
        return await asyncio.shield(self._checking)

    async def _check_health(self) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(self._probe.peek("healthz"), _HEALTH_S)
            answer = json_answer({"status": "ok"})
        except (StoreUnavailableError, asyncio.TimeoutError):
            answer = _UNAVAILABLE
        self._health = (loop.time() + _HEALTH_KEPT_S, answer)
        return answer

    async def _show_metrics(self, request: _Request) -> Answer:
        if self._metrics is None:
            from headway.serve.metrics import Metrics

            self._metrics = Metrics(self)
        tenants = self.tenants.all() if request.admin else [request.tenant]
        answer: Answer = self._metrics.answer(tenants, request.admin)
        return answer

    def _page(self, path: str, scope: MutableMapping[str, Any]) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return failure(404, "There is nothing here.")
        seen = next((value for name, value in scope["headers"] if name == b"if-none-match"), None)
        return self._pages.get(path, seen) or failure(404, "There is nothing here.")


def _look(
    tenants: list[Tenant], search: str, sort: str, limit: int
) -> Generator[None, None, Answer]:
    """Answer with the first keys of some tenants, in steps."""
    merged = Snapshot.merged([], sort, limit)
    whose: dict[int, str] = {}
    for tenant in tenants:
        part = yield from tenant.activity.snapshot_in_steps(search, sort, limit)
        whose.update((id(key), tenant.name) for key in part.keys)
        both = (merged, part) if merged.total else (part,)
        together = Snapshot.merged(both, sort, limit)
        whose = {id(key): whose[id(key)] for key in together.keys}
        merged = together
        yield
    rows = []
    for key in merged.keys:
        rows.append(json.dumps({**key.as_json(), "tenant": whose[id(key)]}, allow_nan=False))
        if not len(rows) % 16:
            yield
    totals = json.dumps(merged.totals_as_json(), allow_nan=False)
    return Answer(200, f'{totals[:-1]}, "keys": [{", ".join(rows)}]}}'.encode())


async def _left(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _fields(query: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """Return the fields of a query, each of which may be given once."""
    if len(query) > proxy.MOST_QUERY:
        raise Refused.because(414, f"The query is longer than {proxy.MOST_QUERY} bytes.")
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16
        )
    except ValueError:
        raise DataError("The query has too many fields, or is no UTF-8.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise DataError(f"Unknown field: {shown(name)}, must be one of {', '.join(known)}.")
        if name in fields:
            raise DataError(f"Invalid {name}: given more than once.")
        fields[name] = value
    return fields


def _check_browser(headers: dict[bytes, bytes]) -> None:
    """Refuse what a page of another site makes a browser send.

    Without tokens whoever reaches the loopback interface may ask, and so may any page that a
    browser of this machine shows: across origins, or as a host whose name now leads here. An image
    or a link of another site is asked for without an Origin, but Sec-Fetch-Site tells.
    """
    host, origin = headers.get(b"host"), headers.get(b"origin")
    if host is not None and not _is_loopback(host):
        raise Refused.because(403, "Without tokens, only localhost is served.")
    if origin is not None and (
        host is None or origin not in (b"http://" + host, b"https://" + host)
    ):
        raise Refused.because(403, "Without tokens, other sites are not served.")
    if headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none"):
        raise Refused.because(403, "Without tokens, other sites are not served.")


_HOST = re.compile(rb"(?:([A-Za-z0-9.-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")


@functools.lru_cache(64)
def _is_loopback(host: bytes) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found[1] or found[2]).decode("ascii").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_ONCE = frozenset({b"authorization", b"host", b"origin", _IDEMPOTENCY_KEY, _INSTANCE})


def _check_twice(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a request that names itself, or its sender, more than once.

    A proxy in front of the service may have looked at the other of the two.
    """
    names = [name for name, _ in headers if name in _ONCE]
    if len(names) > len(set(names)):
        raise Refused.because(400, "A header that may be sent once was sent more often.")
