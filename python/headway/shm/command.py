"""`headway shm list|show|remove`: the shared memory of this user on this machine."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from headway._core import SharedStore
from headway._shm_store import DIRECTORY, PREFIX, Entry, path_of
from headway.commands import DONE, FINDING
from headway.commands.output import columns, duration, plain, print_json, say
from headway.commands.parser import bounded
from headway.exceptions import BaseThrottledError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "tables in shared memory: list, show, remove"
EPILOG = """\
examples:
  headway shm list                                  names, sizes, how many processes have it open
  headway shm show limits --limit 20                the keys with the most calls
  headway shm show limits --json | jq '.entries[] | select(.denied > 0) | .key'
  headway shm remove limits                         its users keep what they have

exit codes: 0 done, 1 a name is not there or cannot be used, 2 wrong argument, 130 interrupted,
141 the reader of the output went away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their options."""
    parser.description = (
        "The tables that limiters of `shm:///NAME` share, those of this user on this machine."
    )
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="shm_command", required=True, metavar="COMMAND")
    lister = commands.add_parser("list", help="the names there are, with sizes and processes")
    show = commands.add_parser("show", help="the keys in one, those with the most calls first")
    show.add_argument("name", metavar="NAME")
    show.add_argument(
        "--limit",
        type=bounded(0, 10**9),
        default=50,
        metavar="N",
        help="so many keys at most (default: 50); 0 for all",
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
        print_json(found)
        return DONE
    if not found:
        say(f"There is no shared memory of headway in {DIRECTORY}.")
        return DONE
    rows: list[tuple[str, ...]] = [("NAME", "SIZE", "KEYS", "CAPACITY", "EVICTED", "PROCESSES")]
    rows += [
        (
            plain(item["name"]),
            _size(item["size"]),
            *(str(item[field]) for field in ("keys", "capacity", "evictions", "processes")),
        )
        for item in found
        if "error" not in item
    ]
    _print_table(rows, right=(1, 2, 3, 4, 5))
    for item in found:
        if "error" in item:
            say(plain(item["error"]))
    return DONE


def _show(name: str, limit: int, as_json: bool) -> int:
    try:
        store = _open(name)
    except BaseThrottledError as error:
        _complain(str(error))
        return FINDING
    entries = [Entry(*entry) for entry in store._entries()]
    entries.sort(key=lambda entry: (-entry.admitted - entry.denied, entry.key))
    shown = entries[:limit] if limit > 0 else entries
    if as_json:
        about = _about(name)
        about["entries"] = [_as_json(entry) for entry in shown]
        print_json(about)
        return DONE
    rows = [("KEY", "USING", "QUOTA", "ADMITTED", "DENIED", "REMAINING", "RESET AFTER")]
    rows += [
        (
            _text(entry),
            entry.using,
            str(entry.quota),
            str(entry.admitted),
            str(entry.denied),
            str(entry.state.remaining),
            duration(entry.state.reset_after),
        )
        for entry in shown
    ]
    _print_table(rows, right=(3, 4, 5, 6))
    say(f"{len(shown)} of {len(entries)} keys; room for {store.capacity} in {_size(store.size)}.")
    return DONE


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
            _complain(f"There is no shared memory {name!r}.")
        except OSError as error:
            missing.append(name)
            _complain(f"Cannot remove {name!r}: {error.strerror}.")
    if as_json:
        print_json({"removed": removed, "failed": missing})
    else:
        for name in removed:
            say(f"Removed {plain(name)}.")
    return FINDING if missing else DONE


def _complain(why: str) -> None:
    say(f"headway shm: {plain(why)}", sys.stderr)


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
    shown = plain(entry.key)
    return shown if entry.whole else shown + "…"


def _size(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.4g} {unit}"
    return f"{size} B"


def _print_table(rows: Sequence[tuple[str, ...]], right: Sequence[int]) -> None:
    for line in columns(rows, right):
        say(line)
