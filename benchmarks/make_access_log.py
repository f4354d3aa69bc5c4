"""Write an access log that looks like a real one: the input of the replay benchmark.

What matters for a replay is how requests fall on clients and on time, so that is what is modelled:

- clients follow a zipf law (a few are heavy, most come once or twice), one in eight is IPv6;
- the day has a slow wave, and ordinary clients open pages in bursts of a few requests;
- bots: one crawls steadily, one hammers the login for a while, one sends a flood that ends quickly;
- a few lines are what servers really write: TLS bytes on a plain port, escaped quotes in a user
  agent, `-` for a size, a line that is logged a second or two late.

The same seed gives the same bytes. Usage:

    python benchmarks/make_access_log.py --lines 1000000 --out access.log [--gzip]
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import sys
from collections.abc import Iterator
from itertools import accumulate
from typing import BinaryIO

START = 1_709_251_200  # 2024-03-01 00:00:00 UTC
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

PATHS = [
    "/",
    "/index.html",
    "/login",
    "/search?q=rate+limit",
    "/api/v1/items?page=2",
    "/api/v1/items/4711",
    "/static/app.8f3a.js",
    "/static/site.css",
    "/images/logo.svg",
    "/cart",
    "/checkout",
    "/favicon.ico",
]
AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:123.0) Gecko/20100101 Firefox/123.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/122.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.3 Mobile/15E148 Safari/604.1",
    "curl/8.5.0",
    r"Odd\"Agent/1.0 (with a \"quoted\" part)",
]
BOT_AGENT = "ExampleBot/2.1 (+http://bot.example/info)"


def client_name(number: int) -> str:
    """The address of client `number`: IPv4 from documentation and private ranges, some IPv6."""
    if number % 8 == 7:
        return f"2001:db8:{number >> 8 & 0xFFFF:x}::{number & 0xFFFF:x}"
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def stamp_text(second: int) -> str:
    """A log's timestamp for a second since the epoch, at an offset of one hour."""
    import time

    t = time.gmtime(second + 3600)
    return (
        f"{t.tm_mday:02d}/{MONTHS[t.tm_mon - 1]}/{t.tm_year}:"
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} +0100"
    )


def arrivals(lines: int, clients: int, seconds: int, rng: random.Random) -> list[tuple[float, int]]:
    """(time, client) of every request, unsorted; clients below zero are the three bots."""
    weights = list(accumulate(1.0 / (rank + 1) ** 1.05 for rank in range(clients)))
    found: list[tuple[float, int]] = []
    crawler, login, flood = lines // 20, lines // 50, lines // 100
    found += [(seconds * i / crawler, -1) for i in range(crawler)]
    found += [(seconds * (0.3 + 0.1 * i / login), -2) for i in range(login)]
    found += [(seconds * 0.7 + 20.0 * i / flood, -3) for i in range(flood)]
    people = lines - len(found)
    while people > 0:
        at = rng.random() * seconds
        if rng.random() > 0.6 + 0.4 * math.sin(2 * math.pi * at / seconds):
            continue
        client = rng.choices(range(clients), cum_weights=weights)[0]
        for _ in range(min(people, 1 + int(rng.expovariate(0.35)))):
            found.append((min(at, seconds - 1e-6), client))
            at += rng.expovariate(4.0)
            people -= 1
    return found


def log_lines(
    lines: int, *, clients: int = 20_000, seconds: int = 7200, combined: bool = True, seed: int = 1
) -> Iterator[str]:
    """The lines of the log, each with its newline, in the order in which a server wrote them."""
    rng = random.Random(seed)
    for at, client in sorted(arrivals(lines, clients, seconds, rng)):
        draw = rng.random()
        second = START + int(at) - (2 if draw < 0.0005 else 0)
        if client < 0:
            name, path, agent = client_name(200 - client), "/products/" + str(int(at)), BOT_AGENT
            path = "/login" if client == -2 else path
        else:
            name = client_name(client)
            path = PATHS[int(draw * 7919) % len(PATHS)]
            agent = AGENTS[client % len(AGENTS)]
        method = "POST" if path == "/login" else "GET"
        request = r"\x16\x03\x01\x02" if 0.5 < draw < 0.5003 else f"{method} {path} HTTP/1.1"
        user = f"user{client % 50}" if client >= 0 and client % 10 == 0 else "-"
        status = 200 if draw < 0.9 else 404 if draw < 0.97 else 302
        size = "-" if status == 302 else str(200 + int(draw * 30_000))
        line = f'{name} - {user} [{stamp_text(second)}] "{request}" {status} {size}'
        yield line + (f' "-" "{agent}"\n' if combined else "\n")


def main(argv: list[str] | None = None) -> int:
    """Write the log that the arguments describe."""
    parser = argparse.ArgumentParser(description="Write a realistic access log.")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=20_000, help="ordinary clients")
    parser.add_argument("--seconds", type=int, default=7200, help="length of the log")
    parser.add_argument("--format", choices=("combined", "common"), default="combined")
    parser.add_argument("--gzip", action="store_true", help="compress what is written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="-", help="file to write, - for standard output")
    args = parser.parse_args(argv)
    lines = log_lines(
        args.lines,
        clients=args.clients,
        seconds=args.seconds,
        combined=args.format == "combined",
        seed=args.seed,
    )
    raw: BinaryIO = sys.stdout.buffer if args.out == "-" else open(args.out, "wb")  # noqa: SIM115
    out: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw, mode="wb") if args.gzip else raw
    try:
        out.writelines(line.encode("utf-8") for line in lines)
    finally:
        if out is not raw:
            out.close()
        if raw is not sys.stdout.buffer:
            raw.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
