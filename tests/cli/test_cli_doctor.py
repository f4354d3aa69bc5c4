"""`headway doctor`: what it finds on real stores, and that it leaves them as they were."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cli_outcome import Outcome
from cli_service import Stub
from servers import RedisServer

from headway import Throttled
from headway.commands.doctor import machine, packages, redis, stores
from headway.commands.doctor.finding import Finding

Run = Callable[..., Outcome]


def found(outcome: Outcome, name: str, room: str = "store") -> dict[str, Any]:
    """The finding of this name."""
    all_of_them = [f for f in outcome.json["findings"] if (f["room"], f["name"]) == (room, name)]
    assert len(all_of_them) == 1, outcome.out
    finding: dict[str, Any] = all_of_them[0]
    return finding


def named(findings: Iterable[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_without_a_store_all_is_well_and_it_says_where_limits_are(here: Run) -> None:
    outcome = here("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json["ok"] is True
    assert "memory of each process" in found(outcome, "kept in")["value"]
    assert "REDIS_URL" in found(outcome, "kept in")["advice"]
    assert found(outcome, "a decision")["level"] == "ok"


def test_it_says_which_build_it_is(here: Run) -> None:
    outcome = here("doctor", "--json")
    core = found(outcome, "compiled core", "headway")["value"]
    assert re.search(r"_core\S+, compiled by \S.* for Python 3\.\d+", core)
    assert "GIL" in core or "free-threaded" in core
    hiredis = found(outcome, "hiredis", "headway")
    if hiredis["level"] == "ok":
        assert re.match(
            r"[01]\.\d+\.\d+, (inside the compiled core|by the shared lib)", hiredis["value"]
        )
    else:
        assert "built without Redis" in hiredis["value"]


def test_every_finding_that_is_not_ok_says_what_to_do(here: Run) -> None:
    for finding in here("doctor", "--store", "redis://127.0.0.1:1/0", "--json").json["findings"]:
        assert finding["level"] in ("ok", "warning", "problem")
        assert finding["value"]
        assert finding["level"] == "ok" or finding["advice"], finding


def test_people_and_programs_are_told_the_same(here: Run) -> None:
    text = here("doctor").out
    for finding in here("doctor", "--json").json["findings"]:
        assert finding["name"] in text
    assert "No problem found." in text or "warning" in text


def test_the_versions_are_those_that_run(here: Run) -> None:
    outcome = here("doctor", "--json")
    assert metadata.version("headway") in found(outcome, "version", "headway")["value"]
    version = ".".join(map(str, sys.version_info[:3]))
    assert version in found(outcome, "python", "headway")["value"]


def test_a_good_server_is_ok_and_gets_its_keyspace_back(
    redis_server: RedisServer, here: Run
) -> None:
    redis_server.command("SET", "somebody's", "value")
    outcome = here("doctor", "--store", redis_server.url, "--json")
    assert (outcome.code, outcome.json["problems"]) == (0, 0)
    assert redis_server.command("KEYS", "*") == [b"somebody's"] or redis_server.command(
        "KEYS", "*"
    ) == ["somebody's"]
    version = ".".join(map(str, redis_server.version))
    assert found(outcome, "server")["value"].startswith("redis ")
    assert version in found(outcome, "server")["value"]
    assert found(outcome, "memory")["value"].endswith("no maxmemory")
    assert "give or take" in found(outcome, "clock")["value"]
    assert found(outcome, "clock")["level"] == "ok"
    assert found(outcome, "replication")["value"] == "0 replicas"


def test_a_server_that_may_evict_limits_is_a_warning(
    start_redis: Callable[..., RedisServer], here: Run
) -> None:
    options = {"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}
    outcome = here("doctor", "--store", start_redis(options=options).url, "--json")
    memory = found(outcome, "memory")
    assert (outcome.code, memory["level"]) == (0, "warning")
    assert "noeviction" in memory["advice"]


def test_a_server_that_is_full_is_a_problem(
    start_redis: Callable[..., RedisServer], here: Run
) -> None:
    server = start_redis(options={"maxmemory": "1500kb", "maxmemory-policy": "noeviction"})
    server.command("CONFIG", "SET", "maxmemory", "1000kb")
    outcome = here("doctor", "--store", server.url, "--json")
    assert outcome.code == 1
    assert found(outcome, "memory")["level"] == "problem"


def test_a_replica_is_a_problem(start_redis: Callable[..., RedisServer], here: Run) -> None:
    primary = start_redis()
    replica = start_redis(options={"replicaof": f"127.0.0.1 {primary.port}"})
    outcome = here("doctor", "--store", replica.url, "--json")
    assert outcome.code == 1
    assert found(outcome, "a decision")["level"] == "problem"
    assert "name the primary" in found(outcome, "replication")["advice"]


def test_replicas_that_decisions_wait_for_must_be_there(
    redis_server: RedisServer, here: Run
) -> None:
    outcome = here("doctor", "--store", redis_server.url + "?wait_replicas=1&timeout=0.5", "--json")
    assert outcome.code == 1
    assert "wait_replicas=1" in found(outcome, "replication")["value"]
    assert found(outcome, "replication")["level"] == "problem"


def test_a_user_who_may_not_look_is_a_warning(
    start_redis: Callable[..., RedisServer], here: Run
) -> None:
    server = start_redis(users={"app": ("pw", "~* +@all -info")})
    outcome = here("doctor", "--store", server.url_for("app"), "--json")
    assert outcome.code == 0
    assert found(outcome, "questions")["level"] == "warning"
    assert found(outcome, "clock")["level"] == "ok"


def test_a_server_that_is_not_there_is_a_problem_and_the_rest_is_told(here: Run) -> None:
    outcome = here("doctor", "--store", "redis://u:pa55@127.0.0.1:1/0", "--json")
    assert outcome.code == 1
    assert "Connection refused" in found(outcome, "a decision")["value"]
    assert found(outcome, "python", "headway")["level"] == "ok"
    text = here("doctor", "--store", "redis://u:pa55@127.0.0.1:1/0")
    assert text.out.endswith("1 problem.\n") or "1 problem, " in text.out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_shown(
    form: list[str], redis_server: RedisServer, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("CHOKED_API_URL", "http://me:pa55@127.0.0.1:1")
    for name in ("HEADWAY_TOKEN", "CHOKED_API_TOKEN"):
        monkeypatch.setenv(name, "t0ken")
    outcome = here("doctor", *form)
    assert outcome.code == 0
    for secret in ("s3cret", "pa55", "t0ken"):
        assert secret not in outcome.out
    assert ":***@" in outcome.out


def test_a_file_of_sqlite_is_looked_at_and_left_as_it_was(tmp_path: Path, here: Run) -> None:
    url = f"sqlite:///{tmp_path}/limits.db"
    Throttled(key="alice", quota="5/h", store=url).limit()
    outcome = here("doctor", "--store", url, "--json")
    assert outcome.code == 0
    assert found(outcome, "sqlite")["value"] == f"{sqlite3.sqlite_version}, journal mode wal"
    with sqlite3.connect(tmp_path / "limits.db") as connection:
        count = connection.execute("SELECT count(*) FROM headway_states").fetchone()
    assert count == (1,)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path, here: Run) -> None:
    here("doctor", "--store", f"sqlite:///{tmp_path}/no.db").is_refused(2, "names no file")
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_is_not_there_is_a_problem(here: Run) -> None:
    outcome = here("doctor", "--store", "http://127.0.0.1:1", "--json")
    assert outcome.code == 1
    assert "cannot answer" in found(outcome, "a decision")["value"]


def test_a_service_is_asked_for_its_health_and_timed(
    stub: tuple[str, type[Stub]], here: Run
) -> None:
    url, handler = stub
    outcome = here("doctor", "--store", url, "--decisions", "20", "--json")
    assert outcome.code == 0
    assert found(outcome, "health")["value"] == "it answers 200"
    assert "20 timed" in found(outcome, "a decision")["value"]
    assert {path for path, *_ in handler.asked} == {"/v1/peek"}


def test_a_service_that_cannot_reach_its_store_is_a_problem(
    stub: tuple[str, type[Stub]], here: Run
) -> None:
    url, handler = stub
    handler.health = 503
    outcome = here("doctor", "--store", url, "--decisions", "20", "--json")
    assert (outcome.code, found(outcome, "health")["level"]) == (1, "problem")


def test_a_token_that_a_service_refuses_is_a_problem(
    stub: tuple[str, type[Stub]], here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = stub
    handler.answer = (401, {}, b"{}")
    outcome = here("doctor", "--store", url, "--json")
    assert (outcome.code, found(outcome, "a decision")["level"]) == (1, "problem")
    assert "needs a token" in found(outcome, "a decision")["value"]
    monkeypatch.setenv("HEADWAY_TOKEN", "t0ken")
    assert (
        "does not accept" in found(here("doctor", "--store", url, "--json"), "a decision")["value"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "nowhere"], ["argument --store", "'nowhere'"]),
        (["--decisions", "3"], ["--decisions", "'3'", "10 to 100000"]),
        (["--store", "redis://h:0/0"], ["argument --store", "port"]),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    words: list[str], said: list[str], here: Run
) -> None:
    here("doctor", *words).is_refused(2, "headway doctor: ", *said)


def test_redis_url_is_named_where_it_is_what_cannot_be_used(
    here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss//typo")
    here("doctor").is_refused(2, "headway doctor: REDIS_URL: 'rediss//typo'")


# ---- what INFO means, and extras: without a server for each case


BASE = {"redis_version": "7.2.4", "redis_mode": "standalone", "role": "master"}


@pytest.mark.parametrize(
    ("info", "name", "level"),
    [
        ({"redis_version": "4.0.14"}, "server", "problem"),
        ({"redis_version": "strange"}, "server", "ok"),
        ({"maxmemory": "100", "used_memory": "50"}, "memory", "ok"),
        ({"maxmemory": "100", "used_memory": "95"}, "memory", "problem"),
        ({"maxmemory": "100", "maxmemory_policy": "volatile-ttl"}, "memory", "warning"),
        ({"maxmemory": "", "used_memory": "x"}, "memory", "ok"),
        ({"rdb_last_bgsave_status": "err"}, "persistence", "problem"),
        ({"aof_enabled": "1"}, "persistence", "ok"),
        ({"role": "slave"}, "replication", "problem"),
        ({"connected_slaves": "2"}, "replication", "ok"),
        ({"cluster_enabled": "1"}, "cluster", "warning"),
    ],
)
def test_what_a_server_says_is_judged(info: dict[str, str], name: str, level: str) -> None:
    finding = named(redis.of_info({**BASE, **info}), name)
    assert finding.level == level
    assert finding.level == "ok" or finding.advice


def test_a_valkey_says_its_own_version() -> None:
    info = {**BASE, "server_name": "valkey", "valkey_version": "8.0.1"}
    assert named(redis.of_info(info), "server").value.startswith("valkey 8.0.1")


def test_the_extras_are_read_from_the_installed_package() -> None:
    extras = packages.extras_of(
        [
            'rich>=13; extra == "demo"',
            "uvicorn[standard] (>=0.23,<1) ; python_version > '3.9' and extra == 'serve'",
            'headway[demo]; extra == "all"',
            'ruff>=0.9; extra == "lint"',
            "typing-extensions>=4",
        ]
    )
    assert extras == {"demo": {"rich": ">=13"}, "serve": {"uvicorn": ">=0.23,<1"}}


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ['nobody-has-this>=1; extra == "nice"', 'pytest>=9999; extra == "late"']
    monkeypatch.setattr(metadata, "requires", lambda _: needs)
    nice, late = packages.findings()
    assert (nice.level, nice.value) == ("ok", "not installed: nobody-has-this")
    assert nice.advice.endswith('pip install "headway[nice]"')
    assert late.level == "warning"
    assert late.value.startswith("too old: pytest ")


@pytest.mark.parametrize(
    ("version", "wanted", "older"),
    [("2.0", ">=2", False), ("1.9.9", ">=2", True), ("13.7", ">=13", False), ("0.9", "", False)],
)
def test_versions_are_compared_as_numbers(version: str, wanted: str, older: bool) -> None:
    assert packages._is_older(version, wanted) == older


def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_file_limit", lambda: 256)
    assert named(machine.findings(), "open files").level == "warning"


@pytest.mark.skipif(not os.path.exists("/proc/self/mounts"), reason="there is no /proc")
def test_the_file_system_of_a_file_is_that_of_the_innermost_mount() -> None:
    assert stores.file_system_of(Path("/proc/self/status")) == "proc"


def test_the_json_has_a_schema_number(here: Run) -> None:
    assert json.loads(here("doctor", "--json").out)["schema"] == 1
