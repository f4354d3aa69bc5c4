"""The service: what does a decision add to a request of the HTTP library?

The service and an empty handler are both uvicorn with one worker, and wrk asks each the same in
turn, over 32 connections that stay open. The empty handler reads no body and decides nothing: it is
what the library can do. What matters is the ratio; the figures themselves are as much the machine's
and wrk's. Where wrk is not installed (apt-get install wrk), a program in Python asks, which is
itself most of what is measured: then the ratio flatters, and the report says so.

The bodies and queries that wrk sends name one key after the other, of 1000.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.harness import BASELINE, HEADWAY, Settings, spread, spread_of_ratios
from benchmarks.report import Report, Row, Section, Target

NAME = "service"
LEAST = 0.8
CONNECTIONS = 32
SECONDS = 2.0
KEYS = 1000
TOKEN = "a-token-of-the-benchmark"

EMPTY = """
import sys, uvicorn
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"83")]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"x" * 83})
uvicorn.run(
    app,
    port=int(sys.argv[1]),
    log_level="warning",
    access_log=False,
    proxy_headers=False,
    lifespan="off",
)
"""

WRK = """
local n = %d
local headers = {["Authorization"] = "Bearer %s", ["Content-Type"] = "application/json"}
local requests = {}
init = function()
  for i = 1, n do requests[i] = wrk.format("%s", string.gsub("%s", "KEY", i), headers, %s) end
end
local i = 0
request = function() i = i %% n + 1; return requests[i] end
"""

ASKING = """
import asyncio, sys, time
port, seconds, connections = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
data = sys.stdin.buffer.read()
async def ask(end):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.perf_counter() < end:
        writer.write(data)
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        count += 1
    writer.close()
    return count
async def main():
    end = time.perf_counter() + seconds
    print(sum(await asyncio.gather(*[ask(end) for _ in range(connections)])) / seconds)
asyncio.run(main())
"""

ACQUIRE = "/choked/acquire?" + urlencode(
    {
        "key": "user-KEY",
        "request_capacity": 10**9,
        "request_refill_rate": 10**9,
        "token_capacity": 0,
        "token_refill_rate": 0.0,
        "requests_needed": 1,
        "tokens_needed": 0,
    }
)
LIMIT = '{"key": "user-KEY", "quota": "1000000000/s"}'
ASKED = {
    "choked's protocol, GET /choked/acquire": ("GET", ACQUIRE, None),
    "the JSON API, POST /v1/limit": ("POST", "/v1/limit", LIMIT),
}


@contextlib.contextmanager
def _running(*command: str, port: int) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"{command[:2]} did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _rate(port: int, method: str, path: str, body: str | None, directory: Path) -> float:
    """Requests a second."""
    seconds = str(SECONDS)
    if shutil.which("wrk") is None:
        content = (body or "").replace("KEY", "1").encode()
        head = (
            f"{method} {path.replace('KEY', '1')} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", ASKING, str(port), seconds, str(CONNECTIONS)],
            input=head.encode() + content,
            capture_output=True,
            check=True,
        )
        return float(done.stdout)
    script = directory / "requests.lua"
    quoted = "nil" if body is None else f"(string.gsub('{body}', 'KEY', i))"
    script.write_text(WRK % (KEYS, TOKEN, method, path, quoted))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{int(SECONDS)}", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, check=True, text=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def run(settings: Settings) -> Report:
    """Measures and reports."""
    sections, targets = [], []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        tokens = directory / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"somebody:{TOKEN}\n")
        port = _free_port()
        empty = stack.enter_context(_running("-c", EMPTY, str(port), port=port))
        port = _free_port()
        options = ["--listen", f"127.0.0.1:{port}", "--token-file", str(tokens)]
        ours = stack.enter_context(_running("-m", "headway.serve", *options, port=port))
        for title, asked in ASKED.items():
            _rate(empty, *asked, directory)
            _rate(ours, *asked, directory)
            bare, mine = [], []
            for _ in range(settings.rounds):
                bare.append(_rate(empty, *asked, directory))
                mine.append(_rate(ours, *asked, directory))
            ratio = spread_of_ratios(mine, bare)
            rows = [
                Row("headway serve", HEADWAY, spread(mine), ratio),
                Row("uvicorn, an empty handler", BASELINE, spread(bare), spread([1.0])),
            ]
            base = "uvicorn, an empty handler"
            sections.append(Section(title, "requests/s", rows, base, more_is_better=True))
            targets.append(Target(title, ratio, LEAST, "x", at_least=True))
    notes = []
    if shutil.which("wrk") is None:
        notes.append("Asked by a program in Python, since wrk is not installed: ratios flatter.")
    return Report(
        NAME,
        "The service next to its HTTP library",
        f"{CONNECTIONS} connections that stay open ask one worker for {SECONDS:.0f} s, in turn.",
        sections,
        targets,
        notes,
    )
