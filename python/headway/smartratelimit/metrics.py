"""Counts of requests and waits, and the limits last seen, for Prometheus and as JSON.

    metrics = MetricsCollector()
    metrics.record_request("api.github.com", response.status_code, status)
    print(metrics.export_prometheus())

The counts are kept here, under one lock, so that what is exported fits together. prometheus-client
writes the text where it is installed, from the same families; it can also collect them into a
registry of yours: `MetricsCollector(registry=prometheus_client.REGISTRY)`.
"""

import json
import threading
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headway._forks import open_after_fork
from headway.exceptions import SetUpError
from headway.smartratelimit import _exposition
from headway.smartratelimit._arguments import invalid, name, number, whole
from headway.smartratelimit._exposition import Family
from headway.smartratelimit.models import RateLimitStatus, utcnow

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

__all__ = ["OTHER", "WAIT_BUCKETS", "MetricsCollector"]

OTHER = "other"
"""Endpoints beyond `max_endpoints` are counted together under this name."""
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
"""Upper bounds of the histogram of waits, in seconds."""

_HISTORY = 100
_WAIT_MAX = 3650 * 86400.0


@dataclass
class _Endpoint:
    """The counts of one endpoint."""

    statuses: Counter[int] = field(default_factory=Counter)
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    latest: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """Limit, remaining and utilization by dimension."""
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS) + 1))
    waited: float = 0.0

    def counts(self) -> dict[str, int]:
        total = sum(self.statuses.values())
        good = sum(n for status, n in self.statuses.items() if 200 <= status < 300)
        limited = self.statuses.get(429, 0)
        return {
            "total_requests": total,
            "successful_requests": good,
            "rate_limited_requests": limited,
            "other_errors": total - good - limited,
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.counts(),
            "rate_limit_history": [dict(entry) for entry in self.history],
            "status_codes": {str(status): n for status, n in sorted(self.statuses.items())},
            "waits": {"count": sum(self.waits), "total_seconds": self.waited},
        }


class MetricsCollector:
    """Counts by endpoint; may be called by any thread."""

    def __init__(
        self, registry: "CollectorRegistry | None" = None, *, max_endpoints: int = 1000
    ) -> None:
        """registry: one of prometheus-client's, which then collects from here too.

        max_endpoints bounds the memory and the number of series: later endpoints are `OTHER`.
        """
        self._lock = open_after_fork(threading.Lock())
        self._endpoints: dict[str, _Endpoint] = {}
        self._max_endpoints = whole("max_endpoints", max_endpoints, 1, 1_000_000)
        if registry is not None:
            _register(self, registry)

    def record_request(
        self,
        endpoint: str,
        status_code: int,
        rate_limit_status: RateLimitStatus | None = None,
    ) -> None:
        """Count a response, and remember what is known of the limit now."""
        name("endpoint", endpoint)
        status = whole("status_code", status_code, 100, 999)
        if rate_limit_status is not None and not isinstance(rate_limit_status, RateLimitStatus):
            invalid("rate_limit_status", rate_limit_status, "a RateLimitStatus or None")
        entry = None if rate_limit_status is None else _entry(rate_limit_status)
        with self._lock:
            counted = self._of(endpoint)
            counted.statuses[status] += 1
            if rate_limit_status is not None and entry is not None:
                counted.history.append(entry)
                counted.latest = _latest(rate_limit_status)

    def record_wait(self, endpoint: str, seconds: float) -> None:
        """Count the time for which a request was held back; 0 where it was not."""
        name("endpoint", endpoint)
        waited = number("seconds", seconds, _WAIT_MAX)
        with self._lock:
            counted = self._of(endpoint)
            counted.waits[bisect_left(WAIT_BUCKETS, waited)] += 1
            counted.waited += waited

    def get_metrics(self, endpoint: str | None = None) -> dict[str, Any]:
        """A copy of the counts of an endpoint, {} where there are none; without one, of all."""
        with self._lock:
            if endpoint is None:
                return {each: found.as_dict() for each, found in self._endpoints.items()}
            found_one = self._endpoints.get(endpoint)
            return {} if found_one is None else found_one.as_dict()

    def export_prometheus(self) -> str:
        """The text that Prometheus scrapes, of these metrics alone."""
        return _exposition.text(self._families())

    def export_json(self) -> str:
        """What `get_metrics()` returns, as JSON."""
        return json.dumps(self.get_metrics(), indent=2, allow_nan=False)

    def reset(self, endpoint: str | None = None) -> None:
        """Forget the counts of an endpoint, or of all."""
        with self._lock:
            if endpoint is None:
                self._endpoints.clear()
            else:
                self._endpoints.pop(endpoint, None)

    def _of(self, endpoint: str) -> _Endpoint:
        found = self._endpoints.get(endpoint)
        if found is None:
            if len(self._endpoints) >= self._max_endpoints:
                endpoint = OTHER
            found = self._endpoints.setdefault(endpoint, _Endpoint())
        return found

    def _families(self) -> list[Family]:
        """Every metric with its samples. Names without `headway_` are those of release 0.5.1."""
        counts = {
            "total_requests": Family("ratelimit_total_requests", "untyped", "Requests."),
            "successful_requests": Family(
                "ratelimit_successful_requests", "untyped", "Requests answered with a 2xx status."
            ),
            "rate_limited_requests": Family(
                "ratelimit_rate_limited_requests", "untyped", "Requests answered with 429."
            ),
            "other_errors": Family(
                "ratelimit_other_errors", "untyped", "Requests answered with any other status."
            ),
        }
        limit = Family("ratelimit_limit", "gauge", "Requests allowed in a window.")
        remaining = Family("ratelimit_remaining", "gauge", "Requests left in this window.")
        used = Family("ratelimit_utilization", "gauge", "Share of the limit in use, 0 to 1.")
        by_status = Family("headway_responses", "counter", "Responses by status.")
        waits = Family("headway_wait_seconds", "histogram", "Time that requests were held back.")
        limits = Family("headway_limit", "gauge", "Units allowed in a window.")
        left = Family("headway_limit_remaining", "gauge", "Units left in this window.")
        shares = Family("headway_limit_utilization", "gauge", "Share of the limit in use, 0 to 1.")
        with self._lock:
            for endpoint, found in self._endpoints.items():
                labels = {"endpoint": endpoint.encode("utf-8", "replace").decode("utf-8")}
                for each, value in found.counts().items():
                    counts[each].add("", labels, value)
                for status, n in sorted(found.statuses.items()):
                    by_status.add("_total", {**labels, "status": str(status)}, n)
                _add_waits(waits, labels, found)
                for dimension, (most, rest, share) in found.latest.items():
                    if dimension == "":
                        limit.add("", labels, most)
                        remaining.add("", labels, rest)
                        used.add("", labels, share)
                    else:
                        both = {**labels, "dimension": dimension}
                        limits.add("", both, most)
                        left.add("", both, rest)
                        shares.add("", both, share)
        own = [by_status, waits, limits, left, shares]
        return [*counts.values(), remaining, limit, used, *own]


def _entry(status: RateLimitStatus) -> dict[str, Any]:
    return {
        "timestamp": utcnow().isoformat(),
        "limit": status.limit,
        "remaining": status.remaining,
        "utilization": status.utilization,
        "reset_in": status.reset_in,
    }


def _latest(status: RateLimitStatus) -> dict[str, tuple[int, int, float]]:
    """The flat fields under "", which the document's gauges show, and each dimension."""
    found = {"": (status.limit, status.remaining, status.utilization)}
    for each, known in status.dimensions.items():
        of_one = RateLimitStatus(each, known.limit, known.remaining)
        found[each or "unnamed"] = (known.limit, known.remaining, of_one.utilization)
    if not status.dimensions:
        found["requests"] = found[""]
    return found


def _add_waits(family: Family, labels: dict[str, str], found: _Endpoint) -> None:
    count = 0
    if not any(found.waits):
        return
    for bound, n in zip((*map(repr, WAIT_BUCKETS), "+Inf"), found.waits, strict=True):
        count += n
        family.add("_bucket", {**labels, "le": bound}, count)
    family.add("_sum", labels, found.waited)
    family.add("_count", labels, count)


def _register(collector: MetricsCollector, registry: "CollectorRegistry") -> None:
    if not callable(getattr(registry, "register", None)):
        invalid("registry", registry, "a CollectorRegistry of prometheus-client")
    try:
        registry.register(_exposition.collector(collector._families))
    except ImportError as error:
        raise SetUpError(
            "A registry needs prometheus-client: pip install 'headway[prometheus]'."
        ) from error
    except ValueError as error:  # the names are taken
        raise SetUpError(
            "Cannot register with this registry: it has these metrics already. Use one "
            f"MetricsCollector for it ({error})."
        ) from error
