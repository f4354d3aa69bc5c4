"""Who may ask: the tokens of a file, and whose keys each of them reaches.

    # tenant:token or tenant:token:admin, or a token alone; one in a line
    alice:6f1c2f0a8d
    ops:1b7e55c9d3:admin

Every tenant has a key space of its own. Its name ends the prefix of its keys, and cannot hold the
colon that follows the prefix, so no key of one tenant can be written as a key of another. Where the
state is in memory, each has a store of its own too: a store that is full lets keys go, and those
must not be another tenant's.

A token is looked up by its digest under a key that is made anew when the file is read. How long the
look-up takes says something about digests that nobody outside can compute, and nothing about
tokens; the comparison at its end takes the same time whatever it compares.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import secrets
import stat
from hashlib import blake2b

from headway._core import MemoryStore
from headway.activity import Activity
from headway.exceptions import SetUpError
from headway.serve.limiters import Limiters
from headway.serve.remembered import Remembered
from headway.types import AnyStore

__all__ = ["DEFAULT_TENANT", "Tenant", "Tenants", "read_tokens"]

DEFAULT_TENANT = "default"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,512}=*\Z")
"""What RFC 6750 lets follow "Bearer "; it has no colon."""
_MOST_BYTES = 1 << 20
_LONG = 16
"""Characters of a token that takes too long to guess."""


class Tenant:
    """A key space: its limiters, what it did, and the requests that it may send again."""

    def __init__(self, name: str, store: AnyStore) -> None:
        self.name = name
        # A service without tenants shares its keys with programs that use the store directly.
        prefix = "headway" if name == DEFAULT_TENANT else f"headway.{name}"
        self.limiters = Limiters(store, prefix)
        self.activity = Activity()
        self.remembered = Remembered()
        self.waiting = 0
        """Requests that wait for their turn."""
        self.turn = asyncio.Lock()
        self.looking = 0
        """Requests for `/v1/keys` that are not answered; they are answered one at a time."""


class Tenants:
    """The tenants of a service, by their tokens.

    With `max_keys`, `store` says of what kind the state is, and in memory each tenant has a store
    of its own: of so many keys, or of the same size in shared memory. A tenant's store outlives its
    tokens, so that it comes back to what it had.
    """

    def __init__(self, store: AnyStore, max_keys: int | None = None) -> None:
        self._store, self._max_keys = store, max_keys
        self._stores: dict[str, AnyStore] = {}
        self._tenants: dict[str, Tenant] = {}
        self._secret = b""
        self._entries: dict[bytes, tuple[bytes, tuple[Tenant, bool]]] = {}
        self.open = True
        """Whether everybody may ask: no tokens were given."""

    def use(self, tokens: dict[str, tuple[str, bool]] | None) -> None:
        """Let exactly these tokens in, or everybody; tenants that stay keep what they had.

        Raises SetUpError where a tenant's store cannot be made; then all stays as it was.
        """
        names = {name for name, _ in tokens.values()} if tokens is not None else {DEFAULT_TENANT}
        self._tenants = {
            name: self._tenants.get(name) or Tenant(name, self._store_of(name)) for name in names
        }
        self.open = tokens is None
        self._secret = secrets.token_bytes(32)
        self._entries = {}
        for token, (name, admin) in (tokens or {}).items():
            digest = _digest(b"Bearer " + token.encode(), self._secret)
            self._entries[digest] = (digest, (self._tenants[name], admin))
        if self.open:
            self._anybody = (self._tenants[DEFAULT_TENANT], True)

    def _store_of(self, name: str) -> AnyStore:
        store = self._stores.get(name)
        if store is None:
            store = self._store if self._max_keys is None else self._store_for(name)
            self._stores[name] = store
        return store

    def _store_for(self, name: str) -> AnyStore:
        if isinstance(self._store, MemoryStore):
            return MemoryStore(options={"MAX_SIZE": self._max_keys})
        if self._store.TYPE == "shm" and name != DEFAULT_TENANT:
            from headway.store import SharedMemoryStore

            assert isinstance(self._store, SharedMemoryStore)
            shared = self._store
            return SharedMemoryStore(f"{shared.name}.{name}", shared.size, on_full=shared._on_full)
        return self._store

    def by_authorization(self, header: bytes | None) -> tuple[Tenant, bool] | None:
        """Return who sends this Authorization header and whether as admin; None for nobody."""
        if self.open:
            return self._anybody
        if header is None:
            return None
        found = self._find(header)
        if found is None:  # "bearer", in whatever case, and as many blanks as you like
            scheme, _, token = header.partition(b" ")
            if scheme.lower() == b"bearer":
                found = self._find(b"Bearer " + token.strip())
        return found

    def _find(self, header: bytes) -> tuple[Tenant, bool] | None:
        digest = _digest(header, self._secret)
        entry = self._entries.get(digest)
        if entry is None or not hmac.compare_digest(entry[0], digest):
            return None
        return entry[1]

    def by_name(self, name: str) -> Tenant | None:
        """Return a tenant, for an admin."""
        return self._tenants.get(name)

    def __len__(self) -> int:
        return len(self._tenants)

    def all(self) -> list[Tenant]:
        """Return all tenants, in the order of their names."""
        return [self._tenants[name] for name in sorted(self._tenants)]


def _digest(header: bytes, secret: bytes) -> bytes:
    # BLAKE2 needs no more than a prefix to be keyed, and is quicker so.
    return blake2b(secret + header, digest_size=32).digest()


def read_tokens(path: str) -> dict[str, tuple[str, bool]]:
    """Read a token file: each token's tenant, and whether it is an admin's.

    Raises SetUpError naming the line, never a token, or what is wrong with the file.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o007:
                raise SetUpError(
                    f"Invalid token file: {path!r} is open to every user of this machine "
                    f"(mode {stat.S_IMODE(mode):o}): chmod 600 {path}"
                )
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SetUpError(f"Invalid token file: {path!r}: {error.strerror}.") from None
    if len(content) > _MOST_BYTES:
        raise SetUpError(f"Invalid token file: {path!r} is larger than {_MOST_BYTES} bytes.")
    try:
        # Of what splitlines() takes for the end of a line, a comment may hold some.
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise SetUpError(f"Invalid token file: {path!r} is not text in UTF-8.") from None
    tokens: dict[str, tuple[str, bool]] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        token, name, admin = _read_line(f"Invalid token file: {path!r}, line {number}:", line)
        if token in tokens:
            raise SetUpError(
                f"Invalid token file: {path!r}, line {number}: its token is in the file twice."
            )
        tokens[token] = (name, admin)
    if not tokens:
        raise SetUpError(
            f"Invalid token file: {path!r} holds no token. Make one by: "
            'python3 -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return tokens


def _read_line(where: str, line: str) -> tuple[str, str, bool]:
    parts = line.split(":")
    if len(parts) > 3:
        raise SetUpError(f"{where} must be TOKEN, TENANT:TOKEN or TENANT:TOKEN:admin.")
    name, token = (DEFAULT_TENANT, parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    if not _NAME.match(name):
        raise SetUpError(
            f"{where} a tenant's name is 1 to 64 letters, digits and any of '_', '.' and '-'."
        )
    if not _TOKEN.match(token):
        raise SetUpError(
            f"{where} a token is 1 to 512 letters, digits and any of '-', '.', '_', '~', '+' and "
            "'/', then '=' if any."
        )
    if len(token) < _LONG <= len(name):
        raise SetUpError(
            f"{where} the tenant comes first and its token after it: TENANT:TOKEN. A tenant with "
            f"so long a name needs a token of at least {_LONG} characters."
        )
    if len(parts) == 3 and parts[2] != "admin":
        raise SetUpError(f"{where} the only role is 'admin'.")
    return token, name, len(parts) == 3
