"""What there is to complete, read from argparse: a tree of commands, each with what may follow.

Only what argparse knows of is told: a value is one of its `choices`, a file where its metavar says
FILE, an algorithm where it says ALGORITHM, and otherwise anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from headway.commands.targets import ALGORITHMS

__all__ = ["Node", "Option", "Value", "root_of", "walk"]


class Value(NamedTuple):
    """What an option or an argument takes."""

    name: str
    choices: tuple[str, ...] = ()
    is_file: bool = False
    repeated: bool = False


class Option(NamedTuple):
    """An option with all its names; `value` is None for one that takes none."""

    names: tuple[str, ...]
    help: str
    value: Value | None = None
    repeated: bool = False


class Node(NamedTuple):
    """A command, or a command of a command."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    commands: tuple[Node, ...]


def root_of(
    name: str, parsers: Mapping[str, argparse.ArgumentParser | None], helps: Mapping[str, str]
) -> Node:
    """The tree of the whole program; None stands for a command that nothing is known of."""
    commands = tuple(
        _node((name, command), helps[command], parser) for command, parser in parsers.items()
    )
    options = (Option(("-h", "--help"), "show help"), Option(("--version",), "show the version"))
    return Node((name,), "", options, (), commands)


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for command in node.commands:
        yield from walk(command)


def _node(path: tuple[str, ...], about: str, parser: argparse.ArgumentParser | None) -> Node:
    options: list[Option] = []
    arguments: list[Value] = []
    commands: list[Node] = []
    for action in parser._actions if parser is not None else ():
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            commands += _below(path, action)
        elif action.option_strings:
            options.append(_option(action))
        else:
            arguments.append(_value(action))
    return Node(path, about, tuple(options), tuple(arguments), tuple(commands))


def _below(
    path: tuple[str, ...], action: argparse._SubParsersAction[argparse.ArgumentParser]
) -> list[Node]:
    helps = {each.dest: each.help or "" for each in action._choices_actions}
    return [
        _node((*path, name), _plain(helps.get(name, "")), parser)
        for name, parser in action.choices.items()
    ]


def _option(action: argparse.Action) -> Option:
    # An option without a value has nargs 0; None is one value.
    value = None if action.nargs == 0 else _value(action)
    repeated = isinstance(action, (argparse._AppendAction, argparse._CountAction))
    return Option(tuple(action.option_strings), _plain(action.help or ""), value, repeated)


def _value(action: argparse.Action) -> Value:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    choices = () if action.choices is None else tuple(str(choice) for choice in action.choices)
    if name == "ALGORITHM" and not choices:  # where it is checked by the command itself
        choices = ALGORITHMS
    is_file = action.type is Path or "FILE" in name or "PATH" in name
    return Value(name, choices, is_file and not choices, action.nargs in ("+", "*"))


def _plain(text: str) -> str:
    """A help text as argparse would show it, in one line."""
    return " ".join(text.replace("%%", "%").split())
