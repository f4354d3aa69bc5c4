"""Sessions of requests against real servers: what a wrapped session keeps, and each dialect."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from certificates import Certificates
from dialects import DIALECTS
from http_servers import EnforcingServer

from headway.smartratelimit import RateLimiter, RateLimitExceeded
from headway.smartratelimit.adapter import RateLimitAdapter

requests = pytest.importorskip("requests")

TELLING = sorted(DIALECTS.keys() - {"slack"})


@pytest.mark.slow
@pytest.mark.parametrize("dialect", TELLING)
def test_a_hundred_concurrent_calls_never_get_a_429_that_headers_could_prevent(
    dialect: str,
) -> None:
    more = {"window": 60.0} if dialect == "atlassian" else {"window": 1.0}
    with EnforcingServer(dialect=dialect, limit=110, tokens=10**6, **more) as server:
        limiter = RateLimiter(retry=None)
        limiter.request("GET", server.url + "/first")

        def call(_: int) -> int:
            return limiter.request("GET", server.url + "/data").status_code

        with ThreadPoolExecutor(100) as pool:
            statuses = list(pool.map(call, range(100)))
        assert statuses == [200] * 100
        assert server.stats["429"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["github", "openai", "structured", "twitter", "discord"])
def test_windows_are_used_up_and_not_overrun(dialect: str) -> None:
    with EnforcingServer(dialect=dialect, limit=40, window=1.0) as server:
        limiter = RateLimiter()
        limiter.request("GET", server.url + "/first")

        def call(_: int) -> int:
            return limiter.request("GET", server.url + "/data").status_code

        with ThreadPoolExecutor(20) as pool:
            assert set(pool.map(call, range(140))) == {200}
        stats = server.stats
        assert stats["429"] == 0
        assert stats["last"] - stats["first"] < 10


def test_a_limit_told_by_429_alone_is_obeyed() -> None:
    with EnforcingServer(dialect="slack", limit=5, window=1.0) as server:
        limiter = RateLimiter()
        for _ in range(12):
            assert limiter.request("GET", server.url + "/data").status_code == 200
        assert server.stats["429"] <= 3


def test_tokens_hold_a_request_back_as_requests_do() -> None:
    with EnforcingServer(dialect="openai", limit=1000, window=1.0, tokens=100) as server:
        limiter = RateLimiter()
        limiter.request("GET", server.url + "/first", headers={"X-Cost": "1"}, cost={"tokens": 1})
        for _ in range(6):
            response = limiter.request(
                "GET", server.url + "/data", headers={"X-Cost": "40"}, cost={"tokens": 40}
            )
            assert response.status_code == 200
        assert server.stats["429"] == 0


def test_each_hop_of_a_redirect_is_counted_for_its_own_host() -> None:
    with EnforcingServer(limit=50, window=60.0) as end, _redirecting(end.url + "/end") as start:
        limiter = RateLimiter()
        limiter.set_limit(start, 10, "1h")
        response = limiter.request("GET", start + "/start", cost=3)
        assert response.url == end.url + "/end"
        first, last = limiter.get_status(start), limiter.get_status(end.url)
        assert first is not None
        assert last is not None
        assert first.remaining == 7
        assert (last.limit, last.remaining) == (50, 49)


class _redirecting:
    """A server that sends everybody to one URL."""

    def __init__(self, target: str) -> None:
        class Redirect(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[EnforcingServer]:
    with EnforcingServer(dialect="github", limit=10**6, window=3600.0) as found:
        yield found


class Marking(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Auth"] = "mine"
        return request


def test_a_wrapped_session_keeps_what_it_had(server: EnforcingServer) -> None:
    seen: list[int] = []
    session = requests.Session()
    session.headers["X-Own"] = "header"
    session.auth = Marking()
    session.cookies.set("flavour", "oat")
    session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
    session.proxies["https"] = "http://proxy.invalid:1"
    session.params = {"page": "2"}
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=3)
    session.mount("http://", adapter)
    before = dict(session.adapters)
    limiter = RateLimiter()
    limiter.wrap_session(session)
    told = session.get(server.url + "/kept").json()["headers"]
    assert told["x-own"] == "header"
    assert told["x-auth"] == "mine"
    assert "flavour=oat" in told["cookie"]
    assert seen == [200]
    assert session.adapters == before
    assert session.proxies == {"https": "http://proxy.invalid:1"}
    assert limiter.get_status(server.url) is not None


def test_wrapping_twice_counts_once(server: EnforcingServer) -> None:
    session, limiter = requests.Session(), RateLimiter()
    limiter.wrap_session(session)
    limiter.wrap_session(session)
    limiter.set_limit(server.url, 10, "1h")
    session.get(server.url + "/once")
    status = limiter.get_status(server.url)
    assert status is not None
    assert status.remaining == 9


def test_an_adapter_that_is_mounted_later_is_limited_too(server: EnforcingServer) -> None:
    session, limiter = requests.Session(), RateLimiter(raise_on_limit=True)
    limiter.wrap_session(session)
    limiter.set_limit(server.url, 1, "1h")
    session.mount(server.url, requests.adapters.HTTPAdapter())
    session.get(server.url + "/a")
    with pytest.raises(RateLimitExceeded):
        session.get(server.url + "/b")


def test_a_wrapped_session_can_be_pickled(server: EnforcingServer) -> None:
    session = requests.Session()
    session.headers["X-Own"] = "header"
    RateLimiter().wrap_session(session)
    assert pickle.loads(pickle.dumps(session)).headers["X-Own"] == "header"


def test_an_adapter_can_be_mounted_by_hand(server: EnforcingServer) -> None:
    session, limiter = requests.Session(), RateLimiter(raise_on_limit=True)
    limiter.set_limit(server.url, 1, "1h")
    session.mount("http://", RateLimitAdapter(limiter))
    assert session.get(server.url + "/a").status_code == 200
    with pytest.raises(RateLimitExceeded):
        session.get(server.url + "/b")
    session.close()


def test_a_streamed_response_is_the_callers_to_read(server: EnforcingServer) -> None:
    session = requests.Session()
    RateLimiter().wrap_session(session)
    with session.get(server.url + "/stream", stream=True) as response:
        assert not response._content_consumed  # type: ignore[attr-defined]
        assert b"/stream" in b"".join(response.iter_content(7))


def test_a_streamed_body_arrives(server: EnforcingServer) -> None:
    limiter = RateLimiter()
    response = limiter.request("POST", server.url + "/up", data=(part for part in [b"a", b"b"]))
    assert response.json()["method"] == "POST"


def test_a_server_behind_tls_is_limited(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    pair = (made.server.key, made.server.certificate)
    with EnforcingServer(certificates=pair, ca=made.ca, limit=3, window=2.0) as server:
        with RateLimiter() as limiter:  # closed: a server waits for connections when it ends
            for _ in range(5):
                response = limiter.request("GET", server.url + "/tls", verify=str(made.ca))
                assert response.status_code == 200
            assert server.stats["429"] == 0
            assert limiter.list_endpoints() == [server.url]


def test_a_server_that_is_not_there_is_the_callers_error_at_once() -> None:
    with pytest.raises(requests.ConnectionError):
        RateLimiter().request("GET", "http://127.0.0.1:1/")


def test_an_auth_that_sends_again_is_counted_again() -> None:
    class Digest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "Authorization" in self.headers else 401)
            self.send_header("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Digest) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        limiter = RateLimiter()
        limiter.set_limit(url, 10, "1h")
        auth: Any = requests.auth.HTTPDigestAuth("me", "secret")
        assert limiter.request("GET", url, auth=auth).status_code == 200
        status = limiter.get_status(url)
        server.shutdown()
        thread.join()
    assert status is not None
    assert status.remaining == 8
