"""Who may ask: tokens, the file they are in, and key spaces that do not meet."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from service_help import ALICE, BOB, OPS, ServiceProcess, call, until

from headway import MemoryStore
from headway.exceptions import SetUpError
from headway.serve.tokens import Tenants, read_tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


class TestAsking:
    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer wrong-token-00000",
            f"Basic {ALICE}",
            ALICE,
            f"Bearer {ALICE}x",
            f"Bearer {ALICE[:-1]}",
            f"Bearer {ALICE} {BOB}",
            f"Bearer alice:{ALICE}",
            "Bearer " + "x" * 5000,
        ],
    )
    def test_a_wrong_token_is_refused_everywhere(
        self, service: ServiceProcess, header: str | None
    ) -> None:
        headers = {} if header is None else {"Authorization": header}
        for method, path in [
            ("POST", "/v1/limit"),
            ("POST", "/v1/peek"),
            ("POST", "/v1/reset"),
            ("GET", "/v1/keys"),
            ("GET", "/metrics"),
            ("GET", "/choked/acquire?key=k"),
            ("POST", "/choked/settle?key=k"),
        ]:
            said = service.ask(method, path, b"{}", headers=headers)
            assert said.status == 401, path
            assert said.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("header", [f"bearer {ALICE}", f"BEARER   {ALICE} "])
    def test_the_scheme_is_read_in_any_case(self, service: ServiceProcess, header: str) -> None:
        said = service.ask("GET", "/v1/keys", headers={"Authorization": header})
        assert said.status == 200

    def test_health_and_the_page_need_no_token(self, service: ServiceProcess) -> None:
        assert service.get("/healthz").json == {"status": "ok"}
        assert service.get("/").status in (200, 404)  # 404 where there is no page

    def test_tokens_are_never_logged_or_echoed(self, key: str) -> None:
        secret = "a-token-nobody-may-see"
        with ServiceProcess("--log-level", "debug", tokens=[f"alice:{secret}"]) as service:
            service.post("/v1/limit", {"key": key, "quota": "1/s"}, secret)
            service.post("/v1/limit", {"key": key, "quota": "never"}, secret)
            said = service.ask("GET", "/v1/keys", headers={"Authorization": f"Basic {secret}"})
            assert secret.encode() not in said.body
            with service.socket() as raw:
                raw.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {secret}\r\n\0".encode())
                raw.recv(1000)
            service.stop()
            assert secret not in service.log


class TestTenants:
    def test_the_same_key_of_two_tenants_is_two_keys(
        self, service: ServiceProcess, key: str
    ) -> None:
        question = {"key": key, "quota": "1/h"}
        assert not service.post("/v1/limit", question, ALICE).json["limited"]
        assert service.post("/v1/limit", question, ALICE).json["limited"]
        assert not service.post("/v1/limit", question, BOB).json["limited"]
        fields = call(key, request_capacity=1)
        assert service.get("/choked/acquire", ALICE, **fields).status == 200
        assert service.get("/choked/acquire", BOB, **fields).status == 200

    def test_no_key_reaches_another_tenant(self, redis_server: object) -> None:
        """On a server, where keys are text with the tenant in front: look at all that is written.

        Bob asks for keys that are made to look like Alice's.
        """
        url = redis_server.url  # type: ignore[attr-defined]
        tokens = [f"alice:{ALICE}", f"alice.b:{BOB}"]
        with ServiceProcess("--store", url, tokens=tokens) as service:
            service.post("/v1/limit", {"key": "k", "quota": "5/h"}, ALICE)
            for attempt in [
                "headway.alice:v1:token_bucket:k",
                ":v1:token_bucket:k",
                "../alice:k",
                "k\r\n*1\r\n$8\r\nFLUSHALL\r\n",
                "{alice}:k",
                "\0k",
                "k:3600000000us#0",
            ]:
                said = service.post("/v1/limit", {"key": attempt, "quota": "5/h"}, BOB)
                assert said.status == 200
                service.post("/v1/reset", {"key": attempt, "quota": "5/h"}, BOB)
            kept = service.post("/v1/peek", {"key": "k", "quota": "5/h"}, ALICE).json
            assert kept["remaining"] == 4
            service.post("/v1/limit", {"key": "k", "quota": "5/h"}, BOB)
        with redis_server.connect() as wire:  # type: ignore[attr-defined]
            names = wire.command("KEYS", "*")
        of_bob = [name for name in names if name.startswith("headway.alice.b:v1:")]
        of_alice = [name for name in names if name.startswith("headway.alice:v1:")]
        assert len(of_bob) == len(of_alice) == 1
        assert len(names) == 2

    def test_only_an_admin_speaks_for_others(self, service: ServiceProcess, key: str) -> None:
        question = {"key": key, "quota": "1/h"}
        service.post("/v1/limit", question, ALICE)
        for path in ("/v1/limit", "/v1/peek", "/v1/reset"):
            assert service.post(path, {**question, "tenant": "alice"}, BOB).status == 403
        assert service.post("/v1/peek", {**question, "tenant": "alice"}, OPS).json["remaining"] == 0
        assert service.post("/v1/reset", {**question, "tenant": "alice"}, OPS).status == 200
        assert service.post("/v1/peek", question, ALICE).json["remaining"] == 1

    def test_an_admin_sees_the_keys_of_all(self, service: ServiceProcess, key: str) -> None:
        for token in (ALICE, BOB):
            service.post("/v1/limit", {"key": key, "quota": "1/h"}, token)
        rows = service.get("/v1/keys", OPS, search=key).json["keys"]
        assert sorted(row["tenant"] for row in rows) == ["alice", "bob"]
        rows = service.get("/v1/keys", OPS, search=key, tenant="bob").json["keys"]
        assert [row["tenant"] for row in rows] == ["bob"]
        assert [row["tenant"] for row in service.get("/v1/keys", BOB, search=key).json["keys"]] == [
            "bob"
        ]

    def test_metrics_tell_a_tenant_nothing_of_another(self, service: ServiceProcess) -> None:
        assert 'tenant="alice"' in service.get("/metrics", ALICE).body.decode()
        assert 'tenant="alice"' not in service.get("/metrics", BOB).body.decode()
        assert 'tenant="alice"' in service.get("/metrics", OPS).body.decode()

    def test_what_one_sent_again_is_not_answered_to_another(
        self, service: ServiceProcess, key: str
    ) -> None:
        question = {"key": key, "quota": "1/h"}
        for token in (ALICE, BOB):
            said = service.post("/v1/limit", question, token, Idempotency_Key=f"id of {key}")
            assert not said.json["limited"]


class TestTheFile:
    def test_it_names_tenants_and_admins(self, file: Path) -> None:
        file.write_text("# who may ask\n\nalone\nalice:secret\n ops:other:admin \n")
        assert read_tokens(str(file)) == {
            "alone": ("default", False),
            "secret": ("alice", False),
            "other": ("ops", True),
        }

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("a:b:c:d", "TENANT:TOKEN:admin"),
            ("alice:secret:root", "role"),
            ("al ice:secret", "name"),
            ("a" * 65 + ":secret", "name"),
            ("headway:v1:admin:x", "TENANT:TOKEN:admin"),
            ("alice:", "token"),
            ("alice:se cret", "token"),
            ("alice:sécret", "token"),
        ],
    )
    def test_a_line_that_is_wrong_is_named_by_its_number_alone(
        self, file: Path, line: str, said: str
    ) -> None:
        file.write_text(f"good:token\n{line}\n")
        with pytest.raises(SetUpError, match="line 2") as caught:
            read_tokens(str(file))
        assert said in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_a_line_with_its_halves_the_wrong_way_round_is_refused_and_not_quoted(
        self, file: Path
    ) -> None:
        file.write_text("good:token\n6f1c2f0a8d7b4e21:alice\n")
        with pytest.raises(SetUpError, match=r"line 2.*TENANT:TOKEN") as caught:
            read_tokens(str(file))
        assert "6f1c" not in str(caught.value)

    def test_a_short_token_is_warned_of_without_its_line(self) -> None:
        with ServiceProcess(tokens=["6f1c2f0a8d7:alice", f"good:{ALICE}"]) as service:
            service.stop()
        assert "1 of the tokens have fewer than 16 characters" in service.log
        assert "6f1c" not in service.log
        assert "alice" not in service.log

    @pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
    def test_a_comment_ends_with_its_line(self, file: Path, end: str) -> None:
        file.write_text(f"# staff {end} root:6f1c2f0a8d7b4e21:admin\nalice:{ALICE}\r\n")
        assert read_tokens(str(file)) == {ALICE: ("alice", False)}

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self, file: Path) -> None:
        file.write_bytes(b"\xef\xbb\xbf" + f"alice:{ALICE}\n".encode())
        assert read_tokens(str(file)) == {ALICE: ("alice", False)}

    def test_one_token_of_two_tenants_is_refused(self, file: Path) -> None:
        file.write_text("alice:secret\nbob:secret\n")
        with pytest.raises(SetUpError, match=r"line 2.*twice"):
            read_tokens(str(file))

    @pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o602])
    def test_one_that_everybody_can_open_is_refused(self, file: Path, mode: int) -> None:
        file.write_text("alice:secret\n")
        file.chmod(mode)
        with pytest.raises(SetUpError, match="chmod 600"):
            read_tokens(str(file))

    def test_an_empty_or_missing_one_is_refused(self, file: Path) -> None:
        file.write_text("# nobody yet\n")
        with pytest.raises(SetUpError, match="no token"):
            read_tokens(str(file))
        with pytest.raises(SetUpError, match="No such file"):
            read_tokens(str(file) + "x")

    def test_sighup_reads_it_again_and_keeps_the_old_where_it_is_wrong(self, key: str) -> None:
        question = {"key": key, "quota": "1/h"}
        with ServiceProcess(tokens=["alice:the-first-token-", "bob:the-token-of-bob"]) as service:

            def status(token: str) -> int:
                return service.get("/v1/keys", token).status

            assert not service.post("/v1/limit", question, "the-first-token-").json["limited"]
            service.write_tokens(["alice:the-second-token"])
            service.process.send_signal(signal.SIGHUP)
            until(lambda: status("the-second-token") == 200, "the new token is good")
            assert status("the-first-token-") == status("the-token-of-bob") == 401
            # The tenant has kept its state.
            assert service.post("/v1/limit", question, "the-second-token").json["limited"]
            service.write_tokens(["alice:no good token"])
            service.process.send_signal(signal.SIGHUP)
            until(lambda: "stay as they were" in service.log, "the file is refused")
            assert status("the-second-token") == 200


def test_a_thousand_tokens_are_told_apart() -> None:
    tenants = Tenants(MemoryStore())
    tenants.use({f"token-{n}": (f"tenant-{n}", False) for n in range(1000)})
    for n in (0, 1, 500, 999):
        found = tenants.by_authorization(f"Bearer token-{n}".encode())
        assert found is not None
        assert found[0].name == f"tenant-{n}"
    assert tenants.by_authorization(b"Bearer token-1000") is None
