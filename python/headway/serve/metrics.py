"""`GET /metrics`: what the service counts, in the Prometheus text format.

The service counts in plain integers; they are given names and types when somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from headway.serve.answers import Answer

if TYPE_CHECKING:
    from headway.serve.app import Service
    from headway.serve.tokens import Tenant

__all__ = ["Metrics"]

_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service: those of tenants, and those of the process and all its clients.

    A tenant that is no admin sees its own alone. What others ask, and how much, is not its concern.
    """

    def __init__(self, service: Service) -> None:
        self._decisions = _Decisions()
        self._own, self._whole = CollectorRegistry(), CollectorRegistry()
        self._own.register(self._decisions)
        self._whole.register(self._decisions)
        self._whole.register(_OfTheService(service))
        ProcessCollector(registry=self._whole)

    def answer(self, tenants: Sequence[Tenant], admin: bool) -> Answer:
        """Return them as they are now, with the decisions of these tenants alone."""
        self._decisions.tenants = tenants
        content = generate_latest(self._whole if admin else self._own)
        return Answer(200, content, ((b"content-type", _TYPE),))


class _Collector:
    def describe(self) -> list[Metric]:
        """Nothing: names are known when they are collected."""
        return []


class _Decisions(_Collector):
    """What tenants decided, and how many keys they have."""

    tenants: Sequence[Tenant] = ()

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted so far."""
        decisions = CounterMetricFamily(
            "headway_serve_decisions",
            "Decisions by tenant and outcome.",
            labels=["tenant", "outcome"],
        )
        keys = GaugeMetricFamily(
            "headway_serve_keys", "Keys that were seen of late.", labels=["tenant"]
        )
        for tenant in self.tenants:
            admitted, denied, count = tenant.activity.totals()
            decisions.add_metric([tenant.name, "admitted"], admitted)
            decisions.add_metric([tenant.name, "denied"], denied)
            keys.add_metric([tenant.name], count)
        yield decisions
        yield keys


class _OfTheService(_Collector):
    """What the service counts of all clients."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted so far."""
        service, guard = self._service, self._service.guard
        responses = CounterMetricFamily(
            "headway_serve_responses", "Responses by route and status.", labels=["route", "status"]
        )
        for (route, status), count in sorted(service.responses.items()):
            responses.add_metric([route, str(status)], count)
        yield responses
        yield GaugeMetricFamily(
            "headway_serve_waiting", "Requests that wait for their turn.", service.waiting
        )
        yield GaugeMetricFamily(
            "headway_serve_connections", "Connections that are open.", len(guard.open)
        )
        cut_off = CounterMetricFamily(
            "headway_serve_cut_off", "Connections closed, by the reason.", labels=["reason"]
        )
        for reason, count in (
            ("slow", guard.slow),
            ("too_many", guard.refused),
            ("idle", guard.displaced),
            ("malformed", guard.malformed),
        ):
            cut_off.add_metric([reason], count)
        yield cut_off
        yield CounterMetricFamily(
            "headway_serve_store_failures",
            "Requests that the store could not answer.",
            service.store_failures,
        )
