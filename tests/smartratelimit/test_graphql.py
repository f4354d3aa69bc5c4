"""A GraphQL API tells in the body of a response what a query has cost; the limiter learns that."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headway.smartratelimit import RateLimiter, RateLimitExceeded

requests = pytest.importorskip("requests")

POINTS = {"maximumAvailable": 1000.0, "currentlyAvailable": 40, "restoreRate": 50.0}
BODY = json.dumps({"data": {}, "extensions": {"cost": {"throttleStatus": POINTS}}}).encode()


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_a_query_has_cost_is_learned_from_its_body(shop: str) -> None:
    limiter = RateLimiter(raise_on_limit=True)
    url = f"{shop}/admin/api/graphql.json"
    response = limiter.request("POST", url, json={"query": "{}"}, cost={"cost": 10})
    assert response.json()["data"] == {}
    status = limiter.get_status(shop)
    assert status is not None
    points = status.dimensions["cost"]
    assert (points.limit, points.remaining) == (1000, 40)
    with pytest.raises(RateLimitExceeded):
        limiter.request("POST", url, json={"query": "{}"}, cost={"cost": 500})


def test_a_body_that_says_nothing_teaches_nothing(shop: str) -> None:
    limiter = RateLimiter()
    assert limiter.learn_from_body(shop, b'{"data": {}}') is False
    assert limiter.learn_from_body(shop, b"no json") is False
    assert limiter.get_status(shop) is None
