"""`@limit` without parentheses is refused where it stands, not at the first request."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

import headway


def _limit_of(name: str) -> Any:
    framework = {"starlette": "starlette", "fastapi": "fastapi", "mcp": "mcp"}.get(name, name)
    pytest.importorskip(framework)
    if name == "django":
        import_module("django_site")
    module = import_module(f"headway.contrib.{name}")
    return module.limit if hasattr(module, "limit") else module.RateLimit().limit


NAMES = ["starlette", "fastapi", "flask", "aiohttp", "django", "mcp"]


@pytest.fixture(params=NAMES)
def limit(request: pytest.FixtureRequest) -> Any:
    return _limit_of(request.param)


SENTENCE = re.escape('write @limit("10/minute") above a function that is to be limited.')


def test_above_a_function_that_looks_as_if_it_told_a_quota(limit: Any) -> None:
    with pytest.raises(TypeError, match=f"search' is put where a quota belongs: {SENTENCE}"):

        @limit
        async def search(request: Any) -> None: ...


def test_with_a_comment_and_as_an_attribute(limit: Any) -> None:
    class holder:
        pass

    holder.limit = staticmethod(limit)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=SENTENCE):

        @holder.limit  # type: ignore[attr-defined]  # ten a minute
        def search(request: Any) -> None: ...


@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None])
def test_a_function_that_cannot_tell_a_quota(limit: Any, function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"is not a function of the (request|call) .* {SENTENCE}"):
        limit(function)


def test_a_class(limit: Any) -> None:
    class Search:
        pass

    with pytest.raises((TypeError, headway.DataError)):
        limit(Search)


def test_a_function_that_tells_a_quota_is_one(limit: Any) -> None:
    def quota(request: Any, plan: str = "free") -> str:
        return "10/minute"

    async def search(request: Any) -> None: ...

    decorated: Any = limit(quota)(search)
    assert decorated.__name__ == "search"

    @limit(
        quota,
    )
    async def find(request: Any) -> None: ...

    assert find.__name__ == "find"

    def in_one_line() -> Any: return limit(quota)  # fmt: skip

    assert in_one_line()(search).__name__ == "search"


def test_a_builtin_that_does_not_tell_what_it_takes_is_tried(limit: Any) -> None:
    limit({}.get)
