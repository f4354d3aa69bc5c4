"""The service that choked.md calls managed, asked over HTTP: `headway serve`, or one that speaks
choked's protocol.

    export CHOKED_API_URL=http://127.0.0.1:8787
    export CHOKED_API_TOKEN=...

Connections are kept open and shared by threads; tasks ask in threads of a pool of their own, so one
way of asking is all there is.

Nothing is charged twice. A kept connection may end while a request is under way, and then nobody
knows whether it was delivered. It is sent once more only to the very process that was asked first,
which answers it as it did, or would have, the first time: `headway serve` names itself in
Headway-Instance, remembers requests by their Idempotency-Key, and refuses what another process was
asked. In all other cases, and with services that do not name themselves, whoever gets no answer
raises StoreUnavailableError, which says that the call may have been counted.
"""

import http.client
import json
import os
import select
import threading
import time
import uuid
from collections.abc import Mapping
from typing import NamedTuple, NoReturn
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakSet

from headway._core import __version__
from headway._forks import open_after_fork
from headway._http import Connection, SecureConnection, shown
from headway.exceptions import DataError, SetUpError, StoreUnavailableError

__all__ = ["Asking", "Service", "Told", "service_from"]

_TIMEOUT_S = 5.0
"""For connecting, and for a whole answer beyond the time that the service was asked to wait."""
_IDLE_S = 60.0
"""A connection that was not used for longer is not used again; the service closes it at 75."""
_MOST_IDLE = 64
_MOST_ANSWER = 65_536
_INSTANCE = "Headway-Instance"
_HOW = (
    "run `headway serve` and set CHOKED_API_URL to where it listens, such as http://127.0.0.1:8787"
)


_Kept = tuple[Connection, str | None]
"""A connection, and the name of the process behind it, where it has one."""


class Told(NamedTuple):
    """What the service said: whether to go, else the seconds to wait, None where it did not say."""

    admitted: bool
    retry_after: float | None


class _Lost(Exception):
    """A connection ended before a byte of an answer came."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Asking:
    """One request under way, for who may not stay to hear the answer."""

    __slots__ = ("_connection", "_left")

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._left = False

    def leave(self) -> None:
        """Hang up. The service lets go of a place in line that nobody is left to take."""
        self._left = True
        connection = self._connection
        if connection is not None:
            _hang_up(connection)

    def _take(self, connection: Connection) -> None:
        self._connection = connection
        if self._left:
            _hang_up(connection)


class Service:
    """A place and a token, and the connections that are open to it.

    Raises SetUpError for a URL that is none, or that has no place for it.
    """

    def __init__(self, token: str, url: str) -> None:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise SetUpError("Invalid CHOKED_API_TOKEN: must be printable ASCII without blanks.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # its text may quote a password
            raise SetUpError(
                f"Invalid CHOKED_API_URL: {shown(url)!r}: its host or its port is none."
            ) from None
        if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
            raise SetUpError(
                f"Invalid CHOKED_API_URL: {shown(url)!r}, must be such as "
                "'https://limits.example.com' or 'http://127.0.0.1:8787'."
            )
        if parts.query or parts.fragment:
            raise SetUpError(f"Invalid CHOKED_API_URL: {shown(url)!r}, must end with its path.")
        self.url = url
        self._tls = parts.scheme == "https"
        self._host, self._port = host, port
        self._path = parts.path.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {token}",
            "User-Agent": f"headway/{__version__}",
            "Accept": "application/json",
        }
        self._start_anew()
        _all.add(self)

    def __repr__(self) -> str:
        return f"Service({self.url!r})"

    def _start_anew(self) -> None:
        """Forget all connections: also what a fork's child does, whose parent goes on with them."""
        self._lock = threading.Lock()
        self._idle: list[tuple[float, _Kept]] = []

    def acquire(
        self, fields: Mapping[str, object], wait: float = 0.0, asking: Asking | None = None
    ) -> Told:
        """Ask for what a call needs, to be kept waiting for up to `wait` seconds.

        Raises StoreUnavailableError where nobody answers, SetUpError where the token is refused,
        DataError where the service says that something is wrong with `fields`.
        """
        if wait:
            fields = {**fields, "timeout": f"{wait:g}"}
        return self._ask("GET", "/choked/acquire", fields, wait, asking)

    def settle(self, fields: Mapping[str, object], surplus: int) -> None:
        """Give back tokens, or charge more of them. Raises as `acquire` does."""
        self._ask("POST", "/choked/settle", {**fields, "surplus": surplus}, 0.0, None)

    def close(self) -> None:
        """Close what is idle; the next request connects again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, (connection, _) in idle:
            connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        fields: Mapping[str, object],
        wait: float,
        asking: Asking | None,
    ) -> Told:
        target = f"{self._path}{path}?{urlencode(fields, quote_via=quote, safe='')}"
        headers = {**self._headers, "Idempotency-Key": uuid.uuid4().hex}
        asking = asking or Asking()
        for kept in (self._take_idle(), None):
            connection, instance = kept or (self._connect(), None)
            try:
                return self._exchange(connection, method, target, headers, wait, asking)
            except _Lost as lost:
                # The service has closed it meanwhile, as it may; or it died with the request.
                connection.close()
                if instance is None or asking._left:
                    self._raise(lost.error, "closed", True)
                headers[_INSTANCE] = instance
            except TimeoutError as error:
                connection.close()
                self._raise(error, "timeout", True)
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                self._raise(error, "protocol", True)
        raise AssertionError("the second connection is fresh")

    def _connect(self) -> Connection:
        kind = SecureConnection if self._tls else Connection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            self._raise(error, "timeout", False)
        except OSError as error:
            connection.close()
            self._raise(error, "connect", False)
        return connection

    def _exchange(
        self,
        connection: Connection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        wait: float,
        asking: Asking,
    ) -> Told:
        asking._take(connection)
        connection.allow(_TIMEOUT_S + wait)
        try:
            connection.request(method, target, headers=dict(headers))
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            raise _Lost(error) from error
        body = response.read(_MOST_ANSWER)
        asking._connection = None
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._put_idle(connection, response.headers.get(_INSTANCE))
        return self._told(response, body)

    def _told(self, response: http.client.HTTPResponse, body: bytes) -> Told:
        status = response.status
        if status == 200:
            return self._admitted(response, body)
        if status == 429:
            return Told(False, _retry_after(response.headers))
        said = _message(body)
        if status in (401, 403):
            raise SetUpError(f"The service at {self.url} refuses CHOKED_API_TOKEN ({status}).")
        if status in (400, 413, 414, 422):
            raise DataError(said or f"The service at {self.url} answers {status}.")
        error = StoreUnavailableError(
            f"The service at {self.url} answers {status}{f': {said}' if said else '.'}"
        )
        error.fault, error.may_have_counted = "service", status == 409
        raise error

    def _admitted(self, response: http.client.HTTPResponse, body: bytes) -> Told:
        """Read an answer of 200: a service admits by it, and a proxy shows its own pages by it."""
        kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
        if kind.startswith("text/html"):
            error = StoreUnavailableError(
                f"The service at {self.url} answers with a page in HTML: is it a proxy's?"
            )
            error.fault = "service"
            raise error
        try:
            said = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            said = {}  # a service that is not ours may say what it likes
        if isinstance(said, dict) and said.get("limited") is True:
            return Told(False, _retry_after(response.headers))
        return Told(True, 0.0)

    def _raise(self, cause: Exception, fault: str, may_have_counted: bool) -> NoReturn:
        error = StoreUnavailableError(
            f"The service at {self.url} cannot be asked ({fault}): {cause or type(cause).__name__}"
        )
        error.fault, error.may_have_counted = fault, may_have_counted
        raise error from cause

    def _take_idle(self) -> _Kept | None:
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since, kept = self._idle.pop()
            # An idle connection has nothing to say: one that has is at its end.
            if now - since < _IDLE_S and not _readable(kept[0]):
                return kept
            kept[0].close()

    def _put_idle(self, connection: Connection, instance: str | None) -> None:
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append((time.monotonic(), (connection, instance)))
                return
        connection.close()


def _readable(connection: Connection) -> bool:
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(connection: Connection) -> None:
    import socket

    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):
            return


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    for name, unit in (("Retry-After-Ms", 0.001), ("Retry-After", 1.0)):
        text = headers.get(name) or ""
        try:
            seconds = float(text) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _message(body: bytes) -> str:
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return said[:500] if isinstance(said, str) else ""


_all: "WeakSet[Service]" = WeakSet()
_known: dict[tuple[str, str], Service] = {}
_known_lock = open_after_fork(threading.Lock())


def service_from(token: str | None = None, url: str | None = None) -> Service | None:
    """Return the service that a token is for; None where there is none, here or in the environment.

    All who name the same share its connections. Raises SetUpError where its URL is missing or none.
    """
    token = token or os.environ.get("CHOKED_API_TOKEN")
    if not token:
        return None
    url = url or os.environ.get("CHOKED_API_URL")
    if not url:
        raise SetUpError(
            f"api_token, or CHOKED_API_TOKEN, is for a service, and CHOKED_API_URL does not say "
            f"which: {_HOW}. Without a token the limits are kept in Redis, or in this process."
        )
    with _known_lock:
        service = _known.get((token, url))
        if service is None:
            service = _known[token, url] = Service(token, url)
        return service


def _after_fork() -> None:
    for service in list(_all):
        service._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
