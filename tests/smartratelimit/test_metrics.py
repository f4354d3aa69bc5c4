"""Counts by endpoint: what is counted, what is exported, and that it stays bounded.

Prometheus' own parser reads what is exported, with prometheus-client writing it and without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from headway.exceptions import SetUpError
from headway.smartratelimit import LimitDimension, MetricsCollector, RateLimitStatus
from headway.smartratelimit.models import utcnow

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> MetricsCollector:
    return MetricsCollector()


@pytest.fixture(params=["with prometheus-client", "without it"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test with and without prometheus-client to write the text."""
    pytest.importorskip("prometheus_client.parser")  # reads what is written, in either case
    if request.param == "without it":
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
    return str(request.param)


def samples_of(text: str) -> Samples:
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def status(limit: int = 60, remaining: int = 45, **dimensions: LimitDimension) -> RateLimitStatus:
    return RateLimitStatus("e", limit, remaining, utcnow(), dimensions=dict(dimensions))


class TestCounts:
    def test_requests_are_counted_by_what_came_of_them(self, metrics: MetricsCollector) -> None:
        for code in (200, 201, 299, 429, 429, 500, 304, 404):
            metrics.record_request("api.example.com", code)

        found = metrics.get_metrics("api.example.com")
        assert found["total_requests"] == 8
        assert found["successful_requests"] == 3
        assert found["rate_limited_requests"] == 2
        assert found["other_errors"] == 3
        assert found["status_codes"] == {
            "200": 1,
            "201": 1,
            "299": 1,
            "304": 1,
            "404": 1,
            "429": 2,
            "500": 1,
        }

    def test_endpoints_are_counted_apart(self, metrics: MetricsCollector) -> None:
        metrics.record_request("a", 200)
        metrics.record_request("b", 429)
        found = metrics.get_metrics()
        assert list(found) == ["a", "b"]
        assert found["a"]["rate_limited_requests"] == 0
        assert found["b"] == metrics.get_metrics("b")

    def test_of_an_endpoint_that_was_not_seen_there_is_nothing(
        self, metrics: MetricsCollector
    ) -> None:
        assert metrics.get_metrics("a") == {}
        assert metrics.get_metrics() == {}

    def test_the_limit_of_each_response_is_remembered(self, metrics: MetricsCollector) -> None:
        metrics.record_request("a", 200, status(60, 45))
        (entry,) = metrics.get_metrics("a")["rate_limit_history"]
        assert (entry["limit"], entry["remaining"], entry["utilization"]) == (60, 45, 0.25)
        assert entry["reset_in"] == 0.0
        moment = datetime.fromisoformat(entry["timestamp"])
        assert moment.utcoffset() == timedelta(0)
        assert abs(moment - datetime.now(timezone.utc)) < timedelta(minutes=5)

    def test_the_last_hundred_are_remembered(self, metrics: MetricsCollector) -> None:
        for n in range(130):
            metrics.record_request("a", 200, status(1000, n))
        history = metrics.get_metrics("a")["rate_limit_history"]
        assert [entry["remaining"] for entry in history] == list(range(30, 130))

    def test_waits_are_counted(self, metrics: MetricsCollector) -> None:
        for seconds in (0, 0.5, 2):
            metrics.record_wait("a", seconds)
        assert metrics.get_metrics("a")["waits"] == {"count": 3, "total_seconds": 2.5}

    def test_what_is_handed_out_is_a_copy(self, metrics: MetricsCollector) -> None:
        metrics.record_request("a", 200, status())
        found = metrics.get_metrics()
        found["a"]["rate_limit_history"][0]["limit"] = 0
        found["a"]["status_codes"].clear()
        found.clear()
        assert metrics.get_metrics("a")["status_codes"] == {"200": 1}
        assert metrics.get_metrics("a")["rate_limit_history"][0]["limit"] == 60

    def test_reset_forgets_one_or_all(self, metrics: MetricsCollector) -> None:
        for endpoint in ("a", "b", "c"):
            metrics.record_request(endpoint, 200)
        metrics.reset("a")
        metrics.reset("unknown")
        assert list(metrics.get_metrics()) == ["b", "c"]
        metrics.reset()
        assert metrics.get_metrics() == {}

    def test_the_number_of_endpoints_is_bounded_and_no_count_is_lost(self) -> None:
        metrics = MetricsCollector(max_endpoints=2)
        for n in range(100):
            metrics.record_request(f"https://api/{n}", 200)
        found = metrics.get_metrics()
        assert list(found) == ["https://api/0", "https://api/1", "other"]
        assert found["other"]["total_requests"] == 98

    def test_threads_lose_no_count(
        self, metrics: MetricsCollector, start: Callable[[Callable[[], Any]], Any]
    ) -> None:
        def work() -> None:
            for n in range(2000):
                metrics.record_request(f"host {n % 3}", 200, status())
                metrics.record_wait("host 0", 0.1)
                if not n % 100:
                    metrics.export_prometheus()

        workers = [start(work) for _ in range(4)]
        for worker in workers:
            worker.result()
        found = metrics.get_metrics()
        assert sum(each["total_requests"] for each in found.values()) == 8000
        assert found["host 0"]["waits"]["count"] == 8000


class TestExport:
    def test_json_is_what_get_metrics_returns(self, metrics: MetricsCollector) -> None:
        assert json.loads(metrics.export_json()) == {}
        metrics.record_request("a", 200, status())
        metrics.record_request("a", 200, RateLimitStatus("a", 0, 0))
        metrics.record_wait("a", 0.25)
        assert json.loads(metrics.export_json()) == metrics.get_metrics()

    def test_prometheus_reads_the_names_of_the_release(
        self, metrics: MetricsCollector, writer: str
    ) -> None:
        metrics.record_request("api.github.com", 200, status(60, 45))
        metrics.record_request("api.github.com", 429)
        metrics.record_request("api.github.com", 500)
        found = samples_of(metrics.export_prometheus())
        values = {
            name: sample(found, f"ratelimit_{name}", endpoint="api.github.com")
            for name in (
                *("total_requests", "successful_requests", "rate_limited_requests"),
                *("other_errors", "remaining", "limit", "utilization"),
            )
        }
        assert values == {
            "total_requests": 3,
            "successful_requests": 1,
            "rate_limited_requests": 1,
            "other_errors": 1,
            "remaining": 45,
            "limit": 60,
            "utilization": 0.25,
        }

    def test_prometheus_reads_counts_by_status(
        self, metrics: MetricsCollector, writer: str
    ) -> None:
        for code in (200, 200, 429):
            metrics.record_request("a", code)
        found = samples_of(metrics.export_prometheus())
        assert sample(found, "headway_responses_total", endpoint="a", status="200") == 2
        assert sample(found, "headway_responses_total", endpoint="a", status="429") == 1

    def test_prometheus_reads_a_histogram_of_waits(
        self, metrics: MetricsCollector, writer: str
    ) -> None:
        for seconds in (0.0, 0.05, 0.3, 7200.0):
            metrics.record_wait("a", seconds)
        found = samples_of(metrics.export_prometheus())
        buckets = {
            le: sample(found, "headway_wait_seconds_bucket", endpoint="a", le=le)
            for le in ("0.001", "0.05", "0.1", "0.5", "3600.0", "+Inf")
        }
        assert buckets == {"0.001": 1, "0.05": 2, "0.1": 2, "0.5": 3, "3600.0": 3, "+Inf": 4}
        assert sample(found, "headway_wait_seconds_count", endpoint="a") == 4
        assert sample(found, "headway_wait_seconds_sum", endpoint="a") == 7200.35

    def test_prometheus_reads_each_dimension(self, metrics: MetricsCollector, writer: str) -> None:
        tokens = LimitDimension("tokens", 1000, 100, utcnow(), timedelta(minutes=1))
        metrics.record_request("a", 200, status(60, 45, tokens=tokens))
        metrics.record_request("b", 200, status(10, 5))
        found = samples_of(metrics.export_prometheus())
        of_tokens = {"endpoint": "a", "dimension": "tokens"}
        assert sample(found, "headway_limit", **of_tokens) == 1000
        assert sample(found, "headway_limit_remaining", **of_tokens) == 100
        assert sample(found, "headway_limit_utilization", **of_tokens) == 0.9
        assert sample(found, "headway_limit", endpoint="b", dimension="requests") == 10

    @pytest.mark.parametrize(
        "endpoint", ['a"b', "a\\b", "a\nb", 'x"} 1\nfake{y="', "müller.example", "{}", "a b"]
    )
    def test_an_endpoint_with_any_letters_is_one_label(
        self, metrics: MetricsCollector, writer: str, endpoint: str
    ) -> None:
        metrics.record_request(endpoint, 200)
        found = samples_of(metrics.export_prometheus())
        assert sample(found, "ratelimit_total_requests", endpoint=endpoint) == 1
        assert {name for name, _ in found if "fake" in name} == set()

    def test_an_endpoint_that_is_no_unicode_spoils_nothing(
        self, metrics: MetricsCollector, writer: str
    ) -> None:
        metrics.record_request("a\ud800", 200)
        assert 'endpoint="a?"' in metrics.export_prometheus()

    def test_a_limit_that_no_float_holds_is_infinite(
        self, metrics: MetricsCollector, writer: str
    ) -> None:
        metrics.record_request("a", 200, status(10**400, 1))
        found = samples_of(metrics.export_prometheus())
        assert sample(found, "ratelimit_limit", endpoint="a") == float("inf")

    def test_the_text_is_the_same_with_and_without_the_library(
        self, metrics: MetricsCollector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("prometheus_client")
        metrics.record_request("a", 200, status(60, 45))
        metrics.record_wait("a", 0.3)
        with_it = metrics.export_prometheus()
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        assert metrics.export_prometheus() == with_it


class TestRegistry:
    def test_a_registry_that_is_given_collects_from_here(self) -> None:
        client = pytest.importorskip("prometheus_client")
        registry = client.CollectorRegistry()
        metrics = MetricsCollector(registry)
        metrics.record_request("a", 200)
        labels = {"endpoint": "a", "status": "200"}
        assert registry.get_sample_value("headway_responses_total", labels) == 1
        metrics.record_request("a", 200)
        assert registry.get_sample_value("headway_responses_total", labels) == 2

    def test_what_is_exported_is_of_these_metrics_alone(self) -> None:
        client = pytest.importorskip("prometheus_client")
        registry = client.CollectorRegistry()
        client.Gauge("mine", "of the program", registry=registry).set(1)
        assert "mine" not in MetricsCollector(registry).export_prometheus()

    def test_a_registry_takes_one_collector(self) -> None:
        client = pytest.importorskip("prometheus_client")
        registry = client.CollectorRegistry(auto_describe=True)
        MetricsCollector(registry)
        with pytest.raises(SetUpError, match="Use one MetricsCollector"):
            MetricsCollector(registry)

    def test_without_the_library_the_error_says_how_to_install_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Registry:
            def register(self, collector: object) -> None: ...

        for name in ("prometheus_client", "prometheus_client.registry"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, "prometheus_client.metrics_core", None)
        with pytest.raises(SetUpError, match=r"pip install 'headway\[prometheus\]'"):
            MetricsCollector(Registry())  # type: ignore[arg-type]


class TestBadInput:
    @pytest.mark.parametrize("code", [0, 99, 1000, -200, "200", None, 200.0, True])
    def test_a_status_is_a_number_of_three_digits(
        self, metrics: MetricsCollector, code: int
    ) -> None:
        with pytest.raises(ValueError, match="Invalid status_code"):
            metrics.record_request("a", code)
        assert metrics.get_metrics() == {}

    @pytest.mark.parametrize("endpoint", ["", " ", None, 5])
    def test_an_endpoint_is_a_text(self, metrics: MetricsCollector, endpoint: str) -> None:
        with pytest.raises(ValueError, match="Invalid endpoint"):
            metrics.record_request(endpoint, 200)
        with pytest.raises(ValueError, match="Invalid endpoint"):
            metrics.record_wait(endpoint, 1)

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None])
    def test_a_wait_is_a_number_of_seconds(self, metrics: MetricsCollector, seconds: float) -> None:
        with pytest.raises(ValueError, match="Invalid seconds"):
            metrics.record_wait("a", seconds)

    def test_a_limit_is_a_status(self, metrics: MetricsCollector) -> None:
        with pytest.raises(ValueError, match="Invalid rate_limit_status"):
            metrics.record_request("a", 200, {"limit": 5})  # type: ignore[arg-type]

    @pytest.mark.parametrize("most", [0, -1, None, 1.5])
    def test_a_bound_is_a_count(self, most: int) -> None:
        with pytest.raises(ValueError, match="Invalid max_endpoints"):
            MetricsCollector(max_endpoints=most)

    def test_a_registry_is_one_of_prometheus_client(self) -> None:
        with pytest.raises(ValueError, match="Invalid registry"):
            MetricsCollector("REGISTRY")  # type: ignore[arg-type]
