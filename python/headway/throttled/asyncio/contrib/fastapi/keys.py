"""The key of a route and a principal, as text that no two share."""

from typing import NamedTuple
from urllib.parse import quote

__all__ = ["KeyParts", "compose_key"]


class KeyParts(NamedTuple):
    """What a key is made of."""

    method: str
    route: str
    """The template, such as "/users/{id}"."""
    principal: str


def compose_key(parts: KeyParts) -> str:
    """The parts, percent-encoded and joined by "|"."""
    return "|".join(quote(part, safe="") for part in parts)
