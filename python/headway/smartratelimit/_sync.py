"""Asking a ledger as a thread does: at once where it may, else from a place in line."""

import time
from typing import Any

from headway.smartratelimit._base import Entry, LimiterBase
from headway.smartratelimit._scopes import Scope
from headway.smartratelimit._waiting import Line, ThreadWaiter, steps

__all__ = ["SyncLimiter"]


class SyncLimiter(LimiterBase):
    """What adapters and transports for threads call."""

    def _enter(self, method: str, url: str, headers: Any, costs: "dict[str, int] | None") -> Entry:
        """Return when the request may go."""
        scope, resource = self._find(method, url, headers)
        if not scope.prepared:
            self._prepare(scope)
        line = scope.lines.get(resource) if scope.lines else None
        if line is None or not line.waiters:
            now = self._clock()
            if self._ledger_of is not None:
                ledger = self._ledger_of(scope.key) or self._prepared(scope)
                answer: Any = ledger.reserve(costs, now, self._max_wait_ns, resource)
            else:
                answer = self._change(scope.key, "reserve", costs, now, self._max_wait_ns, resource)
            if type(answer) is bytes or answer is None:
                if self._metrics is not None:
                    self._metrics.record_wait(scope.endpoint, 0.0)
                return scope, resource, answer, now
            if answer[0] != "wait":
                self._refuse(scope, answer)
            line = scope.line(resource)
        return self._queue(scope, resource, line, costs)

    def _queue(
        self, scope: Scope, resource: str, line: Line, costs: "dict[str, int] | None"
    ) -> Entry:
        waiter = ThreadWaiter()
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
                    waiter.sleep(seconds)
                    continue
                now = self._clock()
                most = max(0, began + self._max_wait_ns - now)
                answer = self._change(scope.key, "reserve", costs, now, most, resource)
                if answer is None:  # the storage fails, and that is passed over
                    break
            line.leave(waiter)
        except BaseException:  # a signal's handler may raise in `leave`, too
            line.leave(waiter)
            if type(answer) is bytes:
                self._lose((scope, resource, answer, now), False)
            raise
        if type(answer) is tuple:
            self._refuse(scope, answer)
        if self._metrics is not None:
            self._metrics.record_wait(scope.endpoint, max(0, now - began) / 1e9)
        return scope, resource, answer, now

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)
