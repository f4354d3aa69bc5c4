"""A client of the user's own as the connection of a store: redis-py's, its cluster's, fakeredis.

The compiled store hands over a command as words and reads the reply in Redis' own protocol. So a
decision through such a client is the same script and the same reading, at the client's speed.
Slots, redirects, pools and retries are the client's affair: a client that sends a command again by
itself may count a decision twice.
"""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from headway._redis_errors import unavailable
from headway._workers import in_worker
from headway.exceptions import SetUpError, StoreUnavailableError

__all__ = ["Client", "is_client"]

Undo = Callable[[bytes], "list[bytes] | None"]


def is_client(candidate: object) -> bool:
    """Tell whether it is a client of Redis, sync or asyncio."""
    return callable(getattr(candidate, "execute_command", None)) and not isinstance(candidate, type)


class Client:
    """What the compiled store calls."""

    __slots__ = ("__weakref__", "_errors", "_pending", "awaits", "client", "name")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.awaits = _awaits(client)
        self.name = _described(client)
        self._errors = _errors_of(client)
        self._pending: set[asyncio.Future[Any]] = set()

    def call(self, words: list[bytes]) -> bytes:
        """Send a command and return its reply. Raises StoreUnavailableError."""
        if self.awaits:
            raise SetUpError(
                f"Invalid store: {self.name} is a client for asyncio, and this call is not "
                "awaited: give a client such as redis.Redis, or a URL, which serves both."
            )
        try:
            return _encoded(self.client.execute_command(words[0].decode(), *words[1:]))
        except Exception as error:
            return self._refused(error)

    async def _ask(self, words: list[bytes]) -> bytes:
        if not self.awaits:
            context = contextvars.copy_context()  # what watches the client goes by it
            return await in_worker(self, lambda: context.run(self.call, words))
        try:
            return _encoded(await self.client.execute_command(words[0].decode(), *words[1:]))
        except Exception as error:
            return self._refused(error)

    async def call_async(self, words: list[bytes], undo: Undo | None) -> bytes:
        """Send a command and return its reply; a client that blocks is asked in a thread.

        Whoever is cancelled meanwhile leaves the command to itself. `undo` makes, of the reply that
        comes in the end, the command that gives back what was taken.
        """
        asked = asyncio.ensure_future(self._ask(words))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            if not asked.cancelled():
                self._pending.add(asked)
                asked.add_done_callback(functools.partial(self._abandoned, undo))
            raise

    def _abandoned(self, undo: Undo | None, asked: "asyncio.Future[bytes]") -> None:
        self._pending.discard(asked)
        if not asked.cancelled() and asked.exception() is None and undo is not None:
            words = undo(asked.result())
            if words is not None:
                self.tell(words)

    def tell(self, words: list[bytes]) -> None:
        """Send a command from a running event loop, without waiting for the reply."""
        task = asyncio.ensure_future(self._ask(words))
        self._pending.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: "asyncio.Future[Any]") -> None:
        self._pending.discard(task)
        if not task.cancelled():
            task.exception()  # what is told is not waited for, so nobody wants to know

    def _refused(self, error: Exception) -> bytes:
        """Return an error of the server as its reply; raise what says that there was none."""
        errors = self._errors
        kinds = [kind.__name__ for kind in type(error).__mro__]
        if "AuthenticationError" in kinds or "AuthorizationError" in kinds:
            raise unavailable(self.name, "login", str(error), False) from error
        if "NoScriptError" in kinds:
            return b"-NOSCRIPT No matching script.\r\n"
        if isinstance(error, errors.ResponseError):
            text = f"{_PREFIXES.get(kinds[0], '')}{error}"
            if "unknown command" in text.lower() and "eval" in text.lower():
                raise SetUpError(
                    f"Invalid store: {self.name} runs no scripts: {text}. "
                    "For fakeredis: pip install 'fakeredis[lua]'."
                ) from error
            return f"-{text}\r\n".encode()
        if isinstance(error, (errors.TimeoutError, TimeoutError)):
            raise unavailable(self.name, "timeout", str(error), True) from error
        if isinstance(error, (errors.RedisError, OSError)):
            connecting = " connecting to " in str(error) or "onnection refused" in str(error)
            fault = "connect" if connecting else "closed"
            raise unavailable(self.name, fault, str(error), not connecting) from error
        raise error


# redis-py takes the first word of these errors away.
_PREFIXES = {
    "BusyLoadingError": "LOADING ",
    "ReadOnlyError": "READONLY ",
    "MasterDownError": "MASTERDOWN ",
    "ClusterDownError": "CLUSTERDOWN ",
    "TryAgainError": "TRYAGAIN ",
    "NoPermissionError": "NOPERM ",
    "OutOfMemoryError": "OOM ",
}


def _awaits(client: Any) -> bool:
    method = type(client).execute_command
    return inspect.iscoroutinefunction(inspect.unwrap(method)) or any(
        ".asyncio" in kind.__module__ for kind in type(client).__mro__
    )


def _errors_of(client: Any) -> Any:
    """The module with the errors of the library that the client is of."""
    for kind in type(client).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in ("redis", "valkey"):
            return import_module(f"{root}.exceptions")
    raise SetUpError(
        f"Invalid store: {client!r}, must be a client of redis-py or valkey-py, a store, or a URL."
    )


def _described(client: Any) -> str:
    """How it is called in messages: never with a password, which its own repr may hold."""
    arguments = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    kind = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
    place = arguments.get("path") or (
        f"{arguments['host']}:{arguments.get('port', 6379)}" if arguments.get("host") else ""
    )
    return f"{kind}({place})"


def _encoded(reply: Any) -> bytes:
    """A reply in the protocol's form. Errors within a reply do not come from a script of ours."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bool | int):
        return b":%d\r\n" % reply
    if isinstance(reply, str):
        reply = reply.encode("utf-8", "surrogateescape")
    if isinstance(reply, bytes | bytearray | memoryview):
        return b"$%d\r\n%b\r\n" % (len(reply), bytes(reply))
    if isinstance(reply, list | tuple):
        return b"*%d\r\n" % len(reply) + b"".join(map(_encoded, reply))
    raise StoreUnavailableError(f"The client answered {reply!r}, which no script of headway says.")
