"""The names of smartratelimit 0.5.1, and that they cost nothing until they are used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

import headway
import headway.smartratelimit as package

NAMES = [
    "RateLimiter",
    "AsyncRateLimiter",
    "RateLimitStatus",
    "LimitDimension",
    "Provider",
    "SeedLimit",
    "register_provider",
    "RateLimitExceeded",
    "StorageUnavailable",
    "RetryConfig",
    "RetryHandler",
    "RetryStrategy",
    "MetricsCollector",
]
CLIENTS = {"RateLimiter": "core", "AsyncRateLimiter": "async_client"}


def test_the_public_names_are_those_of_the_release() -> None:
    assert package.__all__ == NAMES
    assert set(NAMES) <= set(dir(package))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there(name: str) -> None:
    module = CLIENTS.get(name)
    if module and importlib.util.find_spec(f"headway.smartratelimit.{module}") is None:
        pytest.skip(f"{module} is not there yet")
    assert getattr(package, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_the_version_is_that_of_headway() -> None:
    assert package.__version__ == headway.__version__


def test_importing_loads_no_http_library_and_no_prometheus(run_python: Callable[..., str]) -> None:
    printed = run_python("""
        import sys
        import headway.smartratelimit
        assert "headway.smartratelimit.retry" not in sys.modules
        from headway.smartratelimit import MetricsCollector, RetryHandler, RateLimitStatus, Provider
        import headway.smartratelimit.simulate
        MetricsCollector(); RetryHandler()
        heavy = {"requests", "httpx", "aiohttp", "prometheus_client", "trio", "urllib3"}
        print(sorted(heavy & sys.modules.keys()))
    """)
    assert printed == "[]\n"
