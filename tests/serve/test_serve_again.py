"""A request that is sent again is charged once; and admitted counts over processes are exact."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from service_help import ALICE, ServiceProcess, call

BURST = 300


def test_the_same_id_is_answered_the_same_and_charged_once(
    service: ServiceProcess, key: str
) -> None:
    question = {"key": key, "quota": "5/h"}
    said = [service.post("/v1/limit", question, ALICE, Idempotency_Key=key) for _ in range(4)]
    assert {answer.body for answer in said} == {said[0].body}
    assert service.post("/v1/peek", question, ALICE).json["remaining"] == 4


def test_the_same_holds_for_chokeds_protocol(service: ServiceProcess, key: str) -> None:
    fields = call(key, request_capacity=2)
    path = "/choked/acquire?" + "&".join(f"{name}={value}" for name, value in fields.items())
    for _ in range(5):
        said = service.ask("GET", path, token=ALICE, headers={"Idempotency-Key": key})
        assert said.status == 200
    assert service.ask("GET", path, token=ALICE).status == 200
    assert service.ask("GET", path, token=ALICE).status == 429


def test_a_batch_is_charged_once_as_a_whole(service: ServiceProcess, key: str) -> None:
    batch = {"requests": [{"key": key, "quota": "5/h"}] * 2}
    for _ in range(3):
        said = service.post("/v1/limit", batch, ALICE, Idempotency_Key=key)
        assert [one["remaining"] for one in said.json["results"]] == [4, 3]


def test_an_id_is_good_for_one_request(service: ServiceProcess, key: str) -> None:
    service.post("/v1/limit", {"key": key, "quota": "5/h"}, ALICE, Idempotency_Key=key)
    said = service.post("/v1/limit", {"key": key, "quota": "6/h"}, ALICE, Idempotency_Key=key)
    assert said.status == 422
    said = service.post("/v1/limit", {"key": key, "quota": "6/h"}, ALICE, Idempotency_Key="x" * 129)
    assert said.status == 400


def test_who_was_denied_is_decided_anew(service: ServiceProcess, key: str) -> None:
    question = {"key": key, "quota": "1/h"}
    service.post("/v1/limit", question, ALICE)
    assert service.post("/v1/limit", question, ALICE, Idempotency_Key=key).json["limited"]
    service.post("/v1/reset", question, ALICE)
    assert not service.post("/v1/limit", question, ALICE, Idempotency_Key=key).json["limited"]


def test_one_that_comes_again_while_the_first_waits_shares_its_turn(
    service: ServiceProcess, key: str
) -> None:
    question = {"key": key, "quota": "1/s burst 1"}
    service.post("/v1/limit", question, ALICE)
    answers: list[Any] = []

    def wait() -> None:
        answers.append(
            service.post("/v1/limit", {**question, "timeout": 30}, ALICE, Idempotency_Key=key).json
        )

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [answer["limited"] for answer in answers] == [False] * 3
    seen = service.get("/v1/keys", ALICE, search=key).json["keys"][0]
    assert seen["admitted"] == 2  # one slot, not three


def test_four_processes_are_admitted_exactly_what_the_quota_holds(
    service: ServiceProcess, key: str
) -> None:
    """A bucket of 300 that yields next to nothing meanwhile; each asks 200 times, both ways."""
    child = Path(__file__).with_name("asking_child.py")
    children = [
        subprocess.Popen(
            [sys.executable, str(child), service.url, ALICE, key, str(BURST), "200"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    counts = [json.loads(one.communicate(timeout=60)[0]) for one in children]
    assert sum(count["choked"] for count in counts) == BURST
    assert sum(count["api"] for count in counts) == BURST
    # All were denied at about the same time, and told the same instant.
    back = [count["back_at"] for count in counts if count["back_at"]]
    assert max(back) - min(back) < 20


def test_four_processes_that_wait_are_served_at_the_rate_and_no_faster(
    service: ServiceProcess, key: str
) -> None:
    """20 a second, a burst of 1, and 4 clients that come back exactly when they are told to."""
    child = Path(__file__).with_name("waiting_child.py")
    since = time.monotonic()
    children = [
        subprocess.Popen(
            [sys.executable, str(child), service.url, ALICE, key, "10"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    times = sorted(t for one in children for t in json.loads(one.communicate(timeout=60)[0]))
    assert len(times) == 40
    for number, instant in enumerate(times):
        assert instant >= since + number / 20 - 0.01
