"""throttled-py's OpenTelemetry hook, by its names: a meter is given, and each key is an attribute.

It needs no OpenTelemetry of its own to be imported, which the drop-in does with every mirror.
"""

import time
from collections.abc import Callable

from headway._core import RateLimitResult
from headway.contrib.otel import OTelHookBase
from headway.hooks import Hook, HookContext

__all__ = ["OTelHook", "OTelHookBase"]


class OTelHook(OTelHookBase, Hook):
    """Metrics of a `Throttled`: `Throttled(key="/api", hooks=[OTelHook(meter)])`."""

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and record it."""
        start = time.perf_counter()
        result = call_next()
        self._record_metrics(context, result, duration=time.perf_counter() - start)
        return result
