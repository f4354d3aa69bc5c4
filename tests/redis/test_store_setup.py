"""What cannot be a store is refused when it is made: each mistake in a sentence of its own that
shows the URL, and never the password.
"""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
from servers import RedisServer
from store_help import repr_of

from headway import MemoryStore, SetUpError, Throttled, _core
from headway.limiters import SyncTokenBucket
from headway.store import RedisStore, from_env, from_url

SECRET = "Xyzzy77"

URLS = {
    "another scheme": ("http://:{}@host/0", "scheme"),
    "a scheme with a typo": ("rediss+cluster://:{}@host/0", "scheme"),
    "no scheme": (":{}@host:6379", "scheme"),
    "one slash": ("redis:/user:{}@host", "scheme"),
    "no colon": ("redis//user:{}@host", "scheme"),
    "port not a number": ("redis://:{}@host:six/0", "ort"),
    "port too large": ("redis://:{}@host:65536/0", "ort"),
    "port negative": ("redis://:{}@host:-1/0", "ort"),
    "port zero": ("redis://:{}@host:0/0", "ort"),
    "database not a number": ("redis://:{}@host/zero", "database is 'zero'"),
    "database negative": ("redis://:{}@host/-1", "database is '-1'"),
    "database too large": ("redis://:{}@host/99999999999", "database is '99999999999'"),
    "two databases": ("redis://:{}@host/0/1", "database is '0/1'"),
    "database in the query": ("redis://:{}@host?db=x", "database is 'x'"),
    "unknown option": ("redis://:{}@host?tmieout=1", "'tmieout' in the URL is unknown"),
    "TLS option without TLS": ("redis://:{}@host?ssl_certfile=x", "'ssl_certfile' in the URL"),
    "timeout not a number": ("redis://:{}@host?timeout=soon", "'timeout' in the URL is 'soon'"),
    "timeout zero": ("redis://:{}@host?timeout=0", "'timeout' in the URL is '0'"),
    "timeout negative": ("redis://:{}@host?timeout=-1", "'timeout' in the URL is '-1'"),
    "timeout nan": ("redis://:{}@host?timeout=nan", "'timeout' in the URL is 'nan'"),
    "timeout infinite": ("redis://:{}@host?connect_timeout=inf", "'connect_timeout' in the URL"),
    "unknown policy": ("redis://:{}@host?on_error=ignore", "'ignore'"),
    "no socket": ("unix://:{}@", "path of the socket"),
    "no service": ("redis+sentinel://:{}@host:26379", "service"),
    "no service but a slash": ("redis+sentinel://:{}@host:26379/", "service"),
    "sentinel's database": ("redis+sentinel://:{}@host/name/x", "database is 'x'"),
    "sentinel's port": ("redis+sentinel://:{}@a:1,b:x/name", "a host and a port"),
    "an empty node": ("redis+cluster://:{}@a:1,,b:2", "a host and a port"),
    "cluster's database": ("redis+cluster://:{}@a:1/3", "only database 0"),
    "cluster's database in the query": ("redis+cluster://:{}@a:1?db=3", "only database 0"),
    "half an address": ("redis://:{}@[::1", "must be"),
    "certificates that are not there": ("rediss://:{}@host?ssl_ca_certs=/none", "certificates"),
    "a mode of TLS": ("rediss://:{}@host?ssl_cert_reqs=perhaps", "ssl_cert_reqs is 'perhaps'"),
}


@pytest.mark.parametrize(("url", "says"), URLS.values(), ids=URLS)
def test_a_bad_url_is_a_set_up_error_that_says_what_and_where(url: str, says: str) -> None:
    with pytest.raises(SetUpError) as caught:
        RedisStore(url.format(SECRET))
    assert says in str(caught.value)
    assert SECRET not in repr_of(caught.value)
    shown = str(caught.value)
    assert "host" in shown or "a:1" in shown or "[::1" in shown or "unix" in shown


@pytest.mark.parametrize("wrong", ["/", "?", "#"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel", "unix"])
def test_a_password_with_a_sign_that_should_be_quoted_is_not_shown(scheme: str, wrong: str) -> None:
    url = f"{scheme}://user:{SECRET}{wrong}{SECRET[::-1]}@host:1/name"
    with pytest.raises(SetUpError) as caught:
        RedisStore(url)
    assert SECRET not in repr_of(caught.value)
    assert SECRET[::-1] not in repr_of(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@host",
        "redis://user:{}@host:1/2?timeout=1",
        "redis://host?password={}",
        "redis://host?timeout=1&password={}&db=1",
        "redis+sentinel://host/name?sentinel_password={}",
        "redis+cluster://:{}@a:1,b:2",
        "unix://:{}@/run/redis.sock",
        "redis://:@{}@host",
    ],
)
def test_no_password_is_in_what_a_store_shows(url: str) -> None:
    store = RedisStore(url.format(SECRET))
    assert SECRET not in repr(store) + str(store) + store.server + repr(store._place)


def test_a_password_with_any_sign_is_what_was_quoted() -> None:
    assert RedisStore("redis://:%2F%3A%40%25%23%3F@h")._place.password == "/:@%#?"


def test_a_password_with_nul_is_refused_rather_than_cut() -> None:
    with pytest.raises((SetUpError, ValueError)):
        RedisStore("redis://:a%00b@host")


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"PASSWROD": SECRET}, "PASSWROD"),
    "timeout": ({"SOCKET_TIMEOUT": "soon"}, "SOCKET_TIMEOUT is 'soon'"),
    "timeout zero": ({"SOCKET_CONNECT_TIMEOUT": 0}, "SOCKET_CONNECT_TIMEOUT is 0"),
    "pool": ({"CONNECTION_POOL_KWARGS": {"max_conections": 5}}, "max_conections"),
    "pool's database": ({"CONNECTION_POOL_KWARGS": {"db": "x"}}, "database is 'x'"),
    "pool not a mapping": ({"CONNECTION_POOL_KWARGS": [1]}, "CONNECTION_POOL_KWARGS"),
    "sentinels not a list": ({"SENTINELS": 5}, "SENTINELS"),
    "a sentinel": ({"SENTINELS": [("h", "x")]}, "SENTINELS holds ('h', 'x')"),
    "a sentinel's option": ({"SENTINEL_KWARGS": {"timeout": 1}}, "SENTINEL_KWARGS['timeout']"),
    "a node": ({"CLUSTER_NODES": [5]}, "CLUSTER_NODES holds 5"),
    "a node's port": ({"CLUSTER_NODES": [("h", 70_000)]}, "70000"),
}


@pytest.mark.parametrize(("options", "says"), OPTIONS.values(), ids=OPTIONS)
def test_a_bad_option_is_a_set_up_error_that_names_it(options: Any, says: str) -> None:
    with pytest.raises(SetUpError) as caught:
        RedisStore(f"redis://:{SECRET}@host", options)
    assert says in str(caught.value)
    assert SECRET not in repr_of(caught.value)


def test_a_bad_context_of_tls_is_named() -> None:
    with pytest.raises(SetUpError, match="ssl_context is 5"):
        RedisStore("rediss://host", {"CONNECTION_POOL_KWARGS": {"ssl_context": 5}})


@pytest.mark.parametrize("server", [5, b"redis://host", ["redis://host"]])
def test_what_is_no_text_is_no_url(server: Any) -> None:
    with pytest.raises(SetUpError, match="Invalid server"):
        RedisStore(server)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(SetUpError, match="Invalid on_error: 'retry'"):
        RedisStore("redis://host", on_error="retry")


@pytest.mark.parametrize("url", ["http://host", "reddis://:{}@host", "localhost:6379", ""])
def test_whoever_takes_a_store_refuses_a_bad_url(url: str) -> None:
    for refuse in (
        lambda: from_url(url.format(SECRET)),
        lambda: Throttled(quota="1/s", store=url.format(SECRET)),
        lambda: SyncTokenBucket("name", 1, 1, 1, connection=url.format(SECRET)),
    ):
        with pytest.raises(SetUpError) as caught:
            refuse()
        assert SECRET not in repr_of(caught.value)


def test_a_bad_redis_url_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@host:six")
    with pytest.raises(SetUpError) as caught:
        SyncTokenBucket("name", 1, 1, 1)
    assert "REDIS_URL" in str(caught.value)
    assert SECRET not in repr_of(caught.value)


def test_from_env_reads_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://localhost:7000/1")
    store = from_env()
    assert isinstance(store, RedisStore)
    assert store.server == "redis://localhost:7000/1"
    monkeypatch.delenv("REDIS_URL")
    assert isinstance(from_env(), MemoryStore)


def test_a_store_of_redis_is_a_name_of_headway() -> None:
    import headway

    assert headway.RedisStore is RedisStore


def test_a_server_that_sends_us_about_is_not_followed_for_ever() -> None:
    store = RedisStore("redis+cluster://127.0.0.1:1")
    for number in range(5_000):
        store._set_slots(number, number, "127.0.0.1", 10_000 + number)
    assert len(store._links()) < 2_000


def test_a_name_that_the_server_refuses_is_logged_once(
    acl_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    acl_server.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-client")
    url = f"redis://plain:pw@127.0.0.1:{acl_server.port}/0?client_name=clerk"
    caplog.set_level(logging.DEBUG, "headway")
    limiter = Throttled("key", quota="5/m", store=RedisStore(url))
    for _ in range(2):
        assert limiter.limit()
        limiter.store.close()
    (said,) = [r for r in caplog.records if r.name == "headway.store.greeting"]
    assert said.levelno == logging.WARNING
    assert "CLIENT SETNAME" in said.getMessage()


def test_a_store_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(RedisStore("redis://host"))


def test_a_quota_that_redis_cannot_hold_is_refused_at_once() -> None:
    from headway import DataError

    store = RedisStore("redis://host.invalid")
    with pytest.raises((DataError, SetUpError), match="142 years"):
        Throttled("key", using="gcra", quota="1/3650d burst 1000", store=store)


@pytest.mark.parametrize("seconds", [1e10, 1e300, float("inf")])
def test_a_timeout_of_centuries_is_long(server: RedisServer, seconds: float) -> None:
    link = _core.Link("127.0.0.1", server.port, connect_timeout=seconds, timeout=seconds)
    assert link.execute("PING") == b"PONG"
    link.close()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
def test_a_timeout_that_is_none_is_refused(name: str, seconds: float) -> None:
    options: dict[str, Any] = {name: seconds}
    with pytest.raises(SetUpError, match=f"Invalid {name}: {seconds}, must be a number of seconds"):
        _core.Link("127.0.0.1", 6379, **options)
