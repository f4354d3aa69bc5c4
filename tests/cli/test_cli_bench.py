"""`headway bench`: that it measures what it says, and leaves nothing behind. How fast anything is,
no test asserts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_outcome import Outcome
from servers import RedisServer

from headway import Throttled
from headway.commands.bench import measuring

Run = Callable[..., Outcome]
SHORT = ("--seconds", "0.05")


def test_without_a_store_it_measures_what_is_there(here: Run) -> None:
    outcome = here("bench", *SHORT, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    names = {row["store"] for row in outcome.json["rows"]}
    assert {"memory", "SQLite"} <= names


def test_a_store_has_a_row_for_a_thread_for_threads_and_for_tasks(here: Run) -> None:
    words = ("--store", "memory://", "--threads", "2", "--tasks", "3")
    rows = here("bench", *SHORT, *words, "--json").json["rows"]
    assert [row["how"] for row in rows] == ["1 thread", "2 threads", "3 tasks"]
    for row in rows:
        assert row["per_second"] > 0
        assert 0 <= row["p50"] <= row["p99"]
        assert row["increments"] > 0
    text = here("bench", *SHORT, *words).out
    assert [line.split()[:3] for line in text.splitlines()[1:4]] == [
        ["memory://", "1", "thread"],
        ["memory://", "2", "threads"],
        ["memory://", "3", "tasks"],
    ]


def test_one_thread_and_one_task_are_two_rows(here: Run) -> None:
    words = ("--store", "memory://", "--threads", "1", "--tasks", "1")
    rows = here("bench", *SHORT, *words, "--json").json["rows"]
    assert [row["how"] for row in rows] == ["1 thread", "1 task"]


def test_a_server_is_measured_and_its_keyspace_left_as_it_was(
    redis_server: RedisServer, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    outcome = here("bench", *SHORT, "--json")
    shown = redis_server.url.replace("s3cret", "***")
    assert len([row for row in outcome.json["rows"] if row["store"] == shown]) == 3
    assert "s3cret" not in outcome.out
    assert redis_server.command("DBSIZE") == 0


def test_a_file_is_measured_and_left_as_it_was(tmp_path: Path, here: Run) -> None:
    url = f"sqlite:///{tmp_path}/limits.db"
    Throttled(key="alice", quota="5/h", store=url).limit()
    assert here("bench", *SHORT, "--store", url).code == 0
    with sqlite3.connect(tmp_path / "limits.db") as connection:
        assert connection.execute("SELECT count(*) FROM headway_states").fetchone() == (1,)


def test_a_store_that_does_not_answer_is_told_and_the_others_are_measured(here: Run) -> None:
    words = ("--store", "redis://:pa55@127.0.0.1:1/0", "--store", "memory://")
    outcome = here("bench", *SHORT, *words, "--json")
    assert outcome.code == 69
    assert {row["store"] for row in outcome.json["rows"]} == {"memory://"}
    assert outcome.err.startswith("headway bench: redis://:***@127.0.0.1:1/0 cannot answer")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threads", "0"], ["--threads", "'0'", "1 to 256"]),
        (["--tasks", "-1"], ["--tasks", "'-1'"]),
        (["--tasks", "9" * 5000], ["--tasks", "1 to 10000"]),
        (["--seconds", "nan"], ["--seconds", "'nan'", "0.05 to 60"]),
        (["--seconds", "1e9"], ["--seconds", "'1e9'"]),
        (["--store", "nowhere"], ["--store", "'nowhere'"]),
        (["--store", "http://127.0.0.1:1"], ["--store", "wrk"]),
        (["--store", "memory://", "--store", "sqlite:///no.db"], ["--store", "names no file"]),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_before_anything_is_measured(
    words: list[str], said: list[str], here: Run
) -> None:
    here("bench", *words).is_refused(2, "headway bench: ", *said)


def test_the_rate_counts_every_call_of_every_thread() -> None:
    calls: list[None] = []
    counted = measuring._repeated(lambda: calls.append(None), 10, 0.0)
    assert counted == len(calls) == 10  # who comes late has a turn too
    rate = measuring._rate(lambda: lambda: calls.append(None), 3, 0.02)
    assert rate > 0


def test_what_one_thread_raises_is_raised() -> None:
    def fail() -> None:
        raise LookupError("in a thread")

    with pytest.raises(LookupError, match="in a thread"):
        measuring._together(fail, 3)
