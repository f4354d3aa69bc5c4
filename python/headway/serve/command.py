"""`headway serve`: its arguments, and what it says."""

from __future__ import annotations

import argparse
import logging
import sys
from importlib.util import find_spec

from headway.commands.parser import Missing, Refused, bounded, seconds
from headway.serve import early

__all__ = ["HELP", "add_arguments", "run"]

HELP = "serve limits over HTTP, to programs that share no store"
DESCRIPTION = """\
Answers over HTTP whether a request is within its limits: choked's protocol at /choked/acquire, and
a JSON API at /v1. The state is kept in --store. See docs/service.md."""
EPILOG = """\
examples:
  headway serve                                              for programs of this machine
  headway serve --store redis://localhost:6379/0             state that others share and outlives it
  headway serve --listen 0.0.0.0:8787 --token-file tokens --tls-cert cert.pem --tls-key key.pem

a token file holds TENANT:TOKEN in each line, with :admin after a token that sees all tenants;
SIGHUP reads it, and the certificate, again. SIGTERM stops the service when all are answered.

exit codes: 0 stopped by a signal, 2 wrong argument, file or address, 3 something must be installed,
69 the store cannot be used"""
_NEEDS = ("uvicorn", "httptools", "prometheus_client")
_SECONDS = seconds(0.001, 86_400)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--listen",
        default="127.0.0.1:8787",
        type=_address,
        metavar="HOST:PORT",
        help="where to listen (default: 127.0.0.1:8787); port 0 takes a free one; "
        "an address of other machines needs --token-file",
    )
    add(
        "--store",
        default="memory://",
        metavar="URL",
        help="where the state is kept: memory:// (default), redis://…, sqlite:///…, shm:///…",
    )
    add(
        "--max-keys",
        type=bounded(1, 100_000_000),
        metavar="N",
        help="keys of each tenant in memory:// (default: 65536); a tenant that has more loses "
        "those of its own that have used the least",
    )
    add("--token-file", metavar="FILE", help="who may ask: TENANT:TOKEN in each line")
    add("--tls-cert", metavar="FILE", help="the certificate and its chain, in PEM: serve https")
    add("--tls-key", metavar="FILE", help="its key, where that is another file")
    add(
        "--max-body",
        type=bounded(1, 16 * 1024 * 1024),
        default=64 * 1024,
        metavar="BYTES",
        help="the largest body of a request (default: 65536)",
    )
    add(
        "--max-connections",
        type=bounded(1, 1_000_000),
        default=10_000,
        metavar="N",
        help="more are turned away (default: 10000)",
    )
    add(
        "--max-wait",
        type=_SECONDS,
        default=60.0,
        metavar="SECONDS",
        help="how long a request may ask to be kept waiting (default: 60)",
    )
    add(
        "--header-timeout",
        type=_SECONDS,
        default=10.0,
        metavar="SECONDS",
        help="the time a client has for the head of a request (default: 10)",
    )
    add(
        "--body-timeout",
        type=_SECONDS,
        default=10.0,
        metavar="SECONDS",
        help="the time it has for the body, and to read the answer (default: 10)",
    )
    add(
        "--keep-alive",
        type=_SECONDS,
        default=75.0,
        metavar="SECONDS",
        help="how long a connection may stay open without a request (default: 75)",
    )
    add(
        "--stop-timeout",
        type=_SECONDS,
        default=10.0,
        metavar="SECONDS",
        help="how long a stop waits for requests under way (default: 10)",
    )
    add("--metrics-public", action="store_true", help="serve /metrics without a token")
    add(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="what goes to standard error (default: warning)",
    )
    add("--access-log", action="store_true", help="log every request, at level info")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal says to stop, and return the exit code.

    Raises Missing, and BaseThrottledError for what it cannot start with.
    """
    with early.taken():
        return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    for name in _NEEDS:
        if find_spec(name) is None:
            raise Missing(f'{name} is missing; run: pip install "headway[serve]"')
    level = "info" if args.access_log and args.log_level != "debug" else args.log_level
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn.error").addFilter(_not_of_requests)
    from headway.serve.server import Options, serve
    from headway.store import MemoryStore, from_url

    host, port = args.listen
    store = from_url(args.store)
    if args.max_keys is not None and not isinstance(store, MemoryStore):
        raise Refused("argument --max-keys: only memory:// has such a limit")
    serve(
        Options(
            host=host,
            port=port,
            store=store,
            token_file=args.token_file,
            max_keys=args.max_keys,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            max_body=args.max_body,
            max_wait=args.max_wait,
            max_connections=args.max_connections,
            header_timeout=args.header_timeout,
            body_timeout=args.body_timeout,
            keep_alive=args.keep_alive,
            stop_timeout=args.stop_timeout,
            metrics_public=args.metrics_public,
            access_log=args.access_log,
        ),
        _say,
    )
    return 0


def _say(where: str) -> None:
    sys.stdout.write(f"headway serves on {where}\n")
    sys.stdout.flush()


def _not_of_requests(record: logging.LogRecord) -> bool:
    """Leave out what any client can write into the log as often as it likes."""
    of_a_connection = record.module.endswith("_impl") or "request" in record.getMessage()
    return not of_a_connection or record.levelno >= logging.ERROR


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be HOST:PORT, such as 127.0.0.1:8787 or [::1]:8787"
        )
    return host, int(port)
