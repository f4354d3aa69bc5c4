"""throttled-py's OpenTelemetry hook for asyncio, by its names."""

import time
from collections.abc import Awaitable, Callable

from headway._core import RateLimitResult
from headway.contrib.otel import OTelHookBase
from headway.hooks import AsyncHook, HookContext

__all__ = ["OTelHook"]


class OTelHook(OTelHookBase, AsyncHook):
    """Metrics of an awaited `Throttled`: `Throttled(key="/api", hooks=[OTelHook(meter)])`."""

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and record it."""
        start = time.perf_counter()
        result = await call_next()
        self._record_metrics(context, result, duration=time.perf_counter() - start)
        return result
