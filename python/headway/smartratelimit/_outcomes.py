"""What came of a request, read from whatever the HTTP library gave back or raised.

requests, httpx and aiohttp are known by the names of their classes, in `sys.modules`: what was not
imported cannot have raised anything. So nothing of them is imported here.
"""

import asyncio
import http.client
import inspect
import logging
import ssl
import sys
from collections.abc import Callable, Mapping
from typing import Any

from headway._core import parse_headers

__all__ = [
    "HTTP_METHODS",
    "answer_of",
    "discard",
    "discard_async",
    "is_lost_connection",
    "method_of_call",
    "method_of_error",
    "retry_after_of",
    "status_of",
]

logger = logging.getLogger("headway.smartratelimit")

HTTP_METHODS = frozenset(
    {"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH", "CONNECT"}
)

_LOST: tuple[type[BaseException], ...] = (
    ConnectionError,
    TimeoutError,
    asyncio.TimeoutError,  # another class before Python 3.11
    http.client.HTTPException,
)
_LOST_IN = {
    "requests": ("ConnectionError", "Timeout", "exceptions.ChunkedEncodingError"),
    "httpx": ("TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"),
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
}
_UNAVAILABLE = 503
"""A status with which every server's wish to be left alone is heard."""


def status_of(answer: object) -> int | None:
    """The HTTP status of a response: requests and httpx call it status_code, aiohttp status."""
    for name in ("status_code", "status"):
        status = _attribute(answer, name)
        if isinstance(status, int) and not isinstance(status, bool):
            return int(status)
    return None


def answer_of(error: BaseException) -> object | None:
    """The response that an error stands for, as `raise_for_status` makes them; None: there is none.

    aiohttp's error is its own response: it has the status and the headers.
    """
    response = _attribute(error, "response")
    for answer in (response, error):
        if answer is not None and status_of(answer) is not None:
            return answer
    return None


def retry_after_of(answer: object) -> float | None:
    """The seconds for which a response asks to wait, from now on. None: none that can be read.

    Retry-After and what means the same elsewhere (`retry-after-ms`), as the parser of headers reads
    it. A date counts from the response's own Date, so that the two clocks need not agree.
    """
    headers = _attribute(answer, "headers")
    try:
        pairs = [
            (name, _text(value))
            for name, value in headers.items()  # type: ignore[attr-defined]
            if _speaks_of_waiting(_text(name))
        ]
        return parse_headers(pairs, _UNAVAILABLE).retry_after
    except Exception:  # whatever they are, they tell nothing
        return None


def _speaks_of_waiting(name: str) -> bool:
    name = name.lower()
    return name == "date" or "retry-after" in name


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    # A number is not what HTTP has, and is what a stub may have.
    return "" if isinstance(value, bool) else str(value)


def is_lost_connection(error: BaseException) -> bool:
    """Whether the request or its answer was lost on the way, so that another try may do better.

    A certificate that does not hold will not hold the next time.
    """
    classes = list(_LOST)
    for library, names in _LOST_IN.items():
        module = sys.modules.get(library)
        if module is not None:
            found = (_dotted(module, name) for name in names)
            classes += [kind for kind in found if isinstance(kind, type)]
    if not isinstance(error, tuple(classes)):
        return False
    return not any(isinstance(e, ssl.SSLCertVerificationError) for e in _chain(error))


def method_of_error(error: BaseException) -> str | None:
    """The method of the request that an error carries: requests' and httpx' errors carry it."""
    for name in ("request", "request_info"):
        method = _attribute(_attribute(error, name), "method")
        if isinstance(method, str):
            return method.upper()
    return None


def method_of_call(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """The method that a call will use, where it says so: `request("GET", url)`, `session.get(url)`.

    aiohttp's errors carry no request, so the call is asked.
    """
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    method = bound.arguments.get("method")
    if isinstance(method, str) and method.upper() in HTTP_METHODS:
        return method.upper()
    name = str(getattr(function, "__name__", "")).upper()
    owner = type(getattr(function, "__self__", function))
    modules = {owner.__module__.partition(".")[0]} | {
        str(getattr(function, "__module__", "")).partition(".")[0]
    }
    return name if name in HTTP_METHODS and modules & _LOST_IN.keys() else None


def discard(answer: object) -> None:
    """Let go of a response that nobody will read, with its connection."""
    close = _attribute(answer, "close")
    if callable(close):
        try:
            close()
        except Exception as error:
            logger.debug("closing a response before a retry failed: %s", type(error).__name__)


async def discard_async(answer: object) -> None:
    """The same where closing may have to be awaited (httpx) or is a release (aiohttp)."""
    for name in ("aclose", "release", "close"):
        close = _attribute(answer, name)
        if callable(close):
            try:
                done = close()
                if inspect.isawaitable(done):
                    await done
            except Exception as error:  # httpx: a plain response has an aclose that refuses
                logger.debug("closing a response before a retry failed: %s", type(error).__name__)
            else:
                return


def _attribute(thing: object, name: str) -> object:
    try:
        return getattr(thing, name, None)
    except Exception:  # httpx: an error without its request says so by RuntimeError
        return None


def _dotted(thing: object, names: str) -> object:
    for name in names.split("."):
        thing = _attribute(thing, name)
    return thing


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
