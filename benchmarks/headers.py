"""headers: what does it cost to read one response's headers?

Twenty headers, of which six speak of limits, as GitHub sends them. Beside it: smartratelimit's own
detector, which is given the headers in the mapping that it wants, made before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from benchmarks.contenders import count, has
from benchmarks.harness import HEADWAY, PEER, Contender, Settings, find, time_in_turn
from benchmarks.report import Report, Section, Target, rows_of

NAME = "headers"
MOST_NS = 2_000
URL = "https://api.github.com/users/octocat"

NOW = int(time.time())

GITHUB = {
    "Server": "github.com",
    "Date": formatdate(NOW, usegmt=True),
    "Content-Type": "application/json; charset=utf-8",
    "Cache-Control": "public, max-age=60, s-maxage=60",
    "Vary": "Accept,Accept-Encoding, Accept, X-Requested-With",
    "ETag": 'W/"f7ba9f8b2dd5a9a9b5f6c8d5d2a9d8f2"',
    "Last-Modified": "Tue, 14 Nov 2023 11:21:54 GMT",
    "X-RateLimit-Limit": "5000",
    "X-RateLimit-Remaining": "4987",
    "X-RateLimit-Reset": str(NOW + 3600),
    "X-RateLimit-Resource": "core",
    "X-RateLimit-Used": "13",
    "Access-Control-Allow-Origin": "*",
    "Strict-Transport-Security": "max-age=31536000; includeSubdomains; preload",
    "X-Frame-Options": "deny",
    "X-Content-Type-Options": "nosniff",
    "X-XSS-Protection": "0",
    "Referrer-Policy": "origin-when-cross-origin, strict-origin-when-cross-origin",
    "Content-Encoding": "gzip",
    "Content-Length": "489",
}
PLAIN = {name: value for name, value in GITHUB.items() if "RateLimit" not in name}
BURST = '"burst";q=100;w=60, "daily";q=1000;w=86400'
STRUCTURED = {**PLAIN, "RateLimit-Policy": BURST, "RateLimit": '"burst";r=50;t=30, "daily";r=9'}


def _headway(headers: object) -> Mapping[str, Any]:
    from headway._core import parse_headers

    return {"parse": parse_headers, "headers": headers}


def _smartratelimit() -> Mapping[str, Any]:
    from requests.structures import CaseInsensitiveDict
    from smartratelimit.detector import RateLimitDetector

    return {
        "detect": RateLimitDetector().detect_all,
        "url": URL,
        "headers": CaseInsensitiveDict(GITHUB),
    }


def contenders() -> list[Contender]:
    """Everything that is installed."""
    call = "parse(headers, 200)"
    found = [count()]
    if has("headway"):
        pairs = list(GITHUB.items())
        raw = [(name.encode(), value.encode()) for name, value in pairs]
        found += [
            Contender("headway, a dict", HEADWAY, call, lambda: _headway(GITHUB)),
            Contender("headway, pairs of bytes", HEADWAY, call, lambda: _headway(raw)),
            Contender("headway, structured fields", HEADWAY, call, lambda: _headway(STRUCTURED)),
            Contender("headway, nothing of limits", HEADWAY, call, lambda: _headway(PLAIN)),
            Contender(
                "headway, a dict, and .dimensions read",
                HEADWAY,
                "parse(headers, 200).dimensions",
                lambda: _headway(GITHUB),
            ),
        ]
    if has("smartratelimit"):
        found.append(
            Contender(
                "smartratelimit detect_all", PEER, "detect(url, 200, headers)", _smartratelimit
            )
        )
    return found


def run(settings: Settings) -> Report:
    """Measures and reports."""
    timings = time_in_turn(contenders(), settings)
    ours = find(timings, "headway, a dict")
    return Report(
        NAME,
        "The headers of one response",
        "Nanoseconds a call, the loop included; ratios to `d[key] += 1` of the same round. Twenty "
        "headers, of which six speak of limits (of the structured ones two).",
        [Section("One response", "ns", rows_of(timings, timings[0]), "`d[key] += 1`")],
        [Target("one response's headers, of a dict", ours.ns, MOST_NS, "ns")],
    )
