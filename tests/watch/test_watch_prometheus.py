"""Prometheus: what prometheus_client exposes after decisions were taken."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import headway.asyncio
from headway import RateLimitResult, RateLimitState, Throttled
from headway.activity import Activity, ActivityHook
from headway.contrib.prometheus import AsyncPrometheusHook, HeadwayCollector, PrometheusHook
from headway.exceptions import StoreUnavailableError

Sample = tuple[str, frozenset[tuple[str, str]]]


def named(name: str, **labels: str) -> Sample:
    """A sample by its name and labels; of limiters in memory, unless it says otherwise."""
    if "key" not in labels:
        labels = {"algorithm": "token_bucket", "store": "memory"} | labels
    return f"headway_{name}", frozenset(labels.items())


def samples(registry: CollectorRegistry) -> dict[Sample, float]:
    """The values, as a server reads them from the text."""
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def observed(activity: Activity, **options: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(HeadwayCollector(activity, **options))
    return registry


def test_the_collector_and_the_hook_expose_the_same_names_and_counts() -> None:
    activity, own = Activity(), CollectorRegistry()
    hooks = [ActivityHook(activity), PrometheusHook(own)]
    throttle = Throttled(quota="5/h", hooks=hooks)
    for cost in (1, 2, 1, 4, 0):
        throttle.limit("k", cost=cost)
    ours, theirs = samples(observed(activity)), samples(own)
    assert ours.keys() >= theirs.keys()
    for found in (ours, theirs):
        assert found[named("requests_total", result="allowed")] == 3
        assert found[named("requests_total", result="denied")] == 1
        assert found[named("cost_total")] == 4
        assert found[named("wait_seconds_count")] == 4
        assert found[named("waiting")] == 0


def test_waits_are_in_ranges_that_add_up() -> None:
    activity = Activity()
    result = RateLimitResult(False, RateLimitState(1, 0, 1))
    for waited in (0.0, 0.0005, 0.3, 0.5, 100.0):
        activity.record("k", "gcra", "", result, waited=waited, store="memory")
    found = samples(observed(activity))

    def below(bound: str) -> float:
        return found[named("wait_seconds_bucket", algorithm="gcra", le=bound)]

    assert (below("0.001"), below("0.5"), below("60.0"), below("+Inf")) == (2, 4, 4, 5)
    assert found[named("wait_seconds_sum", algorithm="gcra")] == pytest.approx(100.8005)


def test_keys_are_no_labels_unless_they_are_asked_for() -> None:
    activity = Activity()
    throttle = Throttled(quota="1/h", hooks=[ActivityHook(activity)])
    for key in ("seldom", "often", "often", "often"):
        throttle.limit(key)
    assert not any("often" in str(sample) for sample in samples(observed(activity)))
    shown = samples(observed(activity, keys=1))
    who = {"key": "often", "algorithm": "token_bucket", "quota": "1/h"}
    assert shown[named("key_requests_total", **who, result="denied")] == 2
    assert shown[named("key_remaining", **who)] == 0
    assert not any("seldom" in str(sample) for sample in shown)


def test_two_collectors_in_one_registry_are_refused() -> None:
    registry = observed(Activity())
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(HeadwayCollector(Activity()))


def test_hooks_of_one_registry_share_their_metrics() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        Throttled(quota="1/h", hooks=[PrometheusHook(registry)]).limit(os.urandom(8).hex())
    found = samples(registry)
    assert found[named("requests_total", result="allowed")] == 2


def test_hooks_may_be_made_by_threads_at_the_same_time() -> None:
    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    refused: list[Exception] = []

    def make(registry: CollectorRegistry, together: threading.Barrier) -> None:
        together.wait()
        try:
            PrometheusHook(registry)
        except ValueError as error:
            refused.append(error)

    try:
        for _ in range(50):
            how = (CollectorRegistry(), threading.Barrier(4))
            threads = [threading.Thread(target=make, args=how) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(switched)
    assert not refused


def test_awaited_decisions_are_counted() -> None:
    registry = CollectorRegistry()

    async def scene() -> None:
        hooks = [AsyncPrometheusHook(registry)]
        throttle = headway.asyncio.Throttled(quota="1/h", hooks=hooks)
        for _ in range(3):
            await throttle.limit("awaited")

    asyncio.run(scene())
    found = samples(registry)
    assert found[named("requests_total", result="denied")] == 2


def test_a_store_that_does_not_answer_is_counted_as_an_error() -> None:
    registry = CollectorRegistry()
    hooks = [PrometheusHook(registry)]
    throttle = Throttled(quota="1/h", store="redis://127.0.0.1:1", hooks=hooks)
    with pytest.raises(StoreUnavailableError):
        throttle.limit("k")
    found = samples(registry)
    assert found[named("requests_total", store="redis", result="error")] == 1
    assert found[named("waiting", store="redis")] == 0


@pytest.mark.parametrize("keys", [-1, True, "5", 1.5])
def test_keys_must_be_how_many(keys: Any) -> None:
    with pytest.raises(ValueError, match="Invalid keys"):
        HeadwayCollector(Activity(), keys=keys)


def test_workers_are_summed_where_the_multi_process_mode_is_on(tmp_path: Path) -> None:
    worker = (
        "from headway import Throttled\n"
        "from headway.contrib.prometheus import PrometheusHook\n"
        "throttle = Throttled(quota='2/h', hooks=[PrometheusHook()])\n"
        "for _ in range(3): throttle.limit('k')\n"
    )
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", worker], env=environment, check=True, timeout=60)
    reader = (
        "from prometheus_client import CollectorRegistry, generate_latest, multiprocess\n"
        "registry = CollectorRegistry()\n"
        "multiprocess.MultiProcessCollector(registry)\n"
        "print(generate_latest(registry).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", reader], env=environment, capture_output=True, text=True, timeout=60
    )
    found = parsed(done.stdout)
    assert found[named("requests_total", result="allowed")] == 4, done.stderr
    assert found[named("requests_total", result="denied")] == 2


def test_without_prometheus_client_the_message_says_what_to_install(
    run_python: Callable[..., str],
) -> None:
    said = run_python(
        """
        import sys
        sys.modules["prometheus_client"] = None
        try:
            import headway.contrib.prometheus
        except ImportError as error:
            print(error)
        """
    )
    assert 'pip install "headway[prometheus]"' in said


@pytest.mark.parametrize(
    ("key", "shown"), [("a\udcff", "a\\udcff"), (b"a\xff", "a\\xff"), ("\ud83d", "\\ud83d")]
)
def test_a_key_that_is_no_utf_8_does_not_end_the_metrics(key: Any, shown: str) -> None:
    """aiohttp makes such text of a header with other bytes."""
    activity = Activity()
    throttle = Throttled(quota="1/h", hooks=[ActivityHook(activity)])
    assert [bool(throttle.limit(key)) for _ in range(2)] == [True, False]
    found = parsed(generate_latest(observed(activity, keys=10)).decode())
    who = {"key": shown, "algorithm": "token_bucket", "quota": "1/h"}
    assert found[named("key_requests_total", **who, result="denied")] == 1
