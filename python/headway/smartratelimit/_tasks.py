"""Asking a ledger as a task does, in asyncio or in trio: see `_sync`, which it mirrors."""

from collections.abc import Callable
from functools import partial
from typing import Any

from headway._core import Ledger
from headway._workers import in_worker
from headway.smartratelimit._base import Entry, LimiterBase
from headway.smartratelimit._scopes import Scope
from headway.smartratelimit._waiting import Line, pause, shielded, steps, task_waiter

__all__ = ["TaskLimiter"]


class TaskLimiter(LimiterBase):
    """What transports and middlewares for event loops call."""

    async def _enter(
        self, method: str, url: str, headers: Any, costs: "dict[str, int] | None"
    ) -> Entry:
        """Return when the request may go."""
        await self._meet(url)
        scope, resource = self._find(method, url, headers)
        if not scope.prepared:
            await self._prepare_async(scope)
        line = scope.lines.get(resource) if scope.lines else None
        if line is None or not line.waiters:
            now = self._clock()
            if self._ledger_of is not None:
                ledger = self._ledger_of(scope.key) or self._prepared(scope)
                answer: Any = ledger.reserve(costs, now, self._max_wait_ns, resource)
            else:
                answer = await self._change_async(
                    scope.key, "reserve", costs, now, self._max_wait_ns, resource
                )
            if type(answer) is bytes or answer is None:
                if self._metrics is not None:
                    self._metrics.record_wait(scope.endpoint, 0.0)
                return scope, resource, answer, now
            if answer[0] != "wait":
                self._refuse(scope, answer)
            line = scope.line(resource)
        return await self._queue(scope, resource, line, costs)

    async def _meet(self, url: str) -> None:
        """A host that is met for the first time: the storage is asked for its paths."""
        if self._storage._waits and not self._scopes.has_met(url):
            await self._apart(partial(self._scopes.meet, url))

    async def _apart(self, work: Callable[[], Any]) -> Any:
        """What asks the storage, in a thread where that waits."""
        if self._storage._waits:
            return await in_worker(self._storage, work)
        return work()

    async def _prepare_async(self, scope: Scope) -> None:
        for arguments in await self._apart(partial(self._preparations, scope)):
            await self._change_async(scope.key, "configure", *arguments)
        scope.prepared = True

    async def _count(self, method: str, url: str) -> Entry:
        """A request that a library has made by itself, when it followed a redirect."""
        await self._meet(url)
        scope, resource = self._find(method, url, {})
        now = self._clock()
        answer = await self._change_async(scope.key, "reserve", None, now, 0, resource)
        return scope, resource, answer if type(answer) is bytes else None, now

    async def _queue(
        self, scope: Scope, resource: str, line: Line, costs: "dict[str, int] | None"
    ) -> Entry:
        waiter = task_waiter()
        began = now = self._clock()
        doing = steps(line, waiter, self._clock, self._max_wait_ns, self._polls)
        answer: Any = None
        try:
            line.join(waiter)
            while True:
                try:
                    seconds = doing.send(answer)
                except StopIteration as done:
                    answer = done.value
                    break
                answer = None
                if seconds is not None:
                    await waiter.sleep(seconds)
                    continue
                now = self._clock()
                most = max(0, began + self._max_wait_ns - now)
                arguments = (costs, now, most, resource)
                answer = await self._change_async(scope.key, "reserve", *arguments)
                if answer is None:  # the storage fails, and that is passed over
                    break
            line.leave(waiter)
        except BaseException:  # a signal's handler may raise in `leave`, too
            line.leave(waiter)
            raise
        if type(answer) is tuple:
            self._refuse(scope, answer)
        if self._metrics is not None:
            self._metrics.record_wait(scope.endpoint, max(0, now - began) / 1e9)
        return scope, resource, answer, now

    async def _learn_async(
        self,
        entry: Entry,
        costs: "dict[str, int] | None",
        headers: Any,
        status: int,
        method: str,
        url: str,
    ) -> None:
        """A response has come."""
        if self._memory is not None:
            self._learn(entry, costs, headers, status, method, url)
            return
        scope, _, ticket, sent = entry
        if ticket is None:
            return
        await self._meet(url)
        told = self._told(entry, headers, status, method, url)
        if told or not Ledger.is_settled(ticket):
            arguments = (ticket, told, sent, self._clock())
            await shielded(self._tell_async(scope.key, "observe", *arguments))
        if scope.lines:
            scope.stir()
        if costs is not None or self._metrics is not None:
            await shielded(self._apart(partial(self._follow, scope, costs, status)))

    async def _lose_async(self, entry: Entry, was_sent: bool) -> None:
        """No response has come."""
        if self._memory is not None:
            self._lose(entry, was_sent)
            return
        scope, _, ticket, _ = entry
        if ticket is not None:
            await shielded(self._tell_async(scope.key, "fail", ticket, was_sent, self._clock()))
            if scope.lines:
                scope.stir()

    async def _pause(self, seconds: float) -> None:
        await pause(seconds)
