"""Limits that are known before the first response."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headway.smartratelimit import Provider, SeedLimit, register_provider
from headway.smartratelimit.providers import PROVIDERS, get_provider, seed_limits


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """The table as it was, after each test."""
    before = dict(PROVIDERS)
    yield
    PROVIDERS.clear()
    PROVIDERS.update(before)


def profile(**kwargs: object) -> Provider:
    fields: dict[str, object] = {"name": "Ours", "reason": "it sends no headers", "scopes": {}}
    return Provider(**{**fields, **kwargs})  # type: ignore[arg-type]


def test_github_without_credentials_has_60_an_hour_and_10_searches_a_minute() -> None:
    assert seed_limits("api.github.com") == {
        "": [SeedLimit(60, "1h")],
        "/search": [SeedLimit(10, "1m")],
    }


def test_github_with_credentials_has_5000_an_hour_and_30_searches_a_minute() -> None:
    assert seed_limits("api.github.com", authenticated=True) == {
        "": [SeedLimit(5000, "1h")],
        "/search": [SeedLimit(30, "1m")],
    }


def test_a_host_is_found_whatever_its_case() -> None:
    assert get_provider("API.GitHub.com") is get_provider("api.github.com") is not None


@pytest.mark.parametrize("host", ["api.example.com", "", "api.github.com.evil.com"])
def test_of_an_unknown_host_nothing_is_known(host: str) -> None:
    assert get_provider(host) is None
    assert seed_limits(host, authenticated=True) == {}


def test_a_seed_is_of_requests_unless_told() -> None:
    assert SeedLimit(5, "1s") == (5, "1s", "requests")


def test_a_profile_of_ones_own_is_found_by_its_host() -> None:
    scopes = {
        "": [SeedLimit(5, "1s"), SeedLimit(90_000, "1m", "tokens")],
        "/v1": (SeedLimit(1, "1s"),),
    }
    register_provider("API.internal:8080", profile(scopes=scopes))

    assert seed_limits("api.internal:8080") == {
        "": [SeedLimit(5, "1s"), SeedLimit(90_000, "1m", "tokens")],
        "/v1": [SeedLimit(1, "1s")],
    }


def test_a_profile_without_scopes_for_credentials_has_one_set_for_all() -> None:
    register_provider("api.internal", profile(scopes={"": [SeedLimit(5, "1s")]}))
    assert seed_limits("api.internal", authenticated=True) == {"": [SeedLimit(5, "1s")]}


def test_a_later_profile_replaces_the_earlier() -> None:
    register_provider("api.github.com", profile(scopes={"": [SeedLimit(1, "1s")]}))
    assert seed_limits("api.github.com") == {"": [SeedLimit(1, "1s")]}


def test_changing_what_is_handed_out_or_handed_in_changes_no_profile() -> None:
    scopes = {"": [SeedLimit(5, "1s")]}
    register_provider("api.internal", profile(scopes=scopes))
    scopes[""].clear()
    seed_limits("api.internal")[""].clear()
    assert seed_limits("api.internal") == {"": [SeedLimit(5, "1s")]}


@pytest.mark.parametrize(
    ("provider", "named"),
    [
        (profile(scopes={"": [SeedLimit(0, "1s")]}), "limit: 0"),
        (profile(scopes={"": [SeedLimit(-5, "1s")]}), "limit: -5"),
        (profile(scopes={"": [SeedLimit(2.5, "1s")]}), "limit: 2.5"),  # type: ignore[arg-type]
        (profile(scopes={"": [SeedLimit(5, "1.5h")]}), "window: '1.5h'"),
        (profile(scopes={"": [SeedLimit(5, "1s", "")]}), "dimension: ''"),
        (profile(scopes={"": [(5, "1s")]}), "a SeedLimit"),
        (profile(scopes={"": SeedLimit(5, "1s")}), "a SeedLimit"),
        (profile(scopes={"": 5}), "scopes: 5"),
        (profile(scopes={"search": []}), "scopes key: 'search'"),
        (profile(scopes=None), "scopes: None"),
        (profile(authenticated_scopes={3: []}), "authenticated_scopes key: 3"),
        (profile(name=""), "provider name"),
        ("GitHub", "provider: 'GitHub'"),
    ],
)
def test_a_wrong_profile_is_refused_when_it_is_registered(provider: Provider, named: str) -> None:
    with pytest.raises(ValueError, match="must be") as raised:
        register_provider("api.internal", provider)

    assert named in str(raised.value)
    assert get_provider("api.internal") is None


@pytest.mark.parametrize("host", ["", "  ", "https://api.internal", "api.internal/v1", "a b", None])
def test_a_host_is_a_host_without_scheme_and_path(host: str) -> None:
    with pytest.raises(ValueError, match="Invalid host"):
        register_provider(host, profile())
