"""`headway top` for pipes and programs: `--once`, `--json`, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers import RedisServer

from headway import RateLimitResult, RateLimitState, Throttled
from headway._snapshot import KeyActivity, Snapshot
from headway.activity import Activity
from headway.top.rates import Rates


def top(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headway.top", *arguments],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONUTF8": "1"} | environment,
        timeout=60,
        check=False,
    )


@pytest.fixture
def busy(server: RedisServer) -> RedisServer:
    """A server with what somebody has published."""
    activity = Activity(publish=server.url)
    for key, denied in (("alice", 1), ("bob", 3), ("evil\n\x1b[31m", 2)):
        for _ in range(denied):
            state = RateLimitState(10, 0, 60)
            activity.record(key, "gcra", "10/m", RateLimitResult(True, state))
    activity.publish()
    return server


def test_without_a_terminal_a_table_is_printed_once(busy: RedisServer) -> None:
    done = top(busy.url)
    assert done.returncode == 0, done.stderr
    head, columns, *rows = done.stdout.splitlines()
    assert head.endswith("3 keys   0 admitted, 6 denied in all")
    assert columns.split()[:4] == ["key", "quota", "algorithm", "admitted"]
    assert [row.split()[0] for row in rows] == ["bob", "evil\\n\\x1b[31m", "alice"]
    assert rows[0].split()[1:8] == ["10/m", "gcra", "0", "3", "0", "of", "10"]


def test_the_server_may_be_named_by_the_environment(busy: RedisServer) -> None:
    done = top("--once", "--sort", "key", "--limit", "1", REDIS_URL=busy.url)
    assert done.stdout.splitlines()[2].startswith("alice")
    assert done.stdout.splitlines()[3] == "… and 2 more (--limit)"


def test_json_is_printed_once(busy: RedisServer) -> None:
    done = top(busy.url, "--once", "--json", "--search", "BOB")
    data = json.loads(done.stdout)
    assert (data["total"], data["denied"], data["denied_rate"]) == (1, 6, None)
    (bob,) = data["keys"]
    assert (bob["key"], bob["denied"], bob["remaining"]) == ("bob", 3, 0)


def test_json_is_streamed_with_rates_a_line_each_interval(busy: RedisServer) -> None:
    command = [sys.executable, "-m", "headway.top", busy.url, "--json", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.stdout.close()  # whoever read has gone
        assert process.wait(20) == 141
    assert [line["denied_rate"] for line in lines] == [None, 0.0, 0.0]
    assert lines[0]["now"] < lines[1]["now"] < lines[2]["now"]


def test_a_server_to_which_nobody_publishes_shows_its_keys(server: RedisServer) -> None:
    for using in ("token_bucket", "gcra", "fixed_window", "sliding_window"):
        Throttled(quota="10/h", using=using, store=server.url).limit(f"key of {using}")
    Throttled(quota="5/m; 100/h", store=server.url).limit("two } rules")
    server.command("SET", "other:v1:gcra:{broken}", "no state")
    server.command("SET", "somebody:else", "1")
    done = top(server.url, "--once", "--json", "--sort", "key")
    keys = {(key["key"], key["algorithm"], key["quota"]) for key in json.loads(done.stdout)["keys"]}
    assert keys == {
        ("key of token_bucket", "token_bucket", ""),
        ("key of gcra", "gcra", ""),
        ("key of fixed_window", "fixed_window", ""),
        ("key of sliding_window", "sliding_window", ""),
        ("two } rules", "token_bucket", "rule of 60 s"),
        ("two } rules", "token_bucket", "rule of 3600 s"),
    }
    assert "nobody publishes there: keys only" in top(server.url).stdout


class Stub(BaseHTTPRequestHandler):
    """A service that answers what the test says."""

    answer: ClassVar[tuple[int, Any]] = (200, {})
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status, data = self.answer
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard error is pytest's."""


@pytest.fixture
def service() -> Iterator[str]:
    Stub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def snapshot(**more: Any) -> dict[str, Any]:
    row = {"key": "k", "algorithm": "gcra", "quota": "1/s", "limit": 1, "remaining": 0}
    row |= {"admitted": 1, "denied": 2, "waiting": 0, "reset_after": 0.5}
    return {"now": 1.0, "admitted": 1, "denied": 2, "total": 1, "keys": [row | more]}


def test_a_service_is_asked_with_its_token(service: str, tmp_path: Path) -> None:
    Stub.answer = (200, snapshot())
    token = tmp_path / "token"
    token.write_text("a-secret\n")
    arguments = (service, "--search", "ä b", "--limit", "5000", "--token-file", str(token))
    done = top("--once", "--json", *arguments)
    assert json.loads(done.stdout)["keys"][0]["key"] == "k"
    assert Stub.asked == [
        ("/v1/keys?search=%C3%A4+b&sort=denied&limit=1000", "Bearer a-secret"),
    ]


def test_keys_of_tenants_are_told_apart(service: str) -> None:
    Stub.answer = (200, snapshot(tenant="alice"))
    assert json.loads(top(service, "--once", "--json").stdout)["keys"][0]["key"] == "alice: k"
    Stub.answer = (200, snapshot(tenant="default"))
    assert json.loads(top(service, "--once", "--json").stdout)["keys"][0]["key"] == "k"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((401, {}), 2, "asks for a token; give --token-file, or set HEADWAY_TOKEN"),
        ((503, {}), 69, "cannot answer: it says 503"),
        ((200, {"keys": 5}), 69, "is not what a headway serve says"),
        ((200, []), 69, "is not what a headway serve says"),
        ((200, snapshot(limit="many")), 69, "is not what a headway serve says"),
    ],
)
def test_a_service_that_gives_no_snapshot_is_said(
    service: str, answer: tuple[int, Any], code: int, said: str
) -> None:
    Stub.answer = answer
    done = top(service, "--once")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_token_that_is_not_accepted_is_never_printed(service: str) -> None:
    Stub.answer = (401, {})
    done = top(service, "--once", HEADWAY_TOKEN="a-secret")
    assert "does not accept the token" in done.stderr
    assert "a-secret" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "argument SOURCE: not given, and REDIS_URL is not set; must be redis://"),
        (("localhost",), "argument SOURCE: 'localhost', must be redis://"),
        (("memory://",), "memory of one process"),
        (("sqlite:///x",), "nothing is published there"),
        (("ftp://u:secret@host",), "'ftp://"),
        (("http://",), "argument SOURCE"),
        (("redis://h:bad",), "argument SOURCE: 'redis://h:bad'"),
        (("redis://h", "--token-file", "x"), "only a service asks for a token"),
        (("http://127.0.0.1:1", "--token-file", "/nowhere/x"), "argument --token-file"),
        (("--interval", "0"), "argument --interval"),
        (("--limit", "-1"), "argument --limit"),
        (("--sort", "size"), "argument --sort"),
    ],
)
def test_a_wrong_argument_is_one_line_that_says_what_would_do(
    arguments: tuple[str, ...], said: str
) -> None:
    done = top(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_does_not_answer_is_exit_code_69() -> None:
    done = top("redis://:secret@127.0.0.1:1", "--once")
    assert done.returncode == 69
    assert "Connection refused" in done.stderr
    assert "secret" not in done.stderr


def one(now: float, denied: int) -> Snapshot:
    key = KeyActivity("k", "gcra", "", 1, 0, 0, denied, 0, 0.0, now)
    return Snapshot(now, 0, denied, 1, (key,))


def test_a_rate_is_the_growth_since_the_snapshot_before() -> None:
    rates = Rates()
    assert rates.take(one(0, 5)).rows[0].denied_rate is None
    assert rates.take(one(2, 9)).rows[0].denied_rate == 2
    assert rates.take(one(3, 9)).denied_rate == 0


def test_a_count_that_went_down_has_no_rate() -> None:
    rates = Rates()
    rates.take(one(0, 5))
    assert rates.take(one(1, 2)).denied_rate is None
    assert rates.take(one(2, 4)).denied_rate == 2


def test_a_window_makes_rates_steady() -> None:
    rates = Rates(window=3)
    steps = [0, 0, 20, 20, 40, 40, 60, 60]
    seen = [rates.take(one(i, count)).denied_rate for i, count in enumerate(steps)]
    assert seen[3:] == pytest.approx([20 / 3, 40 / 3, 20 / 3, 40 / 3, 20 / 3])
