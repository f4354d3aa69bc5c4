"""What a limit may know of a request, whatever the framework: `Facts`.

Each integration makes one class of these. The built-in key functions read nothing else, so they
work everywhere; a user's own callable is given `request`, the framework's own object.
"""

from typing import Any, Protocol

__all__ = ["Facts"]


class Facts(Protocol):
    """One request, read lazily: nothing here may cost anything before it is asked for."""

    @property
    def request(self) -> Any:
        """The framework's request: what callables of the user's own are given."""
        ...

    @property
    def method(self) -> str:
        """In capitals. The handshake of a WebSocket is a GET."""
        ...

    @property
    def path(self) -> str:
        """The path that the application's router sees.

        It is decoded, and without the query, the root path of a server and the prefix of a mount.
        """
        ...

    def address(self) -> str | None:
        """The address of whoever is connected, without a port: a proxy where there is one.

        None where there is none, as on a Unix socket.
        """
        ...

    def header(self, name: str) -> str | None:
        """The value of a header by its name in small letters; several are joined with ", "."""
        ...

    def query(self, name: str) -> str | None:
        """The first value of a parameter of the query."""
        ...

    def route(self) -> str:
        """The template of the route that serves the request; its path where there is none yet."""
        ...

    def user(self) -> str | None:
        """Who is logged in, as the framework names them; None for nobody."""
        ...
