"""How a method, a route and who is limited become one key that no other three become."""

from typing import NamedTuple
from urllib.parse import quote

__all__ = ["KeyParts", "compose_key"]


class KeyParts(NamedTuple):
    """What a count belongs to."""

    method: str
    """For example "GET"."""
    route: str
    """The rule of the route, such as "/users/<int:user_id>"."""
    principal: str
    """Who is limited."""


def compose_key(parts: KeyParts) -> str:
    """The parts, percent-encoded, so that none holds the "|" that joins them."""
    return "|".join(quote(part, safe="") for part in parts)
