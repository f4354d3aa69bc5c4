"""`headway shm list|show|remove`: the shared memory of this user on this machine.

Exit codes: 0 done, 1 there is no such memory or it cannot be used, 2 wrong arguments.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from headway._core import SharedStore
from headway._shm_store import DIRECTORY, PREFIX, Entry, path_of
from headway.exceptions import BaseThrottledError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "list, show and remove shared memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their options."""
    commands = parser.add_subparsers(dest="shm_command", required=True, metavar="COMMAND")
    lister = commands.add_parser("list", help="the names there are, with sizes and processes")
    show = commands.add_parser("show", help="the keys in one, those with the most calls first")
    show.add_argument("name", metavar="NAME")
    show.add_argument(
        "--limit", type=int, default=50, metavar="N", help="so many keys at most (50); 0 for all"
    )
    remove = commands.add_parser("remove", help="take names away; their users keep what they have")
    remove.add_argument("names", metavar="NAME", nargs="+")
    for command in (lister, show, remove):
        command.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code."""
    if args.shm_command == "list":
        return _list(args.json)
    if args.shm_command == "show":
        return _show(args.name, args.limit, args.json)
    return _remove(args.names, args.json)


def _open(name: str) -> SharedStore:
    return SharedStore(name, make=False)


def _about(name: str) -> dict[str, Any]:
    try:
        store = _open(name)
    except BaseThrottledError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "size": store.size,
        "keys": len(store),
        "capacity": store.capacity,
        "evictions": store.evictions,
        "processes": store.processes,
    }


def _list(as_json: bool) -> int:
    names = sorted(path.name.removeprefix(PREFIX) for path in DIRECTORY.glob(f"{PREFIX}*"))
    found = [_about(name) for name in names]
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    if not found:
        print(f"There is no shared memory of headway in {DIRECTORY}.")
        return 0
    rows = [("NAME", "SIZE", "KEYS", "CAPACITY", "EVICTED", "PROCESSES")]
    rows += [
        (
            item["name"],
            _size(item["size"]),
            *(str(item[field]) for field in ("keys", "capacity", "evictions", "processes")),
        )
        for item in found
        if "error" not in item
    ]
    _print_table(rows)
    for item in found:
        if "error" in item:
            print(item["error"])
    return 0


def _show(name: str, limit: int, as_json: bool) -> int:
    try:
        store = _open(name)
    except BaseThrottledError as error:
        print(error, file=sys.stderr)
        return 1
    entries = [Entry(*entry) for entry in store._entries()]
    entries.sort(key=lambda entry: (-entry.admitted - entry.denied, entry.key))
    shown = entries[:limit] if limit > 0 else entries
    if as_json:
        about = _about(name)
        about["entries"] = [_as_json(entry) for entry in shown]
        print(json.dumps(about, indent=2))
        return 0
    rows = [("KEY", "USING", "QUOTA", "ADMITTED", "DENIED", "REMAINING", "RESET AFTER")]
    rows += [
        (
            _text(entry),
            entry.using,
            str(entry.quota),
            str(entry.admitted),
            str(entry.denied),
            str(entry.state.remaining),
            f"{entry.state.reset_after:.3g} s",
        )
        for entry in shown
    ]
    _print_table(rows)
    print(f"{len(shown)} of {len(entries)} keys; room for {store.capacity} in {_size(store.size)}.")
    return 0


def _remove(names: list[str], as_json: bool) -> int:
    removed, missing = [], []
    for name in names:
        path = path_of(name)
        inside = path.parent == DIRECTORY and path.name != PREFIX
        try:
            if not inside:
                raise FileNotFoundError
            path.unlink()
            removed.append(name)
        except FileNotFoundError:
            missing.append(name)
            print(f"There is no shared memory {name!r}.", file=sys.stderr)
        except OSError as error:
            missing.append(name)
            print(f"Cannot remove {name!r}: {error.strerror}.", file=sys.stderr)
    if as_json:
        print(json.dumps({"removed": removed, "failed": missing}))
    else:
        for name in removed:
            print(f"Removed {name}.")
    return 1 if missing else 0


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "whole": entry.whole,
        "using": entry.using,
        "quota": str(entry.quota),
        "admitted": entry.admitted,
        "denied": entry.denied,
        "limit": entry.state.limit,
        "remaining": entry.state.remaining,
        "reset_after": entry.state.reset_after,
    }


def _text(entry: Entry) -> str:
    shown = "".join(c if c.isprintable() else "\ufffd" for c in entry.key)
    return shown if entry.whole else shown + "…"


def _size(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.4g} {unit}"
    return f"{size} B"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
