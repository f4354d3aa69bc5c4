"""Patterns of paths: which requests a rule is for, and which are exempt.

    /login               this path
    /api/*               every path that begins so
    /users/{id}          one segment: {id:int}, <id> and <int:id> are the same
    /files/{p:path}      any number of segments: <path:p> and {p:.*} are the same

The templates of Starlette, FastAPI and aiohttp stand in braces, those of Flask and Django in angle
brackets, so that a route's template can be copied. Of a converter only this counts: whether it
takes slashes. A converter that is not known is refused, as it may take any text.

A router whose regular expressions end with `$` (Starlette, `re_path` of Django) routes a path with
a newline at its end as the path without it; others do not. So such a path is read in both ways: a
rule is for it where one reading matches, and it is exempt where both are.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

from headway.exceptions import SetUpError

__all__ = ["Paths", "kept"]

_T = TypeVar("_T")
_KEPT_MAX = 256
"""Characters of a path, or method, that is kept with what was found for it."""

_PARTS = re.compile(r"(\*|\{[^{}/]*\}|<[^<>/]*>)")
_SEGMENT = frozenset({"", "str", "string", "int", "float", "uuid", "slug", "any"})
_ANYTHING = frozenset({"path", ".*", ".+"})


def kept(function: Callable[..., _T], count: int) -> Callable[..., _T]:
    """`function`, whose last answers are kept. Not for long texts: clients send what they like."""
    cached = lru_cache(count)(function)

    def answer(*texts: str) -> _T:
        for text in texts:
            if len(text) > _KEPT_MAX:
                return function(*texts)
        return cached(*texts)

    return answer


class Paths:
    """A set of path patterns; asked often for few paths, so answers are kept."""

    __slots__ = ("covers", "match")

    def __init__(self, field: str, paths: Iterable[str]) -> None:
        """Raises SetUpError that names `field` where a pattern is not understood."""
        found = re.compile("|".join(f"(?:{_pattern(field, path)})" for path in paths), re.DOTALL)

        def match(path: str) -> bool:
            return any(found.fullmatch(reading) is not None for reading in _readings(path))

        def covers(path: str) -> bool:
            return all(found.fullmatch(reading) is not None for reading in _readings(path))

        self.match: Callable[[str], bool] = kept(match, 1024)
        """Whether a router may take the path for one of these."""
        self.covers: Callable[[str], bool] = kept(covers, 1024)
        """Whether every router takes the path for one of these."""


def _readings(path: str) -> tuple[str, ...]:
    return (path, path[:-1]) if path.endswith("\n") else (path,)


def _pattern(field: str, path: str) -> str:
    """A path as a regular expression."""
    if not path.startswith(("/", "*")):
        raise SetUpError(f"Invalid {field}: {path!r}, must begin with '/' or '*'.")
    return "".join(_part(field, path, part) for part in _PARTS.split(path))


def _part(field: str, path: str, part: str) -> str:
    if part == "*":
        return ".*"
    if part[:1] == "{" and part[-1:] == "}":
        converter = part[1:-1].partition(":")[2]
    elif part[:1] == "<" and part[-1:] == ">":
        converter = part[1:-1].rpartition(":")[0].partition("(")[0]
    elif re.search("[{}<>]", part):
        raise SetUpError(
            f"Invalid {field}: {path!r}, must have its parameters as {{name}}, {{name:path}}, "
            "<name> or <path:name>, or '*' for anything."
        )
    else:
        return re.escape(part)
    if converter in _SEGMENT:
        return "[^/]+"
    if converter in _ANYTHING:
        return ".*"
    raise SetUpError(
        f"Invalid {field}: {path!r}, the converter {converter!r} is not known: write {{name}} for "
        "one segment of the path, or '*' for anything."
    )
