"""Limits that are known before the first response tells them: a seed for each scope of a host.

A profile belongs here only if the number is published, holds for everybody rather than for one
account, and is needed before a header can teach it. Limits that depend on a plan or tier do not
qualify: the server's headers know them better. So the table holds GitHub, and what programs
register for their own services.

A seed has the confidence "registry" and is replaced by the first header seen.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headway.smartratelimit._arguments import invalid, items, name, whole
from headway.smartratelimit._windows import parse_window

__all__ = [
    "PROVIDERS",
    "Provider",
    "SeedLimit",
    "get_provider",
    "register_provider",
    "seed_limits",
]

_LIMIT_MAX = 10**12


class SeedLimit(NamedTuple):
    """So many units of a dimension in a window, such as `SeedLimit(60, "1h")`."""

    limit: int
    window: str
    dimension: str = "requests"


class Provider(NamedTuple):
    """The published limits of one API."""

    name: str
    reason: str
    """Why headers cannot tell it in time."""
    scopes: Mapping[str, Sequence[SeedLimit]]
    """What is added to the host ("" for the host itself, "/search" for the paths under it), and the
    limits there."""
    authenticated_scopes: Mapping[str, Sequence[SeedLimit]] | None = None
    """The same for requests that carry credentials; None: no difference."""


PROVIDERS: dict[str, Provider] = {
    "api.github.com": Provider(
        name="GitHub REST API",
        reason=(
            "Without credentials an hour has 60 requests: too few to spend one on finding out. "
            "The numbers are published and the same for everybody."
        ),
        scopes={"": [SeedLimit(60, "1h")], "/search": [SeedLimit(10, "1m")]},
        authenticated_scopes={"": [SeedLimit(5000, "1h")], "/search": [SeedLimit(30, "1m")]},
    ),
}
"""Profiles by host, in lower case. Change it by `register_provider`, which checks."""


def get_provider(host: str) -> Provider | None:
    """The profile of a host, such as "api.github.com", or None."""
    return PROVIDERS.get(host.lower())


def register_provider(host: str, provider: Provider) -> None:
    """Add or replace the profile of a host, for every limiter of this process.

    InvalidArgument, a ValueError, says what is wrong with it: it is checked here rather than at
    the first request.
    """
    key = _host(host)
    if not isinstance(provider, Provider):
        invalid("provider", provider, "a Provider")
    name("provider name", provider.name)
    scopes = _checked_scopes("scopes", provider.scopes)
    authenticated = provider.authenticated_scopes
    if authenticated is not None:
        authenticated = _checked_scopes("authenticated_scopes", authenticated)
    PROVIDERS[key] = provider._replace(scopes=scopes, authenticated_scopes=authenticated)


def seed_limits(host: str, authenticated: bool = False) -> dict[str, list[SeedLimit]]:
    """The limits of a host by scope, a copy; empty where nothing is known of the host."""
    provider = get_provider(host)
    if provider is None:
        return {}
    scopes = provider.scopes
    if authenticated and provider.authenticated_scopes:
        scopes = provider.authenticated_scopes
    return {scope: list(limits) for scope, limits in scopes.items()}


def _host(host: object) -> str:
    found = name("host", host)
    if "/" in found or any(letter.isspace() for letter in found):
        invalid("host", host, "a host without scheme and path, such as 'api.example.com'")
    return found.lower()


def _checked_scopes(field: str, scopes: object) -> dict[str, list[SeedLimit]]:
    if not isinstance(scopes, Mapping):
        invalid(field, scopes, "a mapping of scopes to lists of SeedLimit")
    return {_scope(field, key): _seeds(field, value) for key, value in scopes.items()}


def _scope(field: str, key: object) -> str:
    if not isinstance(key, str) or (key and not key.startswith("/")):
        invalid(f"{field} key", key, "'' for the host itself or a path such as '/search'")
    return key


def _seeds(field: str, value: object) -> list[SeedLimit]:
    found = []
    for seed in items(field, value, "a list of SeedLimit"):
        if not isinstance(seed, SeedLimit):
            invalid(field, seed, "a SeedLimit, such as SeedLimit(60, '1h')")
        whole("limit", seed.limit, 1, _LIMIT_MAX)
        parse_window(seed.window)
        name("dimension", seed.dimension)
        found.append(seed)
    return found
