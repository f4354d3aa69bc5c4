"""Shopify's GraphQL cost, which is told in the body."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway._core import Observation
from headway.smartratelimit._bodies import graphql_cost


def answer(maximum: Any = 1000, available: Any = 954, rate: Any = 50) -> dict[str, Any]:
    return {
        "data": {"shop": {"name": "s"}},
        "extensions": {
            "cost": {
                "requestedQueryCost": 101,
                "actualQueryCost": 46,
                "throttleStatus": {
                    "maximumAvailable": maximum,
                    "currentlyAvailable": available,
                    "restoreRate": rate,
                },
            }
        },
    }


@pytest.mark.parametrize("form", [lambda a: a, json.dumps, lambda a: json.dumps(a).encode()])
def test_the_points_of_a_graphql_answer_are_a_dimension(form: Any) -> None:
    seen = graphql_cost(form(answer()))
    assert isinstance(seen, Observation)
    assert [tuple(d) for d in seen.dimensions] == [("cost", "", 1000, 954, 20.0, 0.92, "after")]
    assert seen.retry_after is None
    assert seen.ignored == 0


def test_a_throttled_query_learns_when_its_points_are_there() -> None:
    refused = answer(available=51)
    refused["errors"] = [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]
    seen = graphql_cost(refused)
    assert seen is not None
    assert seen.retry_after == 1.0


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"\xff", b"{", b'{"extensions": 5}', {}, {"extensions": {"cost": None}}]
)
def test_a_body_that_says_nothing_of_cost_is_none(body: Any) -> None:
    assert graphql_cost(body) is None


@pytest.mark.parametrize("absurd", [-1, float("nan"), float("inf"), 10**30, "5", None, True, [], 0])
def test_an_absurd_number_is_counted_and_the_rest_kept(absurd: Any) -> None:
    seen = graphql_cost(answer(rate=absurd))
    assert seen is not None
    assert [tuple(d) for d in seen.dimensions] == [("cost", "", 1000, 954, None, None, None)]
    assert seen.ignored == 1


def test_more_than_there_can_be_is_all_of_it() -> None:
    seen = graphql_cost(answer(available=2000))
    assert seen is not None
    assert seen.dimensions[0].remaining == 1000
    assert seen.ignored == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(JSON, JSON, JSON, JSON, st.binary(max_size=30))
def test_no_body_raises(maximum: Any, available: Any, rate: Any, errors: Any, raw: bytes) -> None:
    body = answer(maximum, available, rate)
    body["errors"] = errors
    graphql_cost(body)
    graphql_cost(raw)
    graphql_cost(json.dumps(maximum))
