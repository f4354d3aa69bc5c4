"""One request of a client, as key functions, quotas and costs see it, and the key functions.

Who is asking is what the server knows, never what the client says of itself: a token that was
checked, a session that this server has opened, the address of a connection. Where HTTP has neither
token nor session the address stands in, so that there is no way to be nobody.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from headway.contrib._keys import KeyFunction, KeyLike, client_address, key_function, user
from headway.contrib.mcp import _sdk

__all__ = ["Call", "CallFacts", "caller", "everyone", "session"]

_PROCESS = secrets.token_hex(8)
_connections: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Call:
    """A request: `tools/call` of a tool, or any other method of the protocol."""

    method: str
    """For example "tools/call", "resources/read"."""
    name: str
    """The tool or prompt, or the URI of the resource; the method where there is no such thing."""
    arguments: Mapping[str, Any] = field(repr=False)
    """What the tool or prompt is called with, as the client sent it."""
    context: Any = field(repr=False)
    """The SDK's own: `ServerRequestContext` in 2.x, `RequestContext` in 1.x, None outside."""

    @property
    def http(self) -> Any:
        """The request of Starlette that brought it, None over stdio."""
        return getattr(self.context, "request", None)

    @property
    def token(self) -> Any:
        """The SDK's `AccessToken` of the caller, None where there is none."""
        auth: Any = import_module("mcp.server.auth.middleware.auth_context")
        return auth.get_access_token()

    @property
    def user(self) -> str | None:
        """Whom the access token was given to: its subject, else its client. None without a token.

        Subjects are unique only for one issuer, and both are part of what is returned.
        """
        token = self.token
        if token is None:
            return None
        subject = getattr(token, "subject", None)
        if subject is None:
            return f"client:{token.client_id}"
        issuer = (getattr(token, "claims", None) or {}).get("iss", "")
        return f"subject:{issuer}|{subject}"

    @property
    def session(self) -> str | None:
        """The session. None over HTTP without sessions, where every request stands alone."""
        session = getattr(self.context, "session", None)
        if self.http is None:
            if getattr(session, "client_params", None) is None:
                return f"process:{_PROCESS}"
            return _connection(getattr(session, "_connection", session))
        if _sdk.IS_V2:
            return getattr(getattr(session, "_connection", None), "session_id", None)
        # 1.x keeps no id. A session that was opened belongs to the id that its client sends; one
        # that was not, of a stateless server, takes any id, so it must not be believed.
        if getattr(session, "client_params", None) is None:
            return None
        headers = self.http.headers
        return headers.get("mcp-session-id")  # type: ignore[no-any-return]

    @property
    def address(self) -> str | None:
        """The address that the connection comes from, None over stdio."""
        client = getattr(self.http, "client", None)
        return None if client is None else client.host

    @property
    def client(self) -> str | None:
        """What the client's program calls itself. Good for a report, not for a limit."""
        params = getattr(getattr(self.context, "session", None), "client_params", None)
        info = getattr(params, "client_info", None) or getattr(params, "clientInfo", None)
        return None if info is None else info.name


def _connection(connection: Any) -> str:
    """A name for a connection that lasts, the same as long as it lives.

    A connection of the protocol of 2026 is made anew for every request, even over stdio, where
    there is one client for each process.
    """
    if _sdk.IS_V2:
        version: Any = import_module("mcp_types.version")
        if getattr(connection, "protocol_version", None) in version.MODERN_PROTOCOL_VERSIONS:
            return f"process:{_PROCESS}"
    name = _connections.get(connection)
    if name is None:
        name = _connections.setdefault(connection, f"connection:{secrets.token_hex(8)}")
    return name


class CallFacts:
    """A call as the key functions that all integrations share read it."""

    __slots__ = ("request",)

    def __init__(self, call: Call) -> None:
        self.request = call

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def path(self) -> str:
        return self.request.name

    def address(self) -> str | None:
        """The peer's; over stdio what stands for this process, which has one client."""
        call = self.request
        return f"process:{_PROCESS}" if call.http is None else call.address

    def header(self, name: str) -> str | None:
        http = self.request.http
        return None if http is None else ", ".join(http.headers.getlist(name)) or None

    def query(self, name: str) -> str | None:
        http = self.request.http
        return None if http is None else http.query_params.get(name)

    def route(self) -> str:
        return self.request.name

    def user(self) -> str | None:
        return self.request.user


class _Session(KeyFunction):
    __slots__ = ("missing",)

    def __init__(self, missing: KeyLike | None) -> None:
        self.missing = user() if missing is None else key_function(missing)

    def __call__(self, facts: Any) -> Any:
        session = facts.request.session
        return "session:" + session if session is not None else self.missing(facts)

    def __repr__(self) -> str:
        return "session()"


def session(missing: KeyLike | None = None) -> KeyFunction:
    """The session; over stdio the connection.

    missing: who is counted where HTTP has no sessions, by default `user()`. A client may open as
    many sessions as it likes: against one that means harm, limit by user or address.
    """
    return _Session(missing)


class _Peer(KeyFunction):
    """Over HTTP the address, else the connection."""

    __slots__ = ("address", "session")

    def __init__(self) -> None:
        self.address, self.session = client_address(), session()

    def __call__(self, facts: Any) -> Any:
        return (self.session if facts.request.http is None else self.address)(facts)

    def __repr__(self) -> str:
        return "caller()"


def caller() -> KeyFunction:
    """The user of the access token, else over HTTP the address, and elsewhere the connection.

    A session over HTTP is no caller: a client may open as many as it likes.
    """
    return user(missing=_Peer())


class _Everyone(KeyFunction):
    __slots__ = ()

    def __call__(self, facts: Any) -> str:
        return "everyone"

    def __repr__(self) -> str:
        return "everyone()"


def everyone() -> KeyFunction:
    """All callers together."""
    return _Everyone()
