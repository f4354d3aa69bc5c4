"""Prometheus metrics of limiters, in two ways.

`HeadwayCollector(activity)` shows what an `Activity` has counted: nothing is counted twice, and the
keys that were denied most can be shown too. It sees one process.

    REGISTRY.register(HeadwayCollector(activity))

`PrometheusHook()` counts in prometheus_client's own metrics, which sum over all workers where its
multi-process mode is on (PROMETHEUS_MULTIPROC_DIR). Both use the same names, so one registry takes
either, not both:

    headway_requests_total{algorithm,store,result}   requests; result is allowed, denied or error
    headway_cost_total{algorithm,store}              what the allowed ones cost
    headway_wait_seconds{algorithm,store}            histogram: from asking to the answer
    headway_waiting{algorithm,store}                 calls that have no answer yet

Labels never hold a key, unless `keys` asks for so many of them (collector only).
"""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        'headway.contrib.prometheus needs prometheus_client: pip install "headway[prometheus]".'
    ) from error

from headway._core import RateLimitResult
from headway._forks import open_after_fork
from headway.activity import WAITS, Activity
from headway.hooks import AsyncHook, Hook, HookContext

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["AsyncPrometheusHook", "HeadwayCollector", "PrometheusHook"]

_LABELS = ("algorithm", "store")
_REQUESTS = ("headway_requests", "Requests for permission, by how they were answered.")
_COST = ("headway_cost", "What the allowed requests cost.")
_WAIT = ("headway_wait_seconds", "Seconds from asking to the answer, the wait for a slot included.")
_WAITING = ("headway_waiting", "Calls that have asked and have no answer yet.")
_BOUNDS = WAITS[1:]


class HeadwayCollector(Collector):
    """The counts of an `Activity`, each time that the registry is read.

    `keys` > 0 adds, for so many keys that were denied most, `headway_key_requests_total` and
    `headway_key_remaining` with the labels key, algorithm and quota.
    """

    def __init__(self, activity: Activity, *, keys: int = 0) -> None:
        if isinstance(keys, bool) or not isinstance(keys, int) or keys < 0:
            raise ValueError(f"Invalid keys: {keys!r}, must be how many keys to show, 0 for none.")
        self._activity = activity
        self._keys = keys

    def describe(self) -> Iterator[Metric]:
        """The names, so that the registry finds two that clash."""
        yield from self._empty()

    def collect(self) -> Iterator[Metric]:
        """The counts as they are now."""
        requests, cost, wait, waiting = metrics = self._empty()
        for family in self._activity.families():
            labels = (family.algorithm, family.store)
            requests.add_metric((*labels, "allowed"), family.admitted)
            requests.add_metric((*labels, "denied"), family.denied)
            cost.add_metric(labels, family.spent)
            waiting.add_metric(labels, family.waiting)
            total, buckets = family.waits[0], []
            for bound, count in zip(WAITS[1:], family.waits[1:], strict=False):
                total += count
                buckets.append((str(bound), float(total)))
            buckets.append(("+Inf", float(total + family.waits[-1])))
            wait.add_metric(labels, buckets, sum_value=family.waited)
        yield from metrics
        if self._keys:
            yield from self._of_keys()

    def _empty(
        self,
    ) -> tuple[CounterMetricFamily, CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily(*_REQUESTS, labels=(*_LABELS, "result")),
            CounterMetricFamily(*_COST, labels=_LABELS),
            HistogramMetricFamily(*_WAIT, labels=_LABELS),
            GaugeMetricFamily(*_WAITING, labels=_LABELS),
        )

    def _of_keys(self) -> Iterator[Metric]:
        labels = ("key", "algorithm", "quota")
        requests = CounterMetricFamily(
            "headway_key_requests",
            "Requests of the keys that were denied most.",
            labels=(*labels, "result"),
        )
        remaining = GaugeMetricFamily(
            "headway_key_remaining", "What remains of their quota.", labels=labels
        )
        seen = set()
        for key in self._activity.snapshot(sort="denied", limit=self._keys).keys:
            who = (key.key, key.algorithm, key.quota)
            if who in seen:  # the same in two kinds of store
                continue
            seen.add(who)
            requests.add_metric((*who, "allowed"), key.admitted or 0)
            requests.add_metric((*who, "denied"), key.denied or 0)
            if key.remaining is not None:
                remaining.add_metric(who, key.remaining)
        yield from (requests, remaining)


class _Metrics:
    """prometheus_client's own metrics, made once for each registry."""

    def __init__(self, registry: "CollectorRegistry") -> None:
        labels = {"labelnames": _LABELS, "registry": registry}
        self.requests = Counter(*_REQUESTS, (*_LABELS, "result"), registry=registry)
        self.cost = Counter(*_COST, **labels)  # type: ignore[arg-type]
        self.wait = Histogram(*_WAIT, **labels, buckets=_BOUNDS)  # type: ignore[arg-type]
        self.waiting = Gauge(*_WAITING, **labels, multiprocess_mode="livesum")  # type: ignore[arg-type]

    def answered(self, context: HookContext, result: RateLimitResult, seconds: float) -> None:
        if context.cost == 0:  # only a look
            return
        labels = (context.algorithm, context.store_type)
        self.requests.labels(*labels, "denied" if result.limited else "allowed").inc()
        if not result.limited:
            self.cost.labels(*labels).inc(context.cost)
        self.wait.labels(*labels).observe(seconds)

    def failed(self, context: HookContext) -> None:
        self.requests.labels(context.algorithm, context.store_type, "error").inc()


_making = open_after_fork(threading.Lock())
_made: "dict[int, tuple[CollectorRegistry, _Metrics]]" = {}


def _metrics(registry: "CollectorRegistry | None") -> _Metrics:
    chosen: Any = REGISTRY if registry is None else registry
    with _making:  # a registry refuses the same names from a second thread
        found = _made.get(id(chosen))
        if found is None:
            found = _made[id(chosen)] = (chosen, _Metrics(chosen))
        return found[1]


class PrometheusHook(Hook):
    """Counts the decisions of a `Throttled`. Hooks of one registry share their metrics."""

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        self._metrics = _metrics(registry)

    def on_limit(
        self, call_next: Callable[[], RateLimitResult], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and count it."""
        metrics, started = self._metrics, time.perf_counter()
        with metrics.waiting.labels(context.algorithm, context.store_type).track_inprogress():
            try:
                result = call_next()
            except Exception:
                metrics.failed(context)
                raise
        metrics.answered(context, result, time.perf_counter() - started)
        return result


class AsyncPrometheusHook(AsyncHook):
    """`PrometheusHook` for `headway.asyncio.Throttled`."""

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        self._metrics = _metrics(registry)

    async def on_limit(
        self, call_next: Callable[[], Awaitable[RateLimitResult]], context: HookContext
    ) -> RateLimitResult:
        """Take the decision, and count it."""
        metrics, started = self._metrics, time.perf_counter()
        with metrics.waiting.labels(context.algorithm, context.store_type).track_inprogress():
            try:
                result = await call_next()
            except Exception:
                metrics.failed(context)
                raise
        metrics.answered(context, result, time.perf_counter() - started)
        return result
