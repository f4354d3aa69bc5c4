"""Does reading a response's headers leave anything behind? Observations, and errors on the way."""

from __future__ import annotations

import contextlib
import pickle
from collections import UserDict
from types import MappingProxyType
from typing import Any

from measuring import Case, main

from headway import DataError
from headway._core import Observation, ObservedDimension, parse_headers

HEADERS = {
    "Date": "Tue, 14 Nov 2023 22:13:20 GMT",
    "Content-Type": "application/json",
    "X-RateLimit-Limit": "60, 60;w=60, 1000;w=3600",
    "X-RateLimit-Remaining": "58",
    "X-RateLimit-Reset": "1700003600",
    "RateLimit": '"burst";r=50;t=30;pk=:YQ==:',
    "Retry-After": "5",
}
PAIRS = list(HEADERS.items())
BYTES = [(name.encode(), value.encode()) for name, value in PAIRS]
OWN = {"limit": "X-My-Limit", "resource": "X-My-Resource"}
SEEN = parse_headers(HEADERS, 429)
DIMENSION = ObservedDimension(("cost", "", 10, 5, 20.0, 1.5, "after"))
PICKLE = pickle.dumps(SEEN)
OTHER, PROXY = UserDict(HEADERS), MappingProxyType(HEADERS)


def refused(*arguments: Any) -> None:
    with contextlib.suppress(DataError):
        parse_headers(*arguments)


def refused_by_hand() -> None:
    with contextlib.suppress(DataError):
        Observation([DIMENSION, ObservedDimension(("x" * 64, "", None, None, None, None, None))])


CASES = [
    Case("dict", lambda: parse_headers(HEADERS, 429), watched=(HEADERS,)),
    Case("pairs", lambda: parse_headers(PAIRS, 429), watched=(PAIRS,)),
    Case("bytes", lambda: parse_headers(BYTES, 200, 1.7e9)),
    Case("mapping", lambda: parse_headers(OTHER, 200), 0.05),
    Case("proxy", lambda: parse_headers(PROXY, 200), 0.3),
    Case("iterator", lambda: parse_headers(iter([["A", "b"], ("C", "d")]), 200), 0.3),
    Case("own_names", lambda: parse_headers(HEADERS, 200, None, OWN), 0.5, watched=(OWN,)),
    Case("wrong_value", lambda: refused({"A": 5}, 200), 0.2),
    Case("wrong_pair", lambda: refused([("A", "b"), ("C",)], 200), 0.2),
    Case("wrong_map", lambda: refused({}, 200, None, {"limit": "X", "limits": "Y"}), 0.2),
    Case("dimensions", lambda: SEEN.dimensions, 0.5),
    Case("reads", lambda: (SEEN.date, SEEN.retry_after, SEEN.retry_for_all, SEEN.ignored)),
    Case("equal", lambda: (parse_headers(PAIRS, 429) == SEEN, hash(SEEN)), 0.2),
    Case("repr", lambda: repr(SEEN), 0.1),
    Case("pickle", lambda: pickle.dumps(SEEN), 0.05),
    Case("unpickle", lambda: pickle.loads(PICKLE), 0.05),
    Case("by_hand", lambda: Observation([DIMENSION], 1.7e9, 5.0), watched=(DIMENSION,)),
    Case("refused_by_hand", refused_by_hand, 0.2),
]

if __name__ == "__main__":
    main(CASES)
