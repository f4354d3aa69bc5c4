"""Families of samples, and how they become Prometheus' text.

prometheus-client writes it where it is installed. The writer at the end of this file is for where
it is not, and gives the same samples.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

__all__ = ["Family", "collector", "text"]

_UNTYPED = "unknown"  # what prometheus-client calls it


@dataclass
class Family:
    """A metric: its name, type and meaning, and a value for each set of labels."""

    name: str
    kind: str
    meaning: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)
    """What is added to the name, the labels and the value."""

    def add(self, suffix: str, labels: dict[str, str], value: float) -> None:
        try:
            self.samples.append((suffix, labels, float(value)))
        except OverflowError:  # an integer that no float can hold
            self.samples.append((suffix, labels, math.inf))


def text(families: list[Family]) -> str:
    """The families in Prometheus' text format, version 0.0.4."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        return "".join(_lines(families))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector(lambda: families))
    return generate_latest(registry).decode("utf-8")


def collector(families: Callable[[], Iterable[Family]]) -> "Collector":
    """What a registry of prometheus-client collects from. ImportError where it is not installed."""
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    class FamiliesCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            for family in families():
                kind = _UNTYPED if family.kind == "untyped" else family.kind
                metric = Metric(family.name, family.meaning, kind)
                for suffix, labels, value in family.samples:
                    metric.add_sample(family.name + suffix, labels, value)
                yield metric

    return FamiliesCollector()


def _lines(families: list[Family]) -> Iterator[str]:
    for family in families:
        told = f"{family.name}_total" if family.kind == "counter" else family.name
        yield f"# HELP {told} {_escaped(family.meaning)}\n"
        yield f"# TYPE {told} {family.kind}\n"
        for suffix, labels, value in family.samples:
            pairs = ",".join(
                f'{name}="{_escaped(of, quotes=True)}"' for name, of in sorted(labels.items())
            )
            yield f"{family.name}{suffix}{{{pairs}}} {_number(value)}\n"


def _escaped(value: str, quotes: bool = False) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quotes else escaped


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
