"""parse_headers takes whatever a client library holds its headers in; an Observation is a value."""

from __future__ import annotations

import pickle
import sys
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from headway import DataError
from headway._core import Observation, ObservedDimension, parse_headers
from headway.clock import now_ns

PAIRS = [("X-RateLimit-Limit", "60"), ("X-RateLimit-Remaining", "59"), ("Retry-After", "5")]
WANTED = parse_headers(PAIRS, 429)


class Subclass(dict[str, str]):
    """A dict whose own items() count."""

    def items(self) -> Any:
        return PAIRS


def requests_headers() -> Any:
    structures = pytest.importorskip("requests.structures")
    return structures.CaseInsensitiveDict(PAIRS)


def httpx_headers() -> Any:
    return pytest.importorskip("httpx").Headers(PAIRS)


def httpx_raw() -> Any:
    return pytest.importorskip("httpx").Headers(PAIRS).raw


def aiohttp_headers() -> Any:
    multidict = pytest.importorskip("multidict")
    return multidict.CIMultiDictProxy(multidict.CIMultiDict(PAIRS))


HOLDERS: dict[str, Callable[[], Any]] = {
    "dict": lambda: dict(PAIRS),
    "list": lambda: list(PAIRS),
    "tuple": lambda: tuple(PAIRS),
    "bytes": lambda: [(n.encode(), v.encode()) for n, v in PAIRS],
    "dict of bytes": lambda: {n.encode(): v.encode() for n, v in PAIRS},
    "lists of two": lambda: [list(pair) for pair in PAIRS],
    "an iterator": lambda: iter(PAIRS),
    "a generator": lambda: ([n, v] for n, v in PAIRS),
    "another mapping": lambda: UserDict(PAIRS),
    "a mapping proxy": lambda: MappingProxyType(dict(PAIRS)),
    "a subclass of dict": lambda: Subclass({"X-RateLimit-Limit": "1"}),
    "requests": requests_headers,
    "httpx": httpx_headers,
    "httpx, as it came": httpx_raw,
    "aiohttp": aiohttp_headers,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_headers_may_be_held_in_anything(holder: str) -> None:
    assert parse_headers(HOLDERS[holder](), 429) == WANTED


def test_a_repeated_header_is_told_apart_by_pairs() -> None:
    seen = parse_headers([("RateLimit", '"a";r=1'), ("ratelimit", '"b";r=2')], 200)
    assert [dimension.name for dimension in seen.dimensions] == ["a", "b"]


def test_text_beyond_latin_1_is_a_bad_value() -> None:
    seen = parse_headers({"X-RateLimit-Limit": "６０", "X-RateLimit-Remaining": "5", "Ж": "x"}, 200)
    assert seen.ignored == 1
    assert seen.dimensions[0][2:4] == (None, 5)


def test_nobody_is_needed_to_say_anything() -> None:
    for nothing in ({}, [], (), iter(())):
        seen = parse_headers(nothing, 200)  # type: ignore[arg-type]
        assert not seen
        assert seen == Observation()


def failing() -> Iterator[tuple[str, str]]:
    yield ("A", "b")
    raise KeyError("mine")


BAD: list[tuple[tuple[Any, ...], str]] = [
    ((None, 200), "Invalid headers: None"),
    (("X-RateLimit-Limit: 5", 200), "Invalid headers: 'X-RateLimit"),
    ((5, 200), "Invalid headers: 5"),
    (([("A", "b"), "cd"], 200), "Invalid headers: 'cd'"),
    (([("A", "b", "c")], 200), r"Invalid headers: \('A', 'b', 'c'\)"),
    (({"A": 5}, 200), "Invalid headers: 5, must be a mapping"),
    (({7: "5"}, 200), "Invalid headers: 7"),
    (([("A", None)], 200), "Invalid headers: None"),
    (({}, "200"), "Invalid status: '200'"),
    (({}, -1), "Invalid status: -1"),
    (({}, 10**40), "Invalid status: 1000"),
    (({}, 200, "now"), "Invalid received: 'now'"),
    (({}, 200, float("nan")), "Invalid received: nan"),
    (({}, 200, -1.0), "Invalid received: -1.0"),
    (({}, 200, None, {"limits": "X"}), "Invalid headers_map: key 'limits', must be 'limit'"),
    (({}, 200, None, {"limit": 5}), "Invalid headers_map: 5 for 'limit'"),
    (({}, 200, None, {"limit": ""}), "Invalid headers_map: '' for 'limit'"),
    (({}, 200, None, 5), "Invalid headers_map: 5"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_wrong_argument_is_named_with_its_value(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_headers(*arguments)


def test_an_error_of_the_callers_own_comes_through() -> None:
    with pytest.raises(KeyError, match="mine"):
        parse_headers(failing(), 200)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(((),), {}), (((), 200), {"status": 200}), (((), 200), {"time": 1}), (((), 1, 2, {}, 4), {})],
)
def test_arguments_are_checked_as_pythons_own(arguments: Any, named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="parse_headers"):
        parse_headers(*arguments, **named)


def test_arguments_may_be_named() -> None:
    seen = parse_headers(headers=PAIRS, status=429, received=None, headers_map=None)
    assert seen == WANTED


MINE = {
    "limit": "X-My-Limit",
    "remaining": "x-my-left",
    "reset": "X-My-Reset",
    "used": "X-My-Used",
    "window": "X-My-Window",
    "retry_after": "X-My-Wait",
    "resource": "X-My-Pool",
}


def test_names_of_the_users_own_are_understood() -> None:
    headers = {
        "X-My-Limit": "100",
        "X-My-Left": "40",
        "X-My-Reset": "30s",
        "X-My-Window": "1m",
        "X-My-Wait": "2",
        "X-My-Pool": "search",
    }
    seen = parse_headers(headers, 429, None, MINE)
    assert tuple(seen.dimensions[0]) == ("requests", "search", 100, 40, 60.0, 30.0, "after")
    assert seen.retry_after == 2
    used = parse_headers({"X-My-Limit": "100", "X-My-Used": "1.5"}, 200, None, MINE)
    assert used.dimensions[0][2:4] == (100, 98)


def test_names_of_the_users_own_come_before_the_known_ones() -> None:
    seen = parse_headers(
        {"X-RateLimit-Remaining": "3", "X-RateLimit-Limit": "10"},
        200,
        None,
        {"limit": "X-RateLimit-Remaining"},
    )
    assert seen.dimensions[0][2:4] == (3, None)
    assert seen.dimensions[1][:4] == ("requests#2", "", 10, None)


def test_an_observation_is_a_value() -> None:
    again = parse_headers(dict(PAIRS), 429)
    assert again == WANTED
    assert hash(again) == hash(WANTED)
    assert again != parse_headers(PAIRS, 200)
    assert again != 5
    assert pickle.loads(pickle.dumps(again)) == again
    with pytest.raises(AttributeError):
        again.date = 5.0  # type: ignore[misc]
    match again:
        case Observation((ObservedDimension("requests", _, 60, 59, _, _, _),), None, 5.0, False, 0):
            pass
        case _:
            pytest.fail("no match")
    text = repr(again)
    assert text.startswith("Observation(dimensions=(")
    assert text.endswith("date=None, retry_after=5.0, retry_for_all=False, ignored=0)")


DIMENSION = ("cost", "shop", 10, 5, 20.0, 1.5, "after")


def test_an_observation_can_be_made_by_hand() -> None:
    made = Observation([ObservedDimension(DIMENSION)], 1.7e9, 3.0, True, 2)
    assert tuple(made.dimensions[0]) == DIMENSION
    assert (made.date, made.retry_after, made.retry_for_all, made.ignored) == (1.7e9, 3.0, True, 2)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "n" * 64, "Invalid name"),
        (0, "ü", "Invalid name: 'ü'"),
        (1, None, "Invalid resource: None"),
        (2, 0, "Invalid limit: 0"),
        (3, -1, "Invalid remaining: -1"),
        (3, 1.5, "Invalid remaining: 1.5"),
        (4, float("nan"), "Invalid window: nan"),
        (5, None, "Invalid reset_kind: 'after'"),
        (6, "soon", "Invalid reset_kind: 'soon'"),
    ],
)
def test_a_dimension_by_hand_is_checked(place: int, value: object, message: str) -> None:
    fields: list[object] = list(DIMENSION)
    fields[place] = value
    with pytest.raises(DataError, match=message):
        Observation([ObservedDimension(fields)])


def test_more_dimensions_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(DataError, match="Invalid dimensions: 17 of them, must be at most 16"):
        Observation([ObservedDimension(DIMENSION)] * 17)


def test_without_a_received_the_limiters_own_clock_counts() -> None:
    ahead = now_ns() // 10**9 + 1000
    seen = parse_headers({"Retry-After": str(ahead)}, 429)
    assert seen.retry_after is not None
    assert 900 < seen.retry_after <= 1000


def test_a_dict_that_another_thread_changes_does_no_harm() -> None:
    """Where there is a GIL it is held throughout; where there is none, the dict is locked."""
    shared = dict(PAIRS)
    stop = threading.Event()
    failed: list[BaseException] = []

    def change() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            shared[f"X-{count % 50}"] = str(count)
            shared.pop(f"X-{(count * 7) % 50}", None)
            shared["X-RateLimit-Limit"] = str(60 + count % 3)

    def read() -> None:
        try:
            for _ in range(3_000):
                seen = parse_headers(shared, 200)
                assert seen.dimensions[0].limit in (60, 61, 62)
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        changer = threading.Thread(target=change, daemon=True)
        changer.start()
        readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(30)
        stop.set()
        changer.join(30)
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
