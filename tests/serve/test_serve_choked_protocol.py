"""choked's protocol: its query, 200, 429 with Retry-After, and the client of choked 0.2.5."""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from service_help import ALICE, Said, ServiceProcess, call


def acquire(service: ServiceProcess, key: str, /, **fields: object) -> Said:
    return service.get("/choked/acquire", ALICE, **call(key, **fields))


def test_calls_are_admitted_as_the_bucket_holds(service: ServiceProcess, key: str) -> None:
    assert [acquire(service, key).status for _ in range(6)] == [200] * 5 + [429]


def test_a_denial_says_when_to_come_back(service: ServiceProcess, key: str) -> None:
    acquire(service, key, requests_needed=5)
    said = acquire(service, key)
    assert 710 <= int(said.headers["retry-after"]) <= 720
    ms = int(said.headers["retry-after-ms"])
    assert 710_000 < ms <= 720_000
    assert int(said.headers["retry-after"]) == math.ceil(ms / 1000)


def test_who_comes_back_when_told_to_is_admitted(service: ServiceProcess, key: str) -> None:
    bucket = {"request_capacity": 1, "request_refill_rate": 4.0}
    for _ in range(3):
        while (said := acquire(service, key, **bucket)).status == 200:
            pass
        time.sleep(int(said.headers["retry-after-ms"]) / 1000)
        assert acquire(service, key, **bucket).status == 200


def test_calls_and_tokens_are_taken_together_or_not_at_all(
    service: ServiceProcess, key: str
) -> None:
    tokens = {"token_capacity": 100, "token_refill_rate": 100 / 3600}
    assert acquire(service, key, tokens_needed=60, **tokens).status == 200
    assert acquire(service, key, tokens_needed=60, **tokens).status == 429
    # Had the denials taken calls, three would be left.
    acquired = [acquire(service, key, tokens_needed=10, **tokens).status for _ in range(5)]
    assert acquired == [200] * 4 + [429]


def test_tokens_alone_can_be_limited(service: ServiceProcess, key: str) -> None:
    only = {
        "request_capacity": 0,
        "request_refill_rate": 0.0,
        "requests_needed": 0,
        "token_capacity": 100,
        "token_refill_rate": 100 / 3600,
    }
    assert acquire(service, key, tokens_needed=70, **only).status == 200
    assert acquire(service, key, tokens_needed=31, **only).status == 429
    assert acquire(service, key, tokens_needed=30, **only).status == 200


def test_a_call_may_wait_for_its_turn_at_the_service(service: ServiceProcess, key: str) -> None:
    bucket = {"request_capacity": 1, "request_refill_rate": 2.0}
    started = time.monotonic()
    acquire(service, key, **bucket)
    assert acquire(service, key, timeout=5, **bucket).status == 200
    assert time.monotonic() - started >= 0.5


def test_one_rate_is_exact_however_it_is_written(service: ServiceProcess, key: str) -> None:
    """10000 a minute is 166.666… a second, which no decimal fraction says."""
    bucket = {"request_capacity": 10_000, "request_refill_rate": 10_000 / 60}
    assert acquire(service, key, requests_needed=10_000, **bucket).status == 200
    said = service.get("/v1/keys", ALICE, search=key).json["keys"][0]
    assert said["quota"] == "10000/m"


WRONG: list[tuple[str, object]] = [
    ("key", ""),
    ("key", "x" * 1025),
    ("request_capacity", -1),
    ("request_capacity", 1.5),
    ("request_capacity", 10**13),
    ("request_capacity", "9" * 5000),
    ("request_capacity", "1_0"),
    ("request_refill_rate", 0),
    ("request_refill_rate", -1),
    ("request_refill_rate", "nan"),
    ("request_refill_rate", "inf"),
    ("request_refill_rate", 1e-12),
    ("request_refill_rate", 1e17),
    ("requests_needed", 6),
    ("requests_needed", "one"),
    ("tokens_needed", 1),
    ("timeout", -1),
    ("timeout", "inf"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{f}={str(v)[:20]}" for f, v in WRONG])
def test_what_is_wrong_is_named(service: ServiceProcess, field: str, value: object) -> None:
    said = acquire(service, "k", **{field: value})
    assert said.status == 400
    assert field in said.json["error"]


def test_a_field_that_is_given_twice_is_refused(service: ServiceProcess) -> None:
    said = service.ask("GET", "/choked/acquire?key=a&key=b", token=ALICE)
    assert said.status == 400
    assert "key" in said.json["error"]


@pytest.mark.parametrize("query", ["", "key", "key=%ff", "&".join(f"f{n}=1" for n in range(99))])
def test_a_query_that_is_none_is_refused(service: ServiceProcess, query: str) -> None:
    assert service.ask("GET", f"/choked/acquire?{query}", token=ALICE).status == 400


def test_head_takes_nothing(service: ServiceProcess, key: str) -> None:
    query = "&".join(f"{name}={value}" for name, value in call(key, request_capacity=1).items())
    assert service.ask("HEAD", f"/choked/acquire?{query}", token=ALICE).status == 405
    assert service.ask("GET", f"/choked/acquire?{query}", token=ALICE).status == 200


def test_a_query_that_is_too_long_is_refused(service: ServiceProcess) -> None:
    assert service.get("/choked/acquire", ALICE, key="x" * 10_000).status == 414


REAL = Path(__file__).with_name("real_choked.py")


def has_choked() -> bool:
    try:
        return importlib.metadata.version("choked") == "0.2.5"
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_choked(), reason="choked 0.2.5 is not installed")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_client_of_choked_025_works_as_it_is(
    service: ServiceProcess, key: str, kind: str
) -> None:
    """Three calls of a bucket of two that fills in a second: the third one waits."""
    done = subprocess.run(
        [sys.executable, str(REAL), service.url, ALICE, key, kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, _, third = map(float, done.stdout.split())
    assert third >= 0.5  # since before the first: a token comes in that time


def test_many_who_wait_are_served_one_after_another(service: ServiceProcess, key: str) -> None:
    bucket = {"request_capacity": 1, "request_refill_rate": 10.0, "timeout": 30}
    at: list[float] = []

    def wait() -> None:
        assert acquire(service, key, **bucket).status == 200
        at.append(time.monotonic())

    started = time.monotonic()
    threads = [threading.Thread(target=wait) for _ in range(11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(at) == 11
    assert max(at) - started >= 1.0
