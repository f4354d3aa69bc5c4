"""`headway limits` and the drop-in's `smartratelimit`, as programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from http_servers import EnforcingServer

from headway.smartratelimit import RateLimiter

NATIVE = ["-m", "headway", "limits"]
DROPIN = ["-m", "headway.dropin", "smartratelimit", "--", "-m", "smartratelimit"]


def run(*words: str, command: list[str] = NATIVE) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/limits.db"
    with RateLimiter(url) as limiter:
        limiter.set_limit("api.example.com", 100, "1h")
        limiter.set_limit("b.example", 7, "1m", "tokens")
    return url


@pytest.mark.parametrize("command", [NATIVE, DROPIN], ids=["headway", "drop-in"])
def test_status_tells_what_is_known(storage: str, command: list[str]) -> None:
    words = ("--storage", storage, "status", "--endpoint", "api.example.com")
    code, out, err = run(*words, command=command)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:4] == [
        "Endpoint: api.example.com",
        "  Limit: 100",
        "  Remaining: 100",
    ]


def test_status_of_the_unknown_ends_with_one(storage: str) -> None:
    code, out, _ = run("status", "nobody.example", "--storage", storage)
    assert code == 1
    assert "No rate limit information available" in out


def test_status_and_list_can_be_read_by_programs(storage: str) -> None:
    code, out, _ = run("--storage", storage, "--json", "status")
    assert code == 0
    assert json.loads(out)["https://api.example.com"]["limit"] == 100
    code, out, _ = run("list", "--storage", storage, "--json")
    assert [one["endpoint"] for one in json.loads(out)] == [
        "https://api.example.com",
        "https://b.example",
    ]


def test_clear_forgets_one_and_then_all(storage: str) -> None:
    code, out, _ = run("--storage", storage, "clear", "--endpoint", "b.example")
    assert (code, out) == (0, "Cleared rate limit data for: b.example\n")
    assert "b.example" not in run("--storage", storage, "list")[1]
    assert run("--storage", storage, "clear")[:2] == (0, "Cleared all rate limit data\n")
    assert run("--storage", storage, "list")[1].startswith("No endpoints tracked")


def test_probe_asks_and_tells() -> None:
    pytest.importorskip("requests")
    with EnforcingServer(dialect="github", limit=50, window=60.0) as server:
        code, out, _ = run("probe", server.url + "/users")
    assert code == 0
    for line in ("Response Status: 200", "  Limit: 50", "  Remaining: 49", "Limit: 50"):
        assert line in out


def test_probing_nobody_ends_with_one() -> None:
    pytest.importorskip("requests")
    code, _, err = run("probe", "http://127.0.0.1:1/")
    assert code == 1
    assert err.startswith("Error probing endpoint:")


def test_a_simulation_names_what_binds() -> None:
    code, out, _ = run("simulate", "--rpm", "60", "--requests", "120", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["binding"], told["wall_seconds"]) == ("requests", 60.0)
    assert "binding" in run("simulate", "--limit", "images=50/1h", "--requests", "60")[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["simulate", "--limit", "x"], "NAME=COUNT/WINDOW"),
        (["simulate"], "at least one limit"),
        (["simulate", "--limit", "x=1/1y"], "Invalid window"),
        (["--storage", "nowhere", "list"], "Unknown storage"),
        (["status", "http://"], "Invalid endpoint"),
    ],
)
def test_a_wrong_argument_ends_with_two_and_a_sentence(words: list[str], sentence: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert sentence in err


def test_a_storage_that_cannot_be_opened_ends_with_one(tmp_path: Path) -> None:
    code, _, err = run("--storage", f"sqlite:///{tmp_path}/no/limits.db", "list")
    assert code == 1
    assert err.startswith("Error: ")
