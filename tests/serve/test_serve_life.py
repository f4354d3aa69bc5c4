"""Starting and stopping: addresses, files, TLS, the store that goes away, signals."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
from certificates import Certificates
from servers import RedisServer
from service_help import ALICE, ServiceProcess, call, read_all, until

TOKENS = [f"alice:{ALICE}"]


def refused(*options: str) -> str:
    """What a service says that does not start: one line, and exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "headway.serve", *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


class TestStarting:
    def test_an_address_in_use_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refused("--listen", f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in said
        assert "Address already in use" in said

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("8787", "HOST:PORT"),
            ("127.0.0.1:http", "HOST:PORT"),
            ("127.0.0.1:99999", "HOST:PORT"),
            ("::1:80", "HOST:PORT"),
            ("", "HOST:PORT"),
        ],
    )
    def test_an_address_that_is_none_is_refused(self, address: str, said: str) -> None:
        assert said in refused("--listen", address)

    @pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
    def test_other_machines_are_let_in_only_with_tokens(self, address: str) -> None:
        assert "--token-file" in refused("--listen", address)

    def test_a_token_file_that_everybody_can_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "tokens"
        path.write_text("alice:secret\n")
        path.chmod(0o644)
        said = refused("--token-file", str(path))
        assert "chmod 600" in said
        assert "secret" not in said

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--store", "redis://:hidden@localhost:port"], "Invalid store"),
            (["--store", "mysql://x"], "Invalid store"),
            (["--tls-cert", "/nowhere.pem"], "tls_cert"),
            (["--tls-key", "/nowhere.pem"], "--tls-cert"),
            (["--max-body", "0"], "--max-body"),
            (["--max-wait", "nan"], "--max-wait"),
            (["--header-timeout", "-1"], "--header-timeout"),
        ],
    )
    def test_a_wrong_option_is_named(self, options: list[str], said: str) -> None:
        error = refused("--listen", "127.0.0.1:0", *options)
        assert said in error
        assert "hidden" not in error

    @pytest.mark.parametrize("name", ["uvicorn", "httptools", "prometheus_client"])
    def test_a_package_that_is_missing_is_named_and_how_to_install_it(self, name: str) -> None:
        program = (
            f"import sys; sys.modules[{name!r}] = None\n"
            "from headway.cli import main; sys.exit(main(['serve', '--listen', '127.0.0.1:0']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 3
        assert done.stderr == (
            f'headway serve: {name} is missing; run: pip install "headway[serve]"\n'
        )

    def test_it_listens_on_ipv6_too(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
        with ServiceProcess("--listen", "[::1]:0") as service:
            assert "[::1]" in service.url
            assert service.get("/healthz").status == 200


class TestWithoutTokens:
    def test_everybody_of_this_machine_may_ask(self) -> None:
        with ServiceProcess() as service:
            question = {"key": "k", "quota": "1/h"}
            assert not service.post("/v1/limit", question).json["limited"]
            assert service.post("/v1/reset", question).status == 200
            # What a web page makes a browser of this machine send.
            evil = {"Origin": "https://evil.example"}
            body = json.dumps(question).encode()
            assert service.ask("POST", "/v1/reset", body, headers=evil).status == 403
            for name in ("evil.example", "127.0.0.1.evil.example", "127.evil.example"):
                rebound = {"Host": name}
                assert service.ask("POST", "/v1/limit", body, headers=rebound).status == 403
            own = {"Origin": service.url}
            assert service.ask("POST", "/v1/limit", body, headers=own).status == 200

    def test_a_picture_on_another_site_takes_nothing(self) -> None:
        """A browser sends no Origin with it, and says where it comes from in Sec-Fetch-Site."""
        target = f"/choked/acquire?{urlencode(call('k'))}"
        with ServiceProcess() as service:
            for site in ("cross-site", "same-site"):
                said = service.ask("GET", target, headers={"Sec-Fetch-Site": site})
                assert said.status == 403
            for site in ("same-origin", "none"):
                said = service.ask("GET", target, headers={"Sec-Fetch-Site": site})
                assert said.status == 200
            assert said.json["remaining"] == 3  # two of five were taken

    @pytest.mark.parametrize(
        "headers",
        [
            b"Host: evil.com@localhost\r\n",
            b"Host: localhost#evil\r\n",
            b"Host: localhost/evil\r\n",
            b"Host: localhost:80:80\r\n",
            b"Host: \r\n",
            b"Host: evil.example\r\nHost: localhost\r\n",
            b"Host: localhost\r\nHost: localhost\r\n",
            b"Host: localhost\r\nOrigin: evil://localhost\r\n",
            b"Host: localhost\r\nOrigin: null\r\n",
            b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://localhost\r\n",
        ],
    )
    def test_a_host_or_origin_that_only_looks_local_is_refused(self, headers: bytes) -> None:
        with ServiceProcess() as service, service.socket() as sock:
            sock.sendall(b"GET /v1/keys HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n")
            assert read_all(sock).split()[1] in (b"400", b"403")

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8787", "127.9.9.9"])
    def test_a_local_host_is_served(self, host: str) -> None:
        with ServiceProcess() as service:
            assert service.ask("GET", "/v1/keys", headers={"Host": host}).status == 200

    def test_metrics_can_be_public(self) -> None:
        with ServiceProcess("--metrics-public", tokens=TOKENS) as service:
            assert service.get("/metrics").status == 200
            assert service.get("/v1/keys").status == 401


class TestTls:
    def test_it_is_served_to_those_who_trust_the_certificate(
        self, certificates: Certificates
    ) -> None:
        pair = certificates.server
        options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
        with ServiceProcess(*options, tokens=TOKENS) as service:
            assert service.url.startswith("https://")
            trusting = ssl.create_default_context(cafile=str(certificates.ca))
            connection = service.connect(trusting)
            assert service.ask("GET", "/healthz", over=connection).status == 200
            assert service.ask("GET", "/v1/keys", token=ALICE, over=connection).status == 200
            connection.close()
            with pytest.raises(ssl.SSLError):
                service.ask("GET", "/healthz", over=service.connect(ssl.create_default_context()))
            with service.socket() as plain:
                plain.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert b"200" not in plain.recv(1000)

    def test_an_idle_connection_does_not_hold_up_the_stop(self, certificates: Certificates) -> None:
        pair = certificates.server
        options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
        with ServiceProcess(*options) as service:
            idle = service.connect(ssl.create_default_context(cafile=str(certificates.ca)))
            assert service.ask("GET", "/healthz", over=idle).status == 200
            started = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - started < 15  # of the thirty that a TLS connection may idle
            idle.close()

    @pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02"])
    def test_a_handshake_that_is_not_finished_is_cut_off(
        self, certificates: Certificates, start: bytes
    ) -> None:
        pair = certificates.server
        options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
        with ServiceProcess(*options, "--header-timeout", "1") as service, service.socket() as sock:
            started = time.monotonic()
            sock.sendall(start)
            read_all(sock)
            assert time.monotonic() - started < 10

    def test_a_renewed_certificate_is_read_by_a_signal(
        self, certificates: Certificates, tmp_path: Path
    ) -> None:
        paths = tmp_path / "cert.pem", tmp_path / "key.pem"

        def write(certificate: Path, key: Path) -> None:
            paths[0].write_bytes(certificate.read_bytes())
            paths[1].write_bytes(key.read_bytes())

        def shown() -> str:
            return ssl.get_server_certificate(service.address)

        old, new = certificates.server, certificates.client
        write(old.certificate, old.key)
        options = ["--tls-cert", str(paths[0]), "--tls-key", str(paths[1])]
        with ServiceProcess(*options, tokens=TOKENS) as service:
            before = shown()
            paths[0].write_bytes(new.certificate.read_bytes())  # and not its key yet
            service.process.send_signal(signal.SIGHUP)
            until(lambda: "stays as it was" in service.log, "the pair does not match")
            assert shown() == before
            write(new.certificate, new.key)
            service.process.send_signal(signal.SIGHUP)
            until(lambda: shown() != before, "the new certificate is shown")
            assert (
                shown().strip()
                == ssl.DER_cert_to_PEM_cert(
                    ssl.PEM_cert_to_DER_cert(
                        "-----BEGIN" + new.certificate.read_text().partition("-----BEGIN")[2]
                    )
                ).strip()
            )

    def test_a_key_of_another_certificate_is_refused(self, certificates: Certificates) -> None:
        error = refused(
            *("--listen", "127.0.0.1:0"),
            *("--tls-cert", str(certificates.server.certificate)),
            *("--tls-key", str(certificates.client.key)),
        )
        assert "tls_cert" in error


class TestTheStore:
    def test_one_that_dies_is_503_until_it_is_back(self, redis_server: RedisServer) -> None:
        with ServiceProcess("--store", redis_server.url, tokens=TOKENS) as service:
            question = {"key": "k", "quota": "100/h"}

            def statuses() -> set[int]:
                return {
                    service.post("/v1/limit", question, ALICE).status,
                    service.get("/choked/acquire", ALICE, **call("c")).status,
                }

            assert statuses() == {200}
            assert service.get("/healthz").status == 200
            redis_server.kill()
            until(lambda: statuses() == {503}, "the store is missed")
            assert service.post("/v1/limit", question, ALICE).headers["retry-after"] == "1"
            until(lambda: service.get("/healthz").status == 503, "the health check says so")
            redis_server.start()
            until(lambda: statuses() <= {200, 429}, "the store is used again")
            until(lambda: service.get("/healthz").status == 200, "the health check says so")

    def test_a_file_keeps_the_state_over_a_restart(self, tmp_path: Path) -> None:
        store = f"sqlite:///{tmp_path}/limits.db"
        question = {"key": "k", "quota": "1/h"}
        with ServiceProcess("--store", store, tokens=TOKENS) as service:
            assert not service.post("/v1/limit", question, ALICE).json["limited"]
        with ServiceProcess("--store", store, tokens=TOKENS) as service:
            assert service.post("/v1/limit", question, ALICE).json["limited"]


SIGNALLED = """
import os, sys
class AtImport:  # a supervisor's signal comes while the service is being imported
    def find_spec(self, name, path=None, target=None):
        if name == "uvicorn" and AtImport in map(type, sys.meta_path):
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
at_import = AtImport()
sys.meta_path.insert(0, at_import)
from headway.cli import main
sys.exit(main(["serve", "--listen", "127.0.0.1:0"]))
"""


class TestSignalsAtTheStart:
    def test_a_reload_does_not_end_it(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", SIGNALLED.format(number=int(signal.SIGHUP))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline().startswith("headway serves on ")
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_stop_ends_it_with_0(self, number: int) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SIGNALLED.format(number=int(number))],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_an_error_leaves_the_signals_as_they_were(self) -> None:
        program = (
            "import signal, sys; from headway.cli import main\n"
            "before = [signal.getsignal(n) for n in (1, 2, 15)]\n"
            "assert main(['serve', '--listen', '192.0.2.1:0']) == 2\n"
            "assert before == [signal.getsignal(n) for n in (1, 2, 15)]"
        )
        done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
        assert done.returncode == 0


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_0(self, number: int) -> None:
        with ServiceProcess(tokens=TOKENS) as service:
            idle = service.connect()
            service.ask("GET", "/healthz", over=idle)
            started = time.monotonic()
            assert service.stop(number) == 0
            assert time.monotonic() - started < 15
            idle.close()

    def test_those_who_wait_are_told_and_take_nothing(self, tmp_path: Path) -> None:
        store = f"sqlite:///{tmp_path}/limits.db"
        question = {"key": "k", "quota": "1/30s"}
        with ServiceProcess("--store", store, tokens=TOKENS) as service:
            service.post("/v1/limit", question, ALICE)
            answers = []
            waiting = threading.Thread(
                target=lambda: answers.append(
                    service.post("/v1/limit", {**question, "timeout": 60}, ALICE)
                )
            )
            waiting.start()

            def count() -> int:
                rows = service.get("/v1/keys", ALICE).json["keys"]
                return int(rows[0]["waiting"])

            until(lambda: count() == 1, "somebody waits")
            assert service.stop() == 0
            waiting.join(20)
            assert [answer.status for answer in answers] == [503]
            assert "retry-after" in answers[0].headers
