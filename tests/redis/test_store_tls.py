"""TLS: who shows what to whom, and a sentence of its own for each way in which that fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from certificates import PASSPHRASE, Certificates, Pair
from servers import RedisServer
from store_help import ask, repr_of, unavailable
from topologies import Cluster

from headway import SetUpError, StoreUnavailableError, Throttled
from headway.asyncio import Throttled as AsyncThrottled
from headway.store import RedisStore

__all__ = ["ask"]


def query(certificates: Certificates, pair: Pair | None = None, **more: object) -> str:
    pair = pair or certificates.client
    options: dict[str, object] = {
        "ssl_ca_certs": certificates.ca,
        "ssl_certfile": pair.certificate,
        "ssl_keyfile": pair.key,
    }
    options.update(more)
    return "?" + "&".join(f"{k}={quote(str(v))}" for k, v in options.items() if v is not None)


@pytest.fixture
def elsewhere_server(
    certificates: Certificates, start_server: Callable[..., RedisServer]
) -> RedisServer:
    """A server whose certificate is for another name, and that asks for none."""
    return start_server(
        tls=certificates,
        options={
            "tls-cert-file": str(certificates.elsewhere.certificate),
            "tls-key-file": str(certificates.elsewhere.key),
            "tls-auth-clients": "no",
        },
    )


def test_client_and_server_know_each_other(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    store = RedisStore(tls_server.url + query(certificates))
    assert [bool(ask(store, quota="2/h")) for _ in range(3)] == [True, True, False]


def test_the_options_may_come_as_pool_kwargs(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    kwargs = {
        "ssl_ca_certs": str(certificates.ca),
        "ssl_certfile": str(certificates.client.certificate),
        "ssl_keyfile": str(certificates.client.key),
        "ssl_cert_reqs": "required",
    }
    assert ask(RedisStore(tls_server.url, {"CONNECTION_POOL_KWARGS": kwargs}))


def test_a_ready_context_will_do(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    context = certificates.client_context()
    assert ask(RedisStore(tls_server.url, {"CONNECTION_POOL_KWARGS": {"ssl_context": context}}))


def test_an_encrypted_key_is_opened(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    more = {"ssl_keyfile": certificates.encrypted_key, "ssl_password": PASSPHRASE}
    assert ask(RedisStore(tls_server.url + query(certificates, None, **more)))


def test_a_wrong_passphrase_is_a_set_up_error_that_does_not_show_it(
    certificates: Certificates,
) -> None:
    more = {"ssl_keyfile": certificates.encrypted_key, "ssl_password": "Xyzzy77"}
    with pytest.raises(SetUpError, match="certificates cannot be loaded") as caught:
        RedisStore("rediss://host" + query(certificates, None, **more))
    assert "Xyzzy77" not in repr_of(caught.value)


@pytest.mark.parametrize("mode", ["none", "NONE", "optional", "required"])
def test_the_modes_of_certificate_checks(
    mode: str, tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    assert ask(RedisStore(tls_server.url + query(certificates, ssl_cert_reqs=mode)))


def test_a_large_key_goes_through_in_several_records(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    store = RedisStore(tls_server.url + query(certificates))
    assert ask(store, key="x" * 65_536, quota="1/h")
    assert not ask(store, key="x" * 65_536, quota="1/h")


def test_threads_share_a_connection_over_tls(
    tls_server: RedisServer, certificates: Certificates
) -> None:
    from threading import Thread

    store = RedisStore(tls_server.url + query(certificates))
    limiter = Throttled("key", using="gcra", quota="1/h burst 100", store=store)
    seen: list[int] = []
    threads = [
        Thread(target=lambda: seen.append(sum(bool(limiter.limit()) for _ in range(25))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(seen) == 100
    assert store._link.opened == 1


def test_no_certificate_where_one_is_asked_for(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, tls_server.url + f"?ssl_ca_certs={certificates.ca}")
    assert error.fault == "tls"
    assert "certificate" in str(error).lower()


@pytest.mark.parametrize("turn", range(3))
def test_a_certificate_of_an_unknown_authority(
    turn: int, tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, tls_server.url + query(certificates, certificates.stranger))
    assert error.fault == "tls"
    assert "unknown ca" in str(error)


def test_a_server_of_an_unknown_authority(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    url = tls_server.url + query(certificates, ssl_ca_certs=certificates.stranger_ca)
    error = unavailable(ask, url)
    assert error.fault == "tls"
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_a_server_whose_certificate_has_expired(
    certificates: Certificates, start_server: Callable[..., RedisServer], ask: Callable[..., Any]
) -> None:
    files = {"tls-cert-file": certificates.expired.certificate}
    files["tls-key-file"] = certificates.expired.key
    options = {name: str(file) for name, file in files.items()} | {"tls-auth-clients": "no"}
    server = start_server(tls=certificates, options=options)
    error = unavailable(ask, server.url + query(certificates))
    assert error.fault == "tls"
    assert "expired" in str(error)


@pytest.mark.slow
def test_a_cluster_over_tls(
    redis_binary: str, certificates: Certificates, tls_server: RedisServer
) -> None:
    with Cluster(redis_binary, shards=3, replicas=0, tls=certificates) as cluster:
        url = cluster.url + query(certificates, tls="true")
        store = RedisStore(url)
        how: dict[str, Any] = {"using": "gcra", "quota": "1/h burst 2", "store": store}
        limiter, tasks = Throttled(**how), AsyncThrottled(**how)
        keys = [f"key {number}" for number in range(20)]

        async def main() -> None:
            assert all([await tasks.limit(key) for key in keys])

        assert all(limiter.limit(key) for key in keys)
        asyncio.run(main())
        assert not any(limiter.limit(key) for key in keys)
        served = {cluster.owner(cluster.slot_of(key)).port for key in keys}
        assert len(served) == 3
        with pytest.raises(StoreUnavailableError) as caught:
            Throttled(store=RedisStore(cluster.url), quota="1/m").limit("key")
        assert caught.value.fault in ("protocol", "closed", "connect", "timeout")


def test_a_server_of_another_name(
    elsewhere_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    error = unavailable(ask, elsewhere_server.url + query(certificates))
    assert error.fault == "tls"
    assert "127.0.0.1" in str(error)
    assert "mismatch" in str(error)


@pytest.mark.parametrize("more", [{"ssl_check_hostname": "false"}, {"ssl_cert_reqs": "none"}])
def test_a_server_of_another_name_is_taken_where_asked(
    more: dict[str, str],
    elsewhere_server: RedisServer,
    certificates: Certificates,
    ask: Callable[..., Any],
) -> None:
    assert ask(RedisStore(elsewhere_server.url + query(certificates, **more)))


def test_an_old_version_of_tls_is_refused(
    tls_server: RedisServer, certificates: Certificates, ask: Callable[..., Any]
) -> None:
    context = certificates.client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    tls_server.command("CONFIG", "SET", "tls-protocols", "TLSv1.3")
    options = {"CONNECTION_POOL_KWARGS": {"ssl_context": context}}
    assert unavailable(ask, tls_server.url, options).fault == "tls"


def test_plain_text_on_a_port_of_tls(tls_server: RedisServer, ask: Callable[..., Any]) -> None:
    error = unavailable(ask, f"redis://127.0.0.1:{tls_server.port}?connect_timeout=1", within=1)
    assert error.fault in ("closed", "protocol")


def test_tls_on_a_port_of_plain_text(server: RedisServer, ask: Callable[..., Any]) -> None:
    url = f"rediss://127.0.0.1:{server.port}?connect_timeout=0.5&ssl_cert_reqs=none"
    error = unavailable(ask, url, within=0.5)
    assert error.fault in ("tls", "timeout", "closed")
