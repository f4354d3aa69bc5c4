"""One parameter of a query, as `urllib.parse.parse_qs` reads it, without reading all others."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway.contrib._query import first_value

pieces = st.sampled_from(
    ["a", "b", "%61", "%41", "+", "%20", "=", "&", "&", ";", "%C3%A9", "é", "%", "%6", "#", "aa"]
)


@given(
    st.lists(pieces, max_size=12).map("".join), st.sampled_from(["a", "a b", "é", "aa", "+", "A"])
)
@example("x&%61=1&a=2", "a")
@example("a", "a")
@example("a&a=1", "a")
@example("a=%C3%A9+x&b", "a")
def test_it_is_what_parse_qs_finds_first(query: str, name: str) -> None:
    found = parse_qs(query, keep_blank_values=True).get(name)
    assert first_value(query, name) == (found[0] if found else None)


@pytest.mark.parametrize("query", ["", "aa=1", "xa=1", "ax=1", "b=a", "b&c"])
def test_a_parameter_that_is_not_there_is_none(query: str) -> None:
    assert first_value(query, "a") is None
