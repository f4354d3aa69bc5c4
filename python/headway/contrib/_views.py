"""What decorators of views share: the rules of one view, and what a response tells of several.

A view's rules are named after it for clients, by its short name, and counted by its whole name, so
that views of one name in two modules have counts of their own.
"""

from collections.abc import Iterable
from copy import copy
from typing import Any
from urllib.parse import quote

from headway.contrib._policy import rules_of
from headway.contrib._rules import Concurrency, Rule
from headway.contrib._verdict import Verdict, all_fields

__all__ = ["rules_of_view", "told"]


def rules_of_view(view: Any, limits: Any, name: str | None = None) -> list[Rule | Concurrency]:
    """The rules that `limits` stands for above `view`; a rule with a name or scope keeps it.

    name: instead of the view's own; views of one name and one store share their counts.
    """
    short = str(name or getattr(view, "__name__", type(view).__name__))
    whole = name or f"{view.__module__}.{getattr(view, '__qualname__', short)}"
    rules = []
    for rule, usual in rules_of(limits, "default"):
        suffix = "" if usual == "default" else f"-{usual}"
        if rule.name is None:
            rule = copy(rule)
            rule.name = _visible(short + suffix)
            rule.scope = rule.scope or _visible(whole + suffix)
        rules.append(rule)
    return rules


def _visible(name: str) -> str:
    """As it may stand in a header: names of functions may be in any script."""
    return quote(name, safe="!#$&'()*+,/:;<=>?@[]^`{}~")


def told(verdicts: Iterable[Verdict]) -> list[tuple[str, str]]:
    """The fields of a response: what all verdicts on it tell, in the style of the first."""
    verdicts = list(verdicts)
    if not verdicts:
        return []
    fields = all_fields(verdicts, verdicts[0].headers, verdicts[0].reset)
    for verdict in verdicts:
        if not verdict.allowed:
            fields += verdict.retry_fields()
    return fields
