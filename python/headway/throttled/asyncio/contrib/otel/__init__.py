"""The mirror of `throttled.asyncio.contrib.otel`."""

from headway.throttled.asyncio.contrib.otel.hook import OTelHook

__all__ = ["OTelHook"]
