"""RateLimit and RateLimit-Policy against a writer in Python: what is written by the grammar of RFC
9651 is read back, and a member that is not of the grammar takes no other along.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from headway._core import parse_headers

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
NAMES = st.text(PRINTABLE, min_size=1, max_size=40)
TOKENS = st.from_regex(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]{0,20}", fullmatch=True)
KEYS = st.from_regex(r"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True).filter(
    lambda key: key not in ("q", "w", "r", "t", "pk", "qu")
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def bare_items(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return str(draw(st.integers(-(10**15) + 1, 10**15 - 1)))
    if kind == 1:
        return f"{draw(st.integers(-(10**12) + 1, 10**12 - 1))}.{draw(st.integers(0, 999))}"
    if kind == 2:
        return quoted(draw(st.text(PRINTABLE, max_size=20)))
    if kind == 3:
        return draw(TOKENS)
    if kind == 4:
        return f":{base64.b64encode(draw(st.binary(max_size=12))).decode()}:"
    if kind == 5:
        return draw(st.sampled_from(["?0", "?1"]))
    if kind == 6:
        return f"@{draw(st.integers(0, 10**12))}"
    return '%"f%c3%bc"'


@dataclass
class Left:
    """A member of RateLimit."""

    name: str
    remaining: int
    reset: int | None
    partition: str
    others: list[tuple[str, str]]

    def text(self) -> str:
        parameters = [("r", str(self.remaining)), *self.others]
        if self.reset is not None:
            parameters.insert(0, ("t", str(self.reset)))
        if self.partition:
            parameters.append(("pk", quoted(self.partition)))
        return quoted(self.name) + "".join(f";{key}={value}" for key, value in parameters)


LEFTS = st.builds(
    Left,
    NAMES,
    st.integers(0, 10**12),
    st.one_of(st.none(), st.integers(0, 10**8 - 1)),
    st.text(PRINTABLE, max_size=40),
    st.lists(st.tuples(KEYS, bare_items()), max_size=3),
)
LISTS = st.lists(LEFTS, min_size=1, max_size=8, unique_by=lambda left: (left.name, left.partition))
BLANKS = st.sampled_from(["", " ", "  ", "\t"])


def told(lefts: list[Left]) -> list[tuple[object, ...]]:
    return [
        (
            left.name,
            left.partition,
            None,
            left.remaining,
            None,
            left.reset,
            None if left.reset is None else "after",
        )
        for left in lefts
    ]


@given(LISTS, BLANKS, BLANKS)
def test_what_is_left_is_read_back(lefts: list[Left], before: str, behind: str) -> None:
    field = f"{before},{behind}".join(left.text() for left in lefts)
    seen = parse_headers({"RateLimit": field}, 200)
    assert [tuple(dimension) for dimension in seen.dimensions] == told(lefts)
    assert seen.ignored == 0


@given(LISTS)
def test_a_field_on_many_lines_is_one_list(lefts: list[Left]) -> None:
    lines = [("RateLimit", left.text()) for left in lefts]
    together = {"RateLimit": ", ".join(left.text() for left in lefts)}
    assert parse_headers(lines, 200) == parse_headers(together, 200)


BROKEN = st.sampled_from(
    ["=", "é", "1.", "-", "1234567890123456", '"a";', '"a";R=1', '"a"b', ":a", "?2", "(1 2", "@1.5"]
)


@given(LISTS, BROKEN, st.integers(0, 8))
@example([Left("a", 1, None, "", [])], '"a";', 0)
def test_a_broken_member_takes_no_other_along(lefts: list[Left], broken: str, place: int) -> None:
    members = [left.text() for left in lefts]
    members.insert(place, broken)
    seen = parse_headers({"RateLimit": ", ".join(members)}, 200)
    assert [tuple(dimension) for dimension in seen.dimensions] == told(lefts)
    assert seen.ignored == 1


@given(
    st.lists(
        st.tuples(NAMES, st.integers(1, 10**12), st.integers(1, 10**8 - 1), st.integers(0, 10**12)),
        min_size=1,
        max_size=8,
        unique_by=lambda policy: policy[0],
    ),
    st.randoms(use_true_random=False),
)
def test_policies_and_what_is_left_meet_by_name(
    policies: list[tuple[str, int, int, int]], random: object
) -> None:
    lefts = list(policies)
    random.shuffle(lefts)  # type: ignore[attr-defined]
    seen = parse_headers(
        {
            "RateLimit-Policy": ", ".join(f"{quoted(n)};q={q};w={w}" for n, q, w, _ in policies),
            "RateLimit": ", ".join(f"{quoted(n)};r={min(r, q)}" for n, q, _, r in lefts),
        },
        200,
    )
    assert {tuple(dimension) for dimension in seen.dimensions} == {
        (n, "", q, min(r, q), float(w), None, None) for n, q, w, r in policies
    }


@given(
    st.lists(bare_items(), max_size=4),
    st.lists(st.tuples(KEYS, bare_items()), max_size=4),
    st.text(st.characters(max_codepoint=255), max_size=200),
)
def test_anything_at_all_is_read_without_harm(
    items: list[str], parameters: list[tuple[str, str]], noise: str
) -> None:
    field = ",".join(items) + "".join(f";{key}={value}" for key, value in parameters)
    for text in (field, noise, field + noise, noise + field):
        headers = {"RateLimit": text, "RateLimit-Policy": text, "X-RateLimit-Limit": text}
        seen = parse_headers(headers, 429)
        for dimension in seen.dimensions:
            assert dimension.limit is None or 1 <= dimension.limit <= 10**12
            assert dimension.remaining is None or 0 <= dimension.remaining <= 10**12
            assert dimension.window is None or 0 < dimension.window < 10**8


def test_partitions_of_one_policy_are_apart() -> None:
    seen = parse_headers(
        {
            "RateLimit-Policy": '"peruser";q=100;w=60;pk=:YQ==:, "peruser";q=7;w=60',
            "RateLimit": '"peruser";r=3;pk=:YQ==:, "peruser";r=4;pk=:Yg==:',
        },
        200,
    )
    assert [dimension[:4] for dimension in seen.dimensions] == [
        ("peruser", "YQ==", 100, 3),
        ("peruser", "Yg==", 7, 4),
    ]


def test_a_parameter_of_another_type_is_ignored_alone() -> None:
    seen = parse_headers({"RateLimit": '"a";r="5";t=9'}, 200)
    assert tuple(seen.dimensions[0]) == ("a", "", None, None, None, 9.0, "after")
    assert seen.ignored == 1
