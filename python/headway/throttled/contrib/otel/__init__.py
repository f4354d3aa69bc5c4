"""The mirror of `throttled.contrib.otel`."""

from headway.throttled.contrib.otel.hook import OTelHook

__all__ = ["OTelHook"]
