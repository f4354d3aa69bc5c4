"""The documents keep their word: every Python block runs verbatim, through the drop-in.

Each block is a program of its own in a new interpreter, started as a user would:
`python -m headway.dropin NAME -- block.py`. Where a document says what is printed, or how long
something takes, that is checked too. Blocks that are only a signature are compared with ours.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from document_blocks import CALLS, DATA, DOCUMENTS, Block, all_blocks
from servers import RedisServer

from headway import Quota, Rate, RateLimitResult, RateLimitState, TokenBucket

HERE = Path(__file__).parent
DEADLINE_S = 120
BLOCKS = all_blocks()
ON_REDIS = {
    "throttled/redis": {},
    "choked/redis-setup-recommended": {"REDIS_URL": "redis://localhost:6379/0"},
}
"""Blocks that are given a server where their document has it, and the settings it sets before."""
SLOW = {
    "limiters/token-bucket",
    "throttled/wait-retry",
    "token-bucket/wait-method-2",
    "token-bucket/example-2-blocking-pattern-with-wait",
}
SETTINGS = {"REDIS_URL", "CHOKED_API_TOKEN"}
"""What choked and limiters read by themselves; where it is not set they keep their state in the
process."""
DENIAL = "Rate limit exceeded: remaining=0, reset_after=60, retry_after=60."


@dataclass(frozen=True)
class Outcome:
    """What a program printed, how it ended, and how long that took."""

    status: int
    out: str
    err: str
    seconds: float


Run = Callable[..., Outcome]
Check = Callable[[Outcome], None]
CHECKS: dict[str, Check] = {}


def of_block(name: str) -> Callable[[Check], Check]:
    """Register what must hold of a block's outcome, besides ending without an error."""

    def register(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return register


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server_port() -> Iterator[int]:
    """The port of an HTTP server that answers every path; the documents' hosts are played by it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path, server_port: int) -> Run:
    """Run a block in a new interpreter, with its document's package played by the drop-in."""

    def run_block(block: Block, settings: Mapping[str, str] | None = None) -> Outcome:
        file = tmp_path / "block.py"
        file.write_text(block.program(), encoding="utf-8")
        command = [sys.executable, "-m", "headway.dropin", DOCUMENTS[block.document], "--"]
        path = [str(HERE / "stand_ins"), os.environ.get("PYTHONPATH", "")]
        started = time.monotonic()
        done = subprocess.run(
            [*command, str(file)],
            env={
                **{name: value for name, value in os.environ.items() if name not in SETTINGS},
                **(settings or ON_REDIS.get(block.name, {})),
                "DOCUMENT_SERVER_PORT": str(server_port),
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "PYTHONUTF8": "1",
            },
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_S,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    return run_block


def _blocks() -> list[object]:
    params = []
    for name, block in BLOCKS.items():
        if block.is_signature:
            continue
        marks = [pytest.mark.slow] if name in SLOW else []
        params.append(pytest.param(block, id=name, marks=marks))
    return params


@pytest.mark.parametrize("block", _blocks())
def test_a_block_runs_verbatim_and_does_what_its_document_says(
    block: Block, run: Run, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("usual_server") if block.name in ON_REDIS else None
    outcome = run(block)
    CHECKS.get(block.name, ends_well)(outcome)
    if server is not None:  # the limit is where the document says
        assert server.command("DBSIZE") == 1


@pytest.mark.parametrize(
    "block", [block for block in _blocks() if "limiters/" in str(getattr(block, "id", ""))]
)
def test_a_block_of_limiters_runs_on_a_server_too(
    block: Block, run: Run, own_server: RedisServer
) -> None:
    outcome = run(block, {"REDIS_URL": own_server.url})
    CHECKS.get(block.name, ends_well)(outcome)
    assert "cmdstat_evalsha" in own_server.info("commandstats")


def test_every_expectation_belongs_to_a_block() -> None:
    assert CHECKS.keys() | CALLS.keys() | ON_REDIS.keys() | SLOW <= BLOCKS.keys()


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=n) for n, b in BLOCKS.items() if b.is_signature]
)
def test_a_signature_is_the_one_in_the_document(block: Block) -> None:
    scope: dict[str, Callable[..., object]] = {}
    exec(f"def {block.code.strip()}: ...", {}, scope)
    ((name, documented),) = scope.items()
    ours = TokenBucket if name == "TokenBucket" else getattr(TokenBucket, name)

    expected = list(inspect.signature(documented).parameters.values())
    actual = [p for p in inspect.signature(ours).parameters.values() if p.name != "self"]

    assert [(p.name, p.default) for p in actual[: len(expected)]] == [
        (p.name, p.default) for p in expected
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in actual[len(expected) :])


@pytest.mark.parametrize(
    "type_", [RateLimitResult, RateLimitState, Quota, Rate], ids=lambda type_: str(type_.__name__)
)
def test_every_field_in_the_tables_of_data_models_is_there(type_: type) -> None:
    text = (DATA / "throttled.md").read_text(encoding="utf-8")
    section = re.search(rf"^### \d\) {type_.__name__}\n(.*?)^###? ", text, re.MULTILINE | re.DOTALL)
    assert section
    fields = re.findall(r"^\| `(\w+)`", section[1], re.MULTILINE)

    assert fields
    assert [field for field in fields if not hasattr(type_, field)] == []


# What the documents say of single blocks.


def ends_well(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match, text
    return int(match[1])


@of_block("throttled/example")
def a_bucket_of_a_thousand_denies_the_rest(outcome: Outcome) -> None:
    ends_well(outcome)
    assert re.search(
        r"^✅ Total: 100000, 🕒 Latency: \d+\.\d{4} ms/op, 🚀 Throughput: \d+ req/s \(--\)$",
        outcome.out,
        re.MULTILINE,
    )
    admitted = 100_000 - number(r"Denied: (\d+) requests", outcome.out)
    assert 1_000 <= admitted <= 1_000 + 1_000 * outcome.seconds


@of_block("throttled/asynchronous")
def a_bucket_of_a_thousand_denies_the_rest_of_the_tasks(outcome: Outcome) -> None:
    ends_well(outcome)
    admitted = 100_000 - number(r"Denied: (\d+) requests", outcome.out)
    assert 1_000 <= admitted <= 1_000 + 1_000 * outcome.seconds


@of_block("throttled/function-call")
def results_print_as_documented(outcome: Outcome) -> None:
    ends_well(outcome)
    # The document's comment has retry_after=60 in the last line, where its own library prints 1:
    # 60 tokens are asked for, 59 are there, and one comes each second.
    assert outcome.out.splitlines() == [
        "RateLimitResult(limited=False, "
        "state=RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0))",
        "RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=0)",
        "RateLimitResult(limited=True, "
        "state=RateLimitState(limit=60, remaining=59, reset_after=1, retry_after=1))",
    ]


@of_block("throttled/decorator")
def the_denial_says_how_long_to_wait(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.splitlines() == [DENIAL]


@of_block("throttled/context-manager")
def the_context_manager_admits_once(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.splitlines() == ["limited: False", "doing something...", DENIAL]


@of_block("throttled/wait-retry")
def waiting_keeps_the_rate_and_loses_nobody(outcome: Outcome) -> None:
    ends_well(outcome)
    assert number(r"Denied: (\d+) requests", outcome.out) == 0
    assert number(r"Throughput: (\d+) req/s", outcome.out) <= 112


@of_block("throttled/redis")
def the_second_call_is_denied_by_the_server(outcome: Outcome) -> None:
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == f"headway.exceptions.LimitedError: {DENIAL}"


@of_block("throttled/in-memory")
def two_functions_share_one_key(outcome: Outcome) -> None:
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == f"headway.exceptions.LimitedError: {DENIAL}"


def prints(*lines: str) -> Check:
    """What holds of a block that ends well and prints these lines."""

    def check(outcome: Outcome) -> None:
        ends_well(outcome)
        assert outcome.out.splitlines() == list(lines)

    return check


CHECKS["choked/sync-async-usage"] = prints()
CHECKS["choked/perfect-for-multi-worker-applications"] = prints("answer")
CHECKS["choked/redis-setup-recommended"] = prints("Shared across all processes!")
CHECKS["choked/shared-rate-limits"] = prints("AB 8")  # one bucket: 8 of 10 are left
CHECKS["choked/token-based-api-integration"] = prints("gpt-4 was told: Hello")
CHECKS["choked/multi-worker-web-scraping"] = prints('{"path": "/page"}')
CHECKS["choked/database-operations"] = prints("query")


@of_block("limiters/token-bucket")
@of_block("limiters/token-bucket-2")
def the_tokens_above_five_come_one_a_second(outcome: Outcome) -> None:
    ends_well(outcome)
    calls = len(outcome.out.splitlines())
    assert calls >= 6
    assert outcome.seconds >= calls - 5


@of_block("limiters/semaphore")
def a_hundred_requests_go_through_the_semaphore(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.splitlines() == ["GET ..."] * 100


CHECKS["limiters/semaphore-2"] = prints("GET ...", "GET ...")


@of_block("token-bucket/5-line-basic-example")
def the_first_request_is_allowed(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out == "Request allowed!\n"


@of_block("token-bucket/allow-method-2")
def allow_takes_one_five_and_a_half(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.splitlines() == [
        "Request allowed",
        "Batch operation allowed",
        "Half request allowed",
    ]


@of_block("token-bucket/wait-method-2")
def wait_takes_more_than_the_capacity_in_its_time(outcome: Outcome) -> None:
    ends_well(outcome)
    assert len(outcome.out.splitlines()) == 3
    assert outcome.seconds >= 1.1  # 16 tokens, 5 there, 10 a second


@of_block("token-bucket/try-consume-method-2")
def try_consume_is_allow(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out == "Successfully consumed 2 tokens\n"


@of_block("token-bucket/example-1-basic-rate-limiting-non-blocking")
def the_answer_of_the_server_is_printed(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out == "{'path': '/users/123'}\n"


@of_block("token-bucket/example-2-blocking-pattern-with-wait")
def a_hundred_requests_take_nine_seconds(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.splitlines() == [f"Processing request {i}" for i in range(100)]
    assert outcome.seconds >= 9


@of_block("token-bucket/example-3-rate-limiting-http-requests")
def five_of_twenty_requests_go_out(outcome: Outcome) -> None:
    ends_well(outcome)
    sent, limited = outcome.out.count(": 200"), outcome.out.count("rate limited")
    assert sent + limited == 20
    assert 5 <= sent <= 5 + 2 * outcome.seconds


@of_block("token-bucket/example-4-concurrent-usage-with-threads")
def five_workers_do_fifty_operations(outcome: Outcome) -> None:
    ends_well(outcome)
    assert len(re.findall(r"Worker \d operation \d", outcome.out)) == 50
    assert outcome.out.endswith("All workers completed\n")
    assert outcome.seconds >= 0.3  # 50 tokens, 20 there, 100 a second


@of_block("token-bucket/scenario-4-fractional-tokens-for-weighted-operations")
def operations_of_each_weight_are_allowed(outcome: Outcome) -> None:
    ends_well(outcome)
    assert outcome.out.split() == ["light", "medium", "heavy"]


@of_block("token-bucket/thread-safety")
def ten_threads_get_what_the_bucket_holds(outcome: Outcome) -> None:
    ends_well(outcome)
    got = len(re.findall(r"Worker \d got token \d+", outcome.out))
    assert 100 <= got <= 100 + 100 * outcome.seconds
