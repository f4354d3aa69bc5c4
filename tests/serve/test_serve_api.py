"""The JSON API: what is asked, what is answered, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from service_help import ALICE, BOB, OPS, ServiceProcess, until


def limit(service: ServiceProcess, **question: object) -> Any:
    said = service.post("/v1/limit", question, ALICE)
    assert said.status == 200, said.body
    return said.json


def test_a_key_is_admitted_until_its_quota_is_used_and_told_when_to_come_back(
    service: ServiceProcess, key: str
) -> None:
    first = limit(service, key=key, quota="2/h", using="gcra")
    second = limit(service, key=key, quota="2/h", using="gcra")
    denied = limit(service, key=key, quota="2/h", using="gcra")
    assert first["limited"] is second["limited"] is False
    assert first["remaining"] == 1
    assert denied["limited"] is True
    assert denied["limit"] == 2
    assert denied["remaining"] == 0
    assert 1790 < denied["retry_after"] <= 1800
    assert 3590 < denied["reset_after"] <= 3600


def test_a_cost_is_taken_whole_or_not_at_all(service: ServiceProcess, key: str) -> None:
    assert limit(service, key=key, quota="10/h", cost=8)["remaining"] == 2
    assert limit(service, key=key, quota="10/h", cost=3)["limited"]
    assert limit(service, key=key, quota="10/h", cost=2)["remaining"] == 0


def test_a_cost_that_can_never_fit_has_no_retry_after(service: ServiceProcess, key: str) -> None:
    assert limit(service, key=key, quota="10/h", cost=11)["retry_after"] is None


def test_all_rules_of_a_quota_hold_written_as_text_or_as_a_list(
    service: ServiceProcess, key: str
) -> None:
    assert not limit(service, key=key, quota="2/h; 3/d")["limited"]
    assert not limit(service, key=key, quota=["2/h", "3/d"])["limited"]
    assert limit(service, key=key, quota="2/h; 3/d")["limited"]


@pytest.mark.parametrize(
    "using", ["gcra", "token_bucket", "leaking_bucket", "fixed_window", "sliding_window"]
)
def test_every_algorithm_can_be_asked(service: ServiceProcess, key: str, using: str) -> None:
    results = [limit(service, key=key, quota="3/d", using=using)["limited"] for _ in range(4)]
    assert results == [False, False, False, True]


def test_peek_takes_nothing_and_reset_gives_all_back(service: ServiceProcess, key: str) -> None:
    question = {"key": key, "quota": "2/h"}
    limit(service, **question)
    for _ in range(3):
        assert service.post("/v1/peek", question, ALICE).json["remaining"] == 1
    assert service.post("/v1/reset", question, ALICE).json == {"reset": True}
    assert service.post("/v1/peek", question, ALICE).json["remaining"] == 2


def test_a_batch_is_answered_in_its_order(service: ServiceProcess, key: str) -> None:
    questions = [{"key": f"{key}-{n % 2}", "quota": "2/h"} for n in range(6)]
    results = service.post("/v1/limit", {"requests": questions}, ALICE).json["results"]
    assert [result["limited"] for result in results] == [False] * 4 + [True] * 2
    peeks = service.post("/v1/peek", {"requests": questions[:2]}, ALICE).json["results"]
    assert [peek["remaining"] for peek in peeks] == [0, 0]


def test_a_batch_with_something_wrong_takes_nothing(service: ServiceProcess, key: str) -> None:
    questions = [{"key": key, "quota": "5/h"}, {"key": key, "quota": "5/h", "cost": -1}]
    said = service.post("/v1/limit", {"requests": questions}, ALICE)
    assert said.status == 400
    assert "requests[1]" in said.json["error"]
    assert "cost" in said.json["error"]
    assert service.post("/v1/peek", questions[0], ALICE).json["remaining"] == 5


def test_a_request_may_wait_for_its_turn(service: ServiceProcess, key: str) -> None:
    started = time.monotonic()
    limit(service, key=key, quota="2/s burst 1")
    assert not limit(service, key=key, quota="2/s burst 1", timeout=5)["limited"]
    assert time.monotonic() - started >= 0.5


def test_who_would_wait_longer_than_allowed_is_told_at_once(
    service: ServiceProcess, key: str
) -> None:
    limit(service, key=key, quota="1/h")
    started = time.monotonic()
    assert limit(service, key=key, quota="1/h", timeout=30)["limited"]
    assert time.monotonic() - started < 15


def test_a_client_that_leaves_takes_nothing_from_those_behind_it(
    service: ServiceProcess, key: str
) -> None:
    """One every two seconds. The second in line hangs up; the third is not served any later."""
    question = {"key": key, "quota": "1/2s"}
    limit(service, **question)
    body = json.dumps({**question, "timeout": 30}).encode()
    gone = service.connect()
    gone.request("POST", "/v1/limit", body, {"Authorization": f"Bearer {ALICE}"})

    def waiting() -> Any:
        return service.get("/v1/keys", ALICE, search=key).json["keys"][0]["waiting"]

    until(lambda: waiting() == 1, "the first waits")
    behind = threading.Thread(target=limit, args=(service,), kwargs={**question, "timeout": 30})
    behind.start()
    until(lambda: waiting() == 2, "the second waits")
    gone.close()
    until(lambda: waiting() == 1, "the first has left the line")
    behind.join(20)
    assert not behind.is_alive()
    assert service.get("/v1/keys", ALICE, search=key).json["keys"][0]["admitted"] == 2


WRONG: list[tuple[str, dict[str, object]]] = [
    ("key", {"key": ""}),
    ("key", {"key": None}),
    ("key", {"key": 5}),
    ("key", {"key": "x" * 1025}),
    ("key", {"key": "ü" * 600}),
    ("key", {"key": "\ud800"}),
    ("quota", {"quota": ""}),
    ("quota", {"quota": "lots"}),
    ("quota", {"quota": 5}),
    ("quota", {"quota": []}),
    ("quota", {"quota": "1/s;" * 100}),
    ("quota", {"quota": "99999999999999999999/s"}),
    ("cost", {"cost": -1}),
    ("cost", {"cost": 1.5}),
    ("cost", {"cost": True}),
    ("cost", {"cost": 10**30}),
    ("cost", {"cost": "1"}),
    ("using", {"using": "guessing"}),
    ("using", {"using": 7}),
    ("timeout", {"timeout": 0}),
    ("timeout", {"timeout": 1e9}),
    ("timeout", {"timeout": "soon"}),
    ("tenant", {"tenant": "nobody"}),
    ("qouta", {"qouta": "1/s"}),
]


@pytest.mark.parametrize(("field", "change"), WRONG, ids=[str(change)[:40] for _, change in WRONG])
def test_what_is_wrong_is_named(service: ServiceProcess, field: str, change: Any) -> None:
    said = service.post("/v1/limit", {"key": "k", "quota": "1/s", **change}, ALICE)
    assert said.status == (403 if field == "tenant" else 400)
    assert field in said.json["error"]
    assert len(said.body) < 1000


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_numbers_that_are_none_are_refused(service: ServiceProcess, number: str) -> None:
    for field in ("cost", "timeout"):
        body = f'{{"key": "k", "quota": "1/s", "{field}": {number}}}'.encode()
        said = service.ask("POST", "/v1/limit", body, ALICE)
        assert said.status == 400
        assert field in said.json["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b'{"key": "k"} x', b"\xff\xfe", b"[" * 30_000, b"{}"],
)
def test_a_body_that_is_no_question_is_refused(service: ServiceProcess, body: bytes) -> None:
    assert service.ask("POST", "/v1/limit", body, ALICE).status == 400


def test_a_body_that_is_too_large_is_refused(service: ServiceProcess) -> None:
    body = b'{"key": "' + b"x" * 70_000 + b'"}'
    assert service.ask("POST", "/v1/limit", body, ALICE).status == 413
    chunked = service.connect()
    chunked.request(
        "POST",
        "/v1/limit",
        iter([b"x" * 40_000] * 3),
        {"Authorization": f"Bearer {ALICE}"},
        encode_chunked=True,
    )
    assert chunked.getresponse().status == 413
    chunked.close()


def test_a_batch_that_is_too_long_is_refused(service: ServiceProcess) -> None:
    one = {"key": "k", "quota": "1/s"}
    assert service.post("/v1/limit", {"requests": [one] * 101}, ALICE).status == 413
    assert service.post("/v1/limit", {"requests": []}, ALICE).status == 400


def test_other_methods_and_paths_are_refused(service: ServiceProcess) -> None:
    said = service.ask("GET", "/v1/limit", token=ALICE)
    assert said.status == 405
    assert said.headers["allow"] == "POST"
    assert service.get("/v1/nothing", ALICE).status == 404
    assert service.get("/static/../app.py", ALICE).status == 404
    assert service.get("/static/%2e%2e/app.py", ALICE).status == 404


def test_keys_are_listed_searched_and_counted(service: ServiceProcess, key: str) -> None:
    for _ in range(3):
        limit(service, key=f"{key}-busy", quota="2/h")
    limit(service, key=f"{key}-calm", quota="2/h")
    listed = service.get("/v1/keys", ALICE, search=key, sort="denied").json
    assert listed["total"] == 2
    first, second = listed["keys"]
    assert (first["key"], first["admitted"], first["denied"]) == (f"{key}-busy", 2, 1)
    assert (second["key"], second["admitted"], second["denied"]) == (f"{key}-calm", 1, 0)
    assert (first["algorithm"], first["quota"], first["limit"]) == ("token_bucket", "2/h", 2)
    assert service.get("/v1/keys", ALICE, search=key, limit=1).json["total"] == 2
    assert service.get("/v1/keys", BOB, search=key).json["total"] == 0


@pytest.mark.parametrize("wrong", [{"sort": "luck"}, {"limit": "-1"}, {"limit": "many"}, {"x": 1}])
def test_a_list_that_cannot_be_made_names_the_parameter(
    service: ServiceProcess, wrong: dict[str, object]
) -> None:
    said = service.get("/v1/keys", ALICE, **wrong)
    assert said.status == 400
    assert next(iter(wrong)) in said.json["error"]


def test_a_parameter_of_the_list_is_given_once(service: ServiceProcess) -> None:
    said = service.ask("GET", "/v1/keys?limit=1&limit=2", token=ALICE)
    assert said.status == 400
    assert said.json["error"] == "Invalid limit: given more than once."


def test_metrics_count_what_was_decided(service: ServiceProcess, key: str) -> None:
    limit(service, key=key, quota="1/h")
    text = service.get("/metrics", OPS).body.decode()
    assert 'headway_serve_decisions_total{outcome="admitted",tenant="alice"}' in text
    assert 'headway_serve_responses_total{route="/v1/limit",status="200"}' in text
    assert service.get("/metrics").status == 401
