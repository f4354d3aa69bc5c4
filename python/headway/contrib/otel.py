"""OpenTelemetry metrics of limiters: a hook that counts requests and times them.

    from headway.contrib.otel import OTelHook

    throttle = Throttled(quota="100/s", hooks=[OTelHook(keys=False)])

The metrics are those of throttled-py's hook of that name, so its dashboards go on working:

    throttled.requests   counter, by the cost of each request
    throttled.duration   histogram, seconds; the wait for a slot is part of it

with the attributes `algorithm`, `store_type`, `result` ("allowed", "denied", "error" where the
store did not answer) and `key`. A series for each key is dear where keys are many: `keys=False`
leaves that attribute out. Only a hook without a meter of its own imports OpenTelemetry.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headway._core import RateLimitResult
from headway._snapshot import text_of
from headway.hooks import AsyncHook, Hook, HookContext

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, Meter

__all__ = ["AsyncOTelHook", "OTelHook", "OTelHookBase"]


class OTelHookBase:
    """The two instruments, and what is recorded in them: all but the waiting."""

    METRIC_REQUESTS = "throttled.requests"
    METRIC_DURATION = "throttled.duration"
    _keys = True

    def __init__(self, meter: "Meter") -> None:
        if not hasattr(meter, "create_counter") or not hasattr(meter, "create_histogram"):
            raise TypeError(
                f"Invalid meter: {meter!r}, must be a Meter of OpenTelemetry, such as "
                'opentelemetry.metrics.get_meter("my-app").'
            )
        self._meter = meter
        self._requests: Counter = meter.create_counter(
            name=self.METRIC_REQUESTS, description="Number of rate limit checks", unit="1"
        )
        self._duration: Histogram = meter.create_histogram(
            name=self.METRIC_DURATION, description="Duration of rate limit checks", unit="s"
        )

    def _record_metrics(
        self, context: HookContext, result: RateLimitResult, duration: float
    ) -> None:
        self._record(context, "denied" if result.limited else "allowed", duration)

    def _record(self, context: HookContext, result: str, duration: float) -> None:
        attributes = {
            "algorithm": context.algorithm,
            "store_type": context.store_type,
            "result": result,
        }
        if self._keys:
            attributes["key"] = text_of(context.key)
        self._requests.add(context.cost, attributes)
        self._duration.record(duration, attributes)


class _OwnMeter(OTelHookBase):
    """What is headway's own: a meter where none is given, keys or none, and errors counted too."""

    def __init__(self, meter: "Meter | None" = None, *, keys: bool = True) -> None:
        super().__init__(_global_meter() if meter is None else meter)
        self._keys = keys


class OTelHook(_OwnMeter, Hook):
    """Metrics of a `headway.Throttled`.

    Without a `meter` it is the global provider's one named "headway".
    """

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and record it."""
        start = time.perf_counter()
        try:
            result = call_next()
        except Exception:
            self._record(context, "error", time.perf_counter() - start)
            raise
        self._record_metrics(context, result, time.perf_counter() - start)
        return result


class AsyncOTelHook(_OwnMeter, AsyncHook):
    """Metrics of a `headway.asyncio.Throttled`."""

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and record it. One that is cancelled was none."""
        start = time.perf_counter()
        try:
            result = await call_next()
        except Exception:
            self._record(context, "error", time.perf_counter() - start)
            raise
        self._record_metrics(context, result, time.perf_counter() - start)
        return result


def _global_meter() -> "Meter":
    from headway._core import __version__

    try:
        from opentelemetry.metrics import get_meter
    except ImportError as error:
        raise ImportError(
            'OTelHook needs OpenTelemetry: pip install "headway[otel]", or give it a meter.'
        ) from error
    return get_meter("headway", __version__)
