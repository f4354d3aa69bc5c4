"""Does a request that smartratelimit watches leave anything behind? By requests and httpx, with
limits that a server has announced, waits that are refused, retries and the metrics; where a library
is not installed, its cases are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from looping import awaited
from measuring import Case, left_out, main, swallow

from headway.smartratelimit import AsyncRateLimiter, RateLimiter
from headway.smartratelimit.exceptions import RateLimitExceeded

SHARE = 0.002
URL = "http://example.invalid/things"
HEADERS = {
    "X-RateLimit-Limit": "1000000000",
    "X-RateLimit-Remaining": "999999999",
    "X-RateLimit-Reset": "3600",
}
SPENT = HEADERS | {"X-RateLimit-Remaining": "0"}
logging.disable(logging.CRITICAL)


def by_requests() -> Iterator[Case]:
    try:
        import requests
        from requests.adapters import BaseAdapter
    except ImportError:
        left_out("requests", "it is not installed")
        return

    class Answers(BaseAdapter):
        def __init__(self, headers: dict[str, str]) -> None:
            super().__init__()
            self.headers = headers

        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            response.headers.update(self.headers)
            response.raw = None
            response._content = b"ok"
            return response

        def close(self) -> None: ...

    def session(limiter: RateLimiter, headers: dict[str, str]) -> Any:
        made = requests.Session()
        made.trust_env = False
        made.mount("http://", Answers(headers))
        limiter.wrap_session(made)
        return made

    free = session(RateLimiter(), HEADERS)
    spent = session(RateLimiter(raise_on_limit=True), SPENT)
    spent.get(URL)

    def made() -> None:
        limiter = RateLimiter()
        session(limiter, HEADERS).get(URL)
        limiter.close()

    yield Case("requests", lambda: free.get(URL), SHARE)
    yield Case("requests_refused", swallow(RateLimitExceeded, lambda: spent.get(URL)), SHARE)
    yield Case("requests_limiter_made", made, SHARE / 4)


def by_httpx() -> Iterator[Case]:
    try:
        import httpx
    except ImportError:
        left_out("httpx", "it is not installed")
        return
    from headway.smartratelimit.httpx_transport import AsyncRateLimitTransport, RateLimitTransport

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=HEADERS)

    inner = httpx.MockTransport(answer)
    client = httpx.Client(transport=RateLimitTransport(RateLimiter(), inner))
    awaiting = httpx.AsyncClient(transport=AsyncRateLimitTransport(AsyncRateLimiter(), inner))
    yield Case("httpx", lambda: client.get(URL), SHARE)
    yield awaited("httpx_awaited", lambda: awaiting.get(URL), SHARE)


def cases() -> Iterator[Case]:
    yield from by_requests()
    yield from by_httpx()


if __name__ == "__main__":
    main(cases())
