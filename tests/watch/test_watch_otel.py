"""OpenTelemetry: what the real SDK has read after decisions were taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk.metrics")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import headway.asyncio
import headway.throttled
import headway.throttled.asyncio
from headway.contrib.otel import AsyncOTelHook, OTelHook
from headway.exceptions import StoreUnavailableError
from headway.throttled.asyncio.contrib.otel import OTelHook as AsyncMirrorHook
from headway.throttled.contrib.otel import OTelHook as MirrorHook
from headway.throttled.contrib.otel.hook import OTelHookBase

REQUESTS, DURATION = "throttled.requests", "throttled.duration"


class Telemetry:
    """A meter, and what was recorded with it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meter = MeterProvider(metric_readers=[self._reader]).get_meter("tests")

    def points(self) -> dict[str, list[Any]]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def metric(self, name: str) -> Any:
        data = self._reader.get_metrics_data()
        assert data is not None
        (scope,) = data.resource_metrics[0].scope_metrics
        return next(metric for metric in scope.metrics if metric.name == name)

    def requests(self) -> dict[tuple[str, ...], int]:
        """Result and key -> how much."""
        points = self.points()[REQUESTS]
        return {
            (point.attributes["result"], point.attributes.get("key", "")): point.value
            for point in points
        }


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def decide(hook: Any) -> None:
    throttle = headway.throttled.Throttled(key="/api", quota="2/h", hooks=[hook])
    for _ in range(5):
        throttle.limit()


def decide_async(hook: Any) -> None:
    async def scene() -> None:
        throttle = headway.throttled.asyncio.Throttled(key="/api", quota="2/h", hooks=[hook])
        for _ in range(5):
            await throttle.limit()

    asyncio.run(scene())


ALL = pytest.mark.parametrize(
    ("kind", "run"),
    [
        (MirrorHook, decide),
        (OTelHook, decide),
        (AsyncMirrorHook, decide_async),
        (AsyncOTelHook, decide_async),
    ],
    ids=["mirror", "native", "mirror-async", "native-async"],
)


@ALL
def test_requests_are_counted_by_their_result(
    telemetry: Telemetry, kind: Any, run: Callable[[Any], None]
) -> None:
    run(kind(telemetry.meter))
    assert telemetry.requests() == {("allowed", "/api"): 2, ("denied", "/api"): 3}


@ALL
def test_durations_are_recorded_once_for_each_request(
    telemetry: Telemetry, kind: Any, run: Callable[[Any], None]
) -> None:
    run(kind(telemetry.meter))
    points = telemetry.points()[DURATION]
    assert {point.attributes["result"]: point.count for point in points} == {
        "allowed": 2,
        "denied": 3,
    }
    assert all(0 < point.sum < 60 for point in points)


@ALL
def test_the_attributes_are_those_of_throttled_py(
    telemetry: Telemetry, kind: Any, run: Callable[[Any], None]
) -> None:
    run(kind(telemetry.meter))
    attributes = dict(telemetry.points()[REQUESTS][0].attributes)
    assert attributes.pop("result") in ("allowed", "denied")
    assert attributes == {"key": "/api", "algorithm": "token_bucket", "store_type": "memory"}


def test_names_units_and_descriptions_are_those_of_throttled_py(telemetry: Telemetry) -> None:
    decide(MirrorHook(telemetry.meter))
    requests, duration = telemetry.metric(REQUESTS), telemetry.metric(DURATION)
    assert (requests.unit, requests.description) == ("1", "Number of rate limit checks")
    assert (duration.unit, duration.description) == ("s", "Duration of rate limit checks")
    assert (OTelHookBase.METRIC_REQUESTS, OTelHookBase.METRIC_DURATION) == (REQUESTS, DURATION)
    assert issubclass(MirrorHook, OTelHookBase)
    assert issubclass(AsyncMirrorHook, OTelHookBase)


def test_a_request_counts_by_its_cost(telemetry: Telemetry) -> None:
    throttle = headway.Throttled(quota="10/h", hooks=[MirrorHook(telemetry.meter)])
    throttle.limit("k", cost=7)
    assert telemetry.requests() == {("allowed", "k"): 7}


def test_the_native_hook_leaves_keys_out_where_it_is_told_to(telemetry: Telemetry) -> None:
    throttle = headway.Throttled(quota="1/h", hooks=[OTelHook(telemetry.meter, keys=False)])
    for key in ("a", "b", "b"):
        throttle.limit(key)
    assert telemetry.requests() == {("allowed", ""): 2, ("denied", ""): 1}


def test_a_key_of_bytes_is_an_attribute_of_text(telemetry: Telemetry) -> None:
    headway.Throttled(quota="1/h", hooks=[OTelHook(telemetry.meter)]).limit(b"\xffk")
    assert telemetry.requests() == {("allowed", "\\xffk"): 1}


def test_the_native_hooks_count_a_store_that_does_not_answer(telemetry: Telemetry) -> None:
    url = "redis://127.0.0.1:1"
    throttle = headway.Throttled(quota="1/h", store=url, hooks=[OTelHook(telemetry.meter)])
    with pytest.raises(StoreUnavailableError):
        throttle.limit("k")

    async def scene() -> None:
        hook = AsyncOTelHook(telemetry.meter)
        with pytest.raises(StoreUnavailableError):
            await headway.asyncio.Throttled(quota="1/h", store=url, hooks=[hook]).limit("k")

    asyncio.run(scene())
    assert telemetry.requests() == {("error", "k"): 2}


def test_a_hook_without_a_meter_takes_the_global_one() -> None:
    assert OTelHook()._meter is not None


def test_a_meter_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match="Invalid meter: 'statsd', must be a Meter"):
        MirrorHook("statsd")  # type: ignore[arg-type]


def test_the_mirrors_are_imported_without_opentelemetry(run_python: Callable[..., str]) -> None:
    said = run_python(
        """
        import sys
        sys.modules["opentelemetry"] = None
        import headway.throttled.contrib.otel, headway.throttled.asyncio.contrib.otel
        from headway.contrib.otel import OTelHook
        try:
            OTelHook()
        except ImportError as error:
            print(error)
        """
    )
    assert 'pip install "headway[otel]"' in said


def test_a_program_for_throttled_py_finds_the_hooks(run_python: Callable[..., str]) -> None:
    said = run_python(
        """
        import headway.dropin
        headway.dropin.install("throttled")
        from throttled.contrib.otel import OTelHook
        from throttled.contrib.otel.hook import OTelHookBase
        from throttled.asyncio.contrib.otel import OTelHook as Async
        print(OTelHook.__name__, Async.__mro__[1] is OTelHookBase)
        """
    )
    assert said.strip() == "OTelHook True"


def test_a_key_with_a_lone_surrogate_can_be_sent_as_utf_8(telemetry: Telemetry) -> None:
    headway.Throttled(quota="1/h", hooks=[OTelHook(telemetry.meter)]).limit("a\udcff")
    assert telemetry.requests() == {("allowed", "a\\udcff"): 1}
