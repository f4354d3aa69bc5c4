"""`headway limits`: what is known of limits, from the command line; the drop-in's `smartratelimit`.

    headway limits --storage sqlite:///limits.db status api.github.com
    headway limits probe https://api.github.com/users
    headway limits list | clear [ENDPOINT] | simulate --rpm 60 --requests 200

Exit codes: 0 done; 1 nothing is known, or it failed; 2 a wrong argument.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from headway.exceptions import BaseThrottledError
from headway.smartratelimit.models import RateLimitStatus

__all__ = ["add_arguments", "main", "run"]

_HEADERS = ("ratelimit", "rate-limit", "retry-after")
_NOTHING = "No rate limit information available"
_EMPTY = """\
No endpoints tracked in this storage backend.
With 'memory' storage nothing is kept between commands: point --storage at the
sqlite:// or redis:// URL that your program uses."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `smartratelimit`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="smartratelimit", description="Limits of APIs.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options and subcommands of `headway limits`."""
    _common(parser, first=True)
    commands = parser.add_subparsers(title="commands", dest="limits_command", metavar="COMMAND")
    for name, about in (
        ("status", "what is known of an endpoint, or of all"),
        ("clear", "forget an endpoint, or all"),
    ):
        command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
        command.add_argument("place", nargs="?", metavar="ENDPOINT", help="a host or a URL")
        command.add_argument("--endpoint", help="the same, by name")
        _common(command)
    probe = commands.add_parser("probe", help="ask a URL, and tell what it says of its limits")
    probe.add_argument("url", metavar="URL")
    _common(probe)
    _common(commands.add_parser("list", help="all endpoints of which something is known"))
    _add_simulate(commands.add_parser("simulate", help="what a workload would meet; sends nothing"))
    parser.set_defaults(limits_parser=parser)


def _common(parser: argparse.ArgumentParser, first: bool = False) -> None:
    """Taken before and after the subcommand; the default is that of the first place."""
    none: Any = argparse.SUPPRESS
    parser.add_argument(
        "--storage",
        default="memory" if first else none,
        metavar="URL",
        help="memory (default), sqlite:///path or redis://host:port/db",
    )
    parser.add_argument(
        "--json", action="store_true", default=False if first else none, help="print JSON"
    )
    parser.add_argument(
        "--fail-closed",
        action="store_true",
        default=False if first else none,
        help="a storage that fails later is an error; one that cannot be opened always is",
    )


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rpm", type=int, metavar="N", help="requests a minute")
    add("--tpm", type=int, metavar="N", help="tokens a minute")
    add("--rpd", type=int, metavar="N", help="requests a day")
    add("--limit", action="append", metavar="NAME=COUNT/WINDOW", help="another, as images=50/1h")
    add("--cost", action="append", metavar="NAME=VALUE", help="what a request spends of a --limit")
    add("--requests", type=int, default=1000, help="how many there are (default: 1000)")
    add("--workers", type=int, default=1, help="how many are sent at once (default: 1)")
    add("--avg-tokens", type=float, default=1000.0, help="tokens of a request (default: 1000)")
    add("--keys", type=int, default=1, help="API keys, each with budgets of its own (default: 1)")
    add("--latency", type=float, default=0.0, help="seconds that a request takes (default: 0)")
    add("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(args: argparse.Namespace) -> int:
    """What the parsed arguments ask for; returns the exit code."""
    command = args.limits_command
    if command is None:
        args.limits_parser.print_help()
        return 1
    try:
        if command == "simulate":
            return _simulate(args)
        return _on_storage(args, command)
    except (BaseThrottledError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _on_storage(args: argparse.Namespace, command: str) -> int:
    from headway.smartratelimit.core import RateLimiter

    with RateLimiter(storage=args.storage, fail_closed=args.fail_closed) as limiter:
        if command == "status":
            return _status(limiter, args)
        if command == "clear":
            return _clear(limiter, args)
        if command == "list":
            return _list(limiter, args)
        return _probe(limiter, args)


def _as_json(status: RateLimitStatus | None) -> dict[str, Any] | None:
    if status is None:
        return None
    return {
        "endpoint": status.endpoint,
        "limit": status.limit,
        "remaining": status.remaining,
        "reset_time": status.reset_time.isoformat() if status.reset_time else None,
        "reset_in": status.reset_in,
        "window_seconds": status.window.total_seconds() if status.window else None,
        "utilization": status.utilization,
        "exceeded": status.is_exceeded,
        "confidence": status.confidence,
        "dimensions": {
            name: {
                "limit": one.limit,
                "remaining": one.remaining,
                "reset_time": one.reset_time.isoformat(),
                "window_seconds": one.window.total_seconds(),
                "confidence": one.confidence,
            }
            for name, one in status.dimensions.items()
        },
    }


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


def _status(limiter: Any, args: argparse.Namespace) -> int:
    endpoint = args.endpoint or args.place
    endpoints = [endpoint] if endpoint else limiter.list_endpoints()
    if not endpoints:
        print(f"Error: {_EMPTY}", file=sys.stderr)
        return 1
    found = {one: limiter.get_status(one) for one in endpoints}
    if args.json:
        _print_json({one: _as_json(status) for one, status in found.items()})
    else:
        for one, status in found.items():
            print(f"\nEndpoint: {one}")
            _print_status(status)
    return 0 if any(found.values()) else 1


def _print_status(status: RateLimitStatus | None) -> None:
    if status is None:
        print(f"  {_NOTHING}")
        return
    print(f"  Limit: {status.limit}")
    print(f"  Remaining: {status.remaining}")
    print(f"  Utilization: {status.utilization * 100:.1f}%")
    if status.reset_time is not None:
        print(f"  Resets at: {status.reset_time:%Y-%m-%d %H:%M:%S %Z}")
        print(f"  Resets in: {status.reset_in or 0:.0f} seconds")
    print(f"  Exceeded: {status.is_exceeded}")
    print(f"  Confidence: {status.confidence}")
    others = [(name, one) for name, one in status.dimensions.items() if name != "requests"]
    if others:
        print("  Other metered dimensions:")
        for name, one in others:
            print(
                f"    {name}: {one.remaining}/{one.limit} remaining, window {one.window}, "
                f"{one.confidence}"
            )
    if status.confidence == "estimated":
        print("  Note: the API told a limit and not its window; set it with RateLimiter.set_limit.")


def _clear(limiter: Any, args: argparse.Namespace) -> int:
    endpoint = args.endpoint or args.place
    limiter.clear(endpoint)
    if args.json:
        _print_json({"cleared": endpoint or "all"})
    elif endpoint:
        print(f"Cleared rate limit data for: {endpoint}")
    else:
        print("Cleared all rate limit data")
    return 0


def _list(limiter: Any, args: argparse.Namespace) -> int:
    endpoints = limiter.list_endpoints()
    found = {one: limiter.get_status(one) for one in endpoints}
    if args.json:
        _print_json([_as_json(status) for status in found.values()])
        return 0
    if not endpoints:
        print(_EMPTY)
        return 0
    print(f"Tracked endpoints ({len(endpoints)}):\n")
    for one, status in found.items():
        print(f"  {one}")
        for name, each in (status.dimensions if status is not None else {}).items():
            label = "" if name == "requests" else f"{name}: "
            print(
                f"      {label}{each.remaining}/{each.limit} remaining, window {each.window}, "
                f"{each.confidence}"
            )
    return 0


def _probe(limiter: Any, args: argparse.Namespace) -> int:
    if not args.json:
        print(f"Probing {args.url}...")
    try:
        response = limiter.request("GET", args.url, timeout=30)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, but for bad URLs
        print(f"Error probing endpoint: {error}", file=sys.stderr)
        return 1
    told = {
        name: value
        for name, value in response.headers.items()
        if any(part in name.lower() for part in _HEADERS)
    }
    status = limiter.get_status(args.url)
    if args.json:
        _print_json({"status": response.status_code, "headers": told, "limit": _as_json(status)})
        return 0
    print(f"\nResponse Status: {response.status_code}")
    print("\nRate Limit Headers:")
    for name, value in told.items():
        print(f"  {name}: {value}")
    if status is None:
        print("\nNo rate limit information detected in headers")
        return 0
    print("\nDetected Rate Limit:")
    print(f"  Limit: {status.limit}")
    print(f"  Remaining: {status.remaining}")
    print(f"  Window: {status.window}")
    print(f"  Confidence: {status.confidence}")
    for name, one in status.dimensions.items():
        if name != "requests":
            print(f"  Also metered: {name}: {one.limit} per {one.window} ({one.confidence})")
    return 0


# ---- simulate ----


def _pair(text: str, option: str, shape: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not equals or not name.strip() or not rest.strip():
        raise ValueError(f"Invalid --{option}: {text!r}, must be {shape}.")
    return name.strip(), rest.strip()


def _budgets(args: argparse.Namespace) -> list[Any]:
    from datetime import timedelta

    from headway.smartratelimit._windows import parse_window
    from headway.smartratelimit.simulate import Budget

    found = []
    if args.rpm is not None:
        found.append(Budget("requests", args.rpm, timedelta(minutes=1)))
    if args.rpd is not None:
        found.append(Budget("requests_daily", args.rpd, timedelta(days=1)))
    if args.tpm is not None:
        found.append(Budget("tokens", args.tpm, timedelta(minutes=1), args.avg_tokens))
    costs = {}
    for text in args.cost or ():
        name, value = _pair(text, "cost", "NAME=VALUE, such as images=2")
        try:
            costs[name] = float(value)
        except ValueError:
            raise ValueError(f"Invalid --cost: {text!r}, must be NAME=NUMBER.") from None
    shape = "NAME=COUNT/WINDOW, such as images=50/1h"
    for text in args.limit or ():
        name, rest = _pair(text, "limit", shape)
        count, slash, window = rest.partition("/")
        if not slash or not count.strip().isdecimal():
            raise ValueError(f"Invalid --limit: {text!r}, must be {shape}.")
        found.append(Budget(name, int(count), parse_window(window), costs.pop(name, 1.0)))
    if costs:
        raise ValueError(f"Invalid --cost: there is no --limit {', '.join(sorted(costs))}.")
    if not found:
        raise ValueError("give at least one limit: --rpm, --tpm, --rpd or --limit.")
    return found


def _simulate(args: argparse.Namespace) -> int:
    from headway.smartratelimit.simulate import simulate

    result = simulate(
        budgets=_budgets(args),
        requests=args.requests,
        workers=args.workers,
        keys=args.keys,
        latency=args.latency,
    )
    if args.json:
        _print_json(_result_as_json(result))
    else:
        _print_result(result)
    return 0 if result.completed else 1


def _result_as_json(result: Any) -> dict[str, Any]:
    return {
        "requests": result.requests,
        "workers": result.workers,
        "keys": result.keys,
        "completed": result.completed,
        "wall_seconds": round(result.wall_seconds, 3),
        "achieved_rps": result.achieved_rps and round(result.achieved_rps, 4),
        "throttled": result.throttled,
        "throttled_fraction": round(result.throttled_fraction, 4),
        "mean_wait_seconds": round(result.mean_wait_seconds, 3),
        "binding": result.binding,
        "concurrency_ceiling_rps": result.concurrency_ceiling_rps,
        "burst_affected": result.burst_affected,
        "budgets": [
            {
                "name": one.name,
                "limit": one.limit,
                "window_seconds": one.window.total_seconds(),
                "cost_per_request": one.cost,
                "ceiling_per_minute": _finite(one.ceiling_rps * 60),
                "utilisation": round(one.utilisation, 4),
                "blocked": one.blocked,
                "binding": one.binding,
            }
            for one in result.budgets
        ],
    }


def _finite(value: float) -> float | None:
    return round(value, 3) if value < float("inf") else None


def _print_result(result: Any) -> None:
    workers = f"{result.workers} worker{'s' * (result.workers != 1)}"
    keys = f" and {result.keys} keys" if result.keys != 1 else ""
    print(f"Requests    {result.requests:,} by {workers}{keys}")
    if result.achieved_rps is None:
        print("Wall time   none: all of it fits in one burst")
    else:
        print(f"Wall time   {result.wall_seconds:,.1f} s, {result.achieved_rps:.2f} requests/s")
    print(f"\n{'budget':<16}{'limit':>24}{'cost':>9}{'ceiling':>14}{'used':>7}{'held back':>11}")
    for one in result.budgets:
        limit = f"{one.limit:,} per {one.window}"
        ceiling = f"{one.ceiling_rps:,.3g}/s"
        mark = "  <- binding" if one.binding else ""
        print(
            f"{one.name:<16}{limit:>24}{one.cost:>9,g}{ceiling:>14}{one.utilisation:>7.0%}"
            f"{one.blocked:>11,}{mark}"
        )
    print()
    if not result.completed:
        print("It does not end within the simulated time: the limits are far below this workload.")
    elif result.throttled:
        share = f"{result.throttled:,} of {result.requests:,} ({result.throttled_fraction:.0%})"
        print(f"{share} requests wait, {result.mean_wait_seconds:.1f} s on average.")
    else:
        print("No request is held back.")
    if result.burst_affected:
        print("Budgets start full: the first burst will not come again.")
    print("This is when the limiter holds a request back. A server's own 429s are not foretold.")


if __name__ == "__main__":
    sys.exit(main())
