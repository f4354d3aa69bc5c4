"""What decorators of views share: the rules of one view, and what a response tells of several.

A view's rules are named after it for clients, by its short name, and counted by its whole name, so
that views of one name in two modules have counts of their own.
"""

from collections.abc import Iterable
from copy import copy
from typing import Any
from urllib.parse import quote

from headway.contrib._policy import rules_of
from headway.contrib._rules import Concurrency, Rule, checked_name
from headway.contrib._verdict import Verdict, all_fields, give_back_where_denied

__all__ = ["rules_of_view", "settled"]


def rules_of_view(view: Any, limits: Any, name: str | None = None) -> list[Rule | Concurrency]:
    """The rules that `limits` stands for above `view`; a rule with a name or scope keeps it.

    name: instead of the view's own; views of one name and one store share their counts.
    """
    if name is not None:
        short = whole = checked_name("name", name)
    else:
        short = str(getattr(view, "__name__", None) or getattr(view, "name", type(view).__name__))
        module = getattr(view, "import_name", view.__module__)  # that of a blueprint
        whole = f"{module}.{getattr(view, '__qualname__', short)}"
    rules = []
    for rule, number in rules_of(limits, ""):  # "", or ":1" and so on
        if rule.name is None:
            rule = copy(rule)
            rule.name = _visible(short + number)
            rule.scope = rule.scope or _visible(whole + number)
        rules.append(rule)
    return rules


def _visible(name: str) -> str:
    """As it may stand in a header: names of functions may be in any script."""
    return quote(name, safe="!#$&'()*+,/:;<=>?@[]^`{}~")


def settled(verdicts: Iterable[Verdict], status: int) -> list[tuple[str, str]]:
    """The fields of a response: what all verdicts on it tell, in the style of the first.

    First what was taken is given back where one denies. For whoever is outermost.
    """
    verdicts = list(verdicts)
    if not verdicts:
        return []
    if len(verdicts) > 1:
        give_back_where_denied(verdicts, status)
    fields = all_fields(verdicts, verdicts[0].headers, verdicts[0].reset)
    for verdict in verdicts:
        if not verdict.allowed:
            fields += verdict.retry_fields()
    return fields
