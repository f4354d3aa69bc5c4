"""Request targets as a client may write them, and the paths that servers make of them."""

from __future__ import annotations

from urllib.parse import unquote, unquote_to_bytes

from hypothesis import strategies as st

__all__ = ["asgi_path", "targets", "wsgi_path"]

SEGMENTS = (
    "login", "LOGIN", "%6Cogin", "items", "items", "files", "files", "users", "7", "-7",
    "7.5", "a", "x.json",
    "a%2Fb", "a%20b", "caf%C3%A9", "%E9", "login;x=1", "..", ".", "%2E", "%25", "%252F", "%0A",
    "6f1c2f0a-8d7b-4e21-9f00-0123456789ab",
)  # fmt: skip
STARTS = ("/", "/", "/", "//", "///", "/./", "/%2F", "/%0A")
JOINTS = ("/", "/", "/", "//", "%2F", "%2f", "/./")
ENDS = ("", "", "", "/", "//", "%0A", "%0A%0A", "/%0A", "%0D", "%0D%0A", "%00", "%20", "%2F", ";x",
        ".", ".json", ".json%0A", "/x", "/x%0A")  # fmt: skip


@st.composite
def _target(draw: st.DrawFn) -> str:
    start = draw(st.sampled_from(STARTS))
    joint = draw(st.sampled_from(JOINTS))
    segments = draw(st.lists(st.sampled_from(SEGMENTS), max_size=3))
    return start + joint.join(segments) + draw(st.sampled_from(ENDS))


targets = st.lists(_target(), min_size=1, max_size=20)
"""Several targets of requests, percent-encoded, without a query."""


def asgi_path(target: str) -> str:
    """The path of a scope, as uvicorn makes it."""
    return unquote(target)


def wsgi_path(target: str) -> str:
    """PATH_INFO: bytes, as Latin-1."""
    return unquote_to_bytes(target).decode("latin-1")
