"""A service of `headway serve`, as peek, reset and doctor ask it: JSON over HTTP or HTTPS.

The token goes to the host that the URL names and to no other: redirects and proxies are not
followed. It comes from a file or from HEADWAY_TOKEN, never from the command line, which all users
of a machine may read.
"""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headway._http import Connection, SecureConnection, shown
from headway.commands.parser import Refused
from headway.commands.targets import Limit, Remaining
from headway.exceptions import StoreUnavailableError

__all__ = ["Service", "token_of"]

TIMEOUT = 10.0  # seconds, for each whole answer
LARGEST = 8 << 20  # bytes of an answer: a thousand of the longest keys, each byte escaped


class Service:
    """The service at `url`; `source` is what to call the URL in an error."""

    def __init__(self, url: str, source: str, token_file: str | None) -> None:
        self.name = shown(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Refused(
                f"{source}: {self.name!r}, must be as http://127.0.0.1:8787, the port a number "
                "from 1 to 65535"
            ) from None
        if parts.username is not None or parts.password is not None:
            raise Refused(
                f"{source}: {self.name!r}, a service takes no password; put its token into a file "
                "for --token-file, or into HEADWAY_TOKEN"
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise Refused(f"{source}: {self.name!r}, must be as http://127.0.0.1:8787")
        self.path, self.token = parts.path.rstrip("/"), token_of(token_file)
        self._connection = (
            SecureConnection(parts.hostname, port, timeout=TIMEOUT)
            if parts.scheme == "https"
            else Connection(parts.hostname, port, timeout=TIMEOUT)
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def peek(self, limit: Limit) -> Remaining:
        """What the key has left."""
        answer = self._post("/v1/peek", limit)
        try:
            after = answer["reset_after"]
            reset_after = float("inf") if after is None else float(after)
            return Remaining(int(answer["limit"]), int(answer["remaining"]), reset_after)
        except (KeyError, TypeError, ValueError):
            raise self._unavailable("its answer is not one of headway serve") from None

    def reset(self, limit: Limit) -> None:
        """Gives the key its whole limit back."""
        self._post("/v1/reset", limit)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        headers = {"Accept": "application/json", "User-Agent": "headway"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        self._connection.allow(TIMEOUT)
        try:
            self._connection.request(method, self.path + path, body, headers)
            response = self._connection.getresponse()
            said = response.read(LARGEST)
            if not response.isclosed():  # the rest would be taken for the next answer
                self._connection.close()
            return response.status, said
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._unavailable(f"{why}. Does headway serve run there?") from error

    def _post(self, path: str, limit: Limit) -> dict[str, Any]:
        if limit.prefix is not None:
            raise Refused(
                f"argument --prefix: {limit.prefix!r}, a service has prefixes of its own; leave it "
                "out"
            )
        if isinstance(limit.key, bytes):
            raise Refused(f"argument KEY: {limit.key!r}, a service takes text in UTF-8 only")
        asked = {"key": limit.key, "quota": limit.quota, "using": limit.using}
        status, body = self.ask("POST", path, json.dumps(asked).encode())
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        raise self._refusal(status, answer, path)

    def _refusal(self, status: int, answer: object, path: str) -> Exception:
        said = answer.get("error", "") if isinstance(answer, dict) else ""
        said = said.get("message", "") if isinstance(said, dict) else said
        said = f": {said}" if isinstance(said, str) and said else ""
        if status in (401, 403):
            why = "does not accept the token that was given" if self.token else "needs a token"
            return Refused(f"{self.name} {why}{said}; give --token-file, or set HEADWAY_TOKEN")
        if status in (400, 413, 422):
            return Refused(f"{self.name} refuses the request{said}")
        if status == 200 or status in (404, 405):
            return self._unavailable(f"it knows no {path}: is it a headway serve?")
        return self._unavailable(
            f"it answers {status} {http.client.responses.get(status, '')}{said}"
        )

    def _unavailable(self, why: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.name} cannot answer: {why}")


def token_of(path: str | None) -> str | None:
    """The token in the first line of a file, else in HEADWAY_TOKEN; None where neither is given.

    The line may be one of the file that `headway serve` reads: `name:token` or `name:token:role`.
    """
    if path is None:
        token, source = os.environ.get("HEADWAY_TOKEN", "").strip(), "HEADWAY_TOKEN"
    else:
        source = "argument --token-file"
        try:
            content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
            text = content.decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text in ASCII"
            raise Refused(f"{source}: {path!r} cannot be read: {why}") from None
        lines = (line.strip(" \t\r") for line in text.split("\n"))
        token = next((line for line in lines if line and not line.startswith("#")), "")
        if not token:
            raise Refused(f"{source}: {path!r} is empty, must hold a token in its first line")
        parts = token.split(":")
        token = parts[1] if len(parts) > 1 else token
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Refused(f"{source}: must hold a token of printable ASCII characters, without spaces")
    return token or None
