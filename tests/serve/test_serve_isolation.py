"""What one tenant does to another: counts, memory, the processor, places in line, metrics."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from service_help import ALICE, BOB, OPS, ServiceProcess, until

from headway import MemoryStore
from headway.serve.app import Service
from headway.serve.protocol import Guard
from headway.serve.tokens import Tenants
from headway.store import SharedMemoryStore

TOKENS = [f"alice:{ALICE}", f"bob:{BOB}", f"ops:{OPS}:admin"]
VICTIM = {"key": "victim", "quota": "5/day", "cost": 5}


def flood(service: ServiceProcess, keys: int) -> None:
    """Bob uses up the quotas of so many keys."""
    connection = service.connect()
    for first in range(0, keys, 100):
        asked = [{"key": f"{first + n}", "quota": "1/3650d"} for n in range(100)]
        body = json.dumps({"requests": asked}).encode()
        said = service.ask("POST", "/v1/limit", body, BOB, over=connection)
        assert said.status == 200, said.body
    connection.close()


class TestCounts:
    @pytest.mark.parametrize("options", [("--max-keys", "200"), ()], ids=["few keys", "default"])
    def test_keys_of_one_tenant_do_not_push_out_those_of_another(
        self, options: tuple[str, ...]
    ) -> None:
        with ServiceProcess(*options, tokens=TOKENS) as service:
            service.post("/v1/limit", VICTIM, ALICE)
            flood(service, 1_000 if options else 70_000)
            assert service.post("/v1/limit", VICTIM, ALICE).json["limited"]

    def test_nor_in_shared_memory(self) -> None:
        name = f"headway-test-{uuid4().hex}"
        try:
            with ServiceProcess("--store", f"shm:///{name}?size=128K", tokens=TOKENS) as service:
                service.post("/v1/limit", VICTIM, ALICE)
                flood(service, 3_000)
                assert service.post("/v1/limit", VICTIM, ALICE).json["limited"]
        finally:
            for tenant in ("", ".alice", ".bob", ".ops"):
                SharedMemoryStore(f"{name}{tenant}").remove()

    def test_a_tenant_that_comes_back_finds_what_it_has_used(self) -> None:
        tenants = Tenants(MemoryStore(), 100)
        tenants.use({ALICE: ("alice", False)})
        store: Any = tenants.by_name("alice")
        tenants.use({BOB: ("bob", False)})
        tenants.use({ALICE: ("alice", False)})
        again: Any = tenants.by_name("alice")
        assert again.limiters._store is store.limiters._store

    def test_many_periods_lock_nobody_out(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service:
            for batch in range(90):
                numbers = range(batch * 50 + 1, batch * 50 + 51)
                asked = [{"key": "k", "quota": f"1/{2 * n}s; 5/{2 * n + 1}s"} for n in numbers]
                assert service.post("/v1/limit", {"requests": asked}, BOB).status == 200
            question = {"key": "innocent", "quota": "10/s; 100/m"}
            assert service.post("/v1/limit", question, BOB).status == 200


class TestMemory:
    def test_bodies_that_may_come_again_are_not_kept(self) -> None:
        with ServiceProcess(tokens=TOKENS) as service:
            status = Path(f"/proc/{service.process.pid}/status")
            if not status.exists():
                pytest.skip("memory of a process is read from /proc")

            def memory_kib() -> int:
                lines = status.read_text().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

            question = json.dumps({"key": "k", "quota": "1000000/s"}).encode()
            body = question + b" " * (65_000 - len(question))
            connection = service.connect()

            def send(number: int) -> None:
                headers = {"Idempotency-Key": f"k{number}"}
                said = service.ask("POST", "/v1/limit", body, ALICE, headers, connection)
                assert said.status == 200

            for number in range(50):
                send(number)
            before = memory_kib()
            for number in range(50, 1_000):
                send(number)
            assert memory_kib() - before < 20 * 1024  # the bodies are 60 MiB
            connection.close()


class Asgi:
    """A service in this process, asked without a connection."""

    def __init__(self) -> None:
        tenants = Tenants(MemoryStore(), 100_000)
        self.service = Service(MemoryStore(), tenants, Guard(max_connections=4))
        self.service.use_tokens({ALICE: ("alice", False), BOB: ("bob", False)})

    async def ask(
        self, method: str, path: str, token: str = ALICE, query: bytes = b"", body: bytes = b""
    ) -> tuple[int, Any]:
        said: list[MutableMapping[str, Any]] = []
        sent = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            if sent:
                return sent.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        headers = [(b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": method, "path": path, "query_string": query}
        await self.service({**scope, "headers": headers}, receive, send)
        return said[0]["status"], json.loads(said[1]["body"])


class TestTheProcessor:
    @pytest.mark.parametrize(
        "query", [b"search=zz", b"limit=1000&sort=key", b"limit=1000&sort=remaining&search=s"]
    )
    def test_others_have_their_turn_while_a_tenant_looks_at_its_keys(self, query: bytes) -> None:
        async def main() -> int:
            asgi, turns, done = Asgi(), 0, False
            for batch in range(100):
                asked = [{"key": f"{'ß' * 500}{batch}-{n}", "quota": "1/h"} for n in range(100)]
                body = json.dumps({"requests": asked}).encode()
                asgi.service._max_body = 10**6
                assert (await asgi.ask("POST", "/v1/limit", BOB, body=body))[0] == 200

            async def count() -> None:
                nonlocal turns
                while not done:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.ensure_future(count())
            status, data = await asgi.ask("GET", "/v1/keys", BOB, query)
            done = True
            await counting
            assert status == 200
            assert data["total"] == (0 if b"zz" in query else 10_000)
            assert len(data["keys"]) == (0 if b"zz" in query else 1_000)
            return turns

        assert asyncio.run(main()) > 20

    def test_a_tenant_that_asks_for_its_keys_over_and_over_is_refused(self) -> None:
        async def main() -> None:
            asgi = Asgi()
            turns: Any = asgi.service._turns
            async with turns._one:  # as if another tenant's snapshot were under way
                asked = [asyncio.ensure_future(asgi.ask("GET", "/v1/keys", BOB)) for _ in range(40)]
                for _ in range(5):
                    await asyncio.sleep(0)
            statuses = [status for status, _ in await asyncio.gather(*asked)]
            assert statuses.count(200) == 16
            assert statuses.count(503) == 24
            assert (await asgi.ask("GET", "/v1/keys"))[0] == 200

        asyncio.run(main())


class TestPlacesInLine:
    def test_a_tenant_whose_requests_wait_leaves_connections_to_others(self) -> None:
        question = {"key": "k", "quota": "1/8s", "timeout": 60}
        with ServiceProcess("--max-connections", "8", tokens=TOKENS) as service:
            service.post("/v1/limit", question, BOB)
            answers: list[int] = []

            def wait() -> None:
                answers.append(service.post("/v1/limit", question, BOB).status)

            threads = [threading.Thread(target=wait) for _ in range(6)]
            for thread in threads:
                thread.start()
            until(lambda: len(answers) == 2, "two of six are refused, since four may wait")
            assert answers == [503, 503]
            assert service.post("/v1/limit", {"key": "k", "quota": "1/s"}, ALICE).status == 200
            assert service.stop() == 0
            for thread in threads:
                thread.join(20)
            assert answers == [503] * 6


class TestMetrics:
    def test_a_tenant_sees_what_it_decided_and_nothing_of_others(
        self, service: ServiceProcess
    ) -> None:
        service.post("/v1/limit", {"key": "k", "quota": "1/s"}, BOB)
        own = service.get("/metrics", ALICE).body.decode()
        assert 'headway_serve_decisions_total{outcome="admitted",tenant="alice"}' in own
        names = {line.split("{")[0].split()[0] for line in own.splitlines() if line[:1] != "#"}
        assert {name.removesuffix("_total") for name in names} <= {
            "headway_serve_decisions",
            "headway_serve_decisions_created",
            "headway_serve_keys",
        }
        assert "bob" not in own
        whole = service.get("/metrics", OPS).body.decode()
        assert 'tenant="bob"' in whole
        assert "headway_serve_responses_total" in whole


class TestHealth:
    def test_many_who_ask_at_once_start_one_check(self) -> None:
        async def main() -> None:
            asgi = Asgi()
            checks = 0

            class Probe:
                async def peek(self, key: str) -> None:
                    nonlocal checks
                    checks += 1
                    await asyncio.sleep(0.05)

            probe: Any = Probe()
            asgi.service._probe = probe
            asked = [asgi.ask("GET", "/healthz") for _ in range(20)]
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
            assert checks == 1

        asyncio.run(main())


def test_the_store_that_cannot_answer_is_logged_once_for_many_requests() -> None:
    with ServiceProcess("--store", "redis://127.0.0.1:1/0", tokens=TOKENS) as service:
        statuses = {service.post("/v1/limit", VICTIM, ALICE).status for _ in range(30)}
        assert statuses == {503}
        service.stop()
    assert service.log.count("The store cannot answer") == 1


def test_a_batch_that_is_decided_in_part_says_so_and_is_remembered() -> None:
    """A store that fails for some keys: a cluster of which one node is gone is one."""
    from headway.exceptions import StoreUnavailableError
    from headway.serve import asking

    class Fails:
        """A limiter whose store cannot answer."""

        async def limit(self, *_: object) -> None:
            raise StoreUnavailableError("one node is gone")

    async def main() -> None:
        asgi = Asgi()
        alice = asgi.service.tenants.by_name("alice")
        assert alice is not None
        fine = {"key": "k", "quota": "5/h"}
        questions = asgi.service._questions.read(
            json.dumps({"requests": [fine, {"key": "k", "quota": "7/h"}]}).encode(),
            "limit",
            alice,
            None,
        )
        assert isinstance(questions, list)
        failing: Any = Fails()
        questions[1].limited.limiter = failing
        answer = await asking.answer_all(questions, "limit")
        results = json.loads(answer.body)["results"]
        assert answer.charged
        assert results[0]["remaining"] == 4
        assert results[1] == {"error": "The store cannot answer."}
        with pytest.raises(StoreUnavailableError):
            await asking.answer_all(questions[1:], "limit")

    asyncio.run(main())
