"""States in a file: a table of keys and bytes that many threads and processes change one at a time.

One operation counts: `update(key, step)` reads the bytes of a key, lets `step` make new ones, and
writes them, all in one transaction that no other process can come between. Threads of one process
share a connection, and whoever holds it does the work of all who wait, in one transaction; so many
threads cost hardly more than one. A process that is killed in the middle has done nothing.

Limiters decide by the same operation; the rules of a quota have a row each, in one transaction.
All processes go by one clock: the file says, for each boot of the machine, what the first of them
took the offset of the monotonic clock to be, so a wall clock that is set between their starts
does not make them differ.

The file is in WAL mode with synchronous=NORMAL: what was written survives the process, though a
loss of power may take the last moments with it.

No connection is open while a process forks. SQLite knows in memory which locks the connections of
its process hold, and a child would take those of its parent for its own: one that was forked in the
middle of a transaction would find the file locked for ever. So a fork waits for the transaction at
hand and closes the file; parent and child open it again when they need it.
"""

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakSet

from headway._atomic_store import AtomicStore
from headway._boot_clock import boot_name, offset_ns
from headway._core import VirtualClock
from headway._interrupts import comes_from_a_handler, if_free
from headway._sqlite_file import identity_of as _identity_of
from headway._sqlite_file import make_private, remove_left_behind
from headway.algorithms import expires_ns
from headway.exceptions import SetUpError, StoreUnavailableError

if TYPE_CHECKING:
    from headway._core import Step as Decision

__all__ = ["SQLiteStore", "path_of"]

APPLICATION_ID = 0x68647779  # "hdwy"
VERSION = 1
BATCH = 128
"""So many steps at most in one transaction, so that other processes get their turn."""
SWEEP_NS = 60 * 10**9
FOREVER_NS = 1 << 62
ATTEMPTS_AT_ONCE = 30
"""So often a file that another process is writing is tried without a pause. That takes 0.1 ms, as
the shortest pause does too; a transaction is done in 25 us. With four processes there
are a fifth more transactions a second."""
CHECK_S = 1.0
"""So often a process looks whether its file is the one that the path names. That costs 2 us."""
ATTEMPTS_AFTER_FORKS = 2
"""How often a transaction begins anew because the process forked in the middle of it."""
PAUSE_S, LONGEST_PAUSE_S = 0.00005, 0.002
"""Between two attempts after that: at first, and at most."""

_A = TypeVar("_A")
Step = Callable[[bytes | None], tuple[bytes | None, _A]]

_SCHEMA = (
    "CREATE TABLE headway_states ("
    " key BLOB NOT NULL PRIMARY KEY, state BLOB NOT NULL, expires INTEGER NOT NULL"
    ") WITHOUT ROWID",
    "CREATE TABLE headway_clock (boot TEXT NOT NULL PRIMARY KEY, offset INTEGER NOT NULL)",
)
_READ = "SELECT state FROM headway_states WHERE key = ? AND expires > ?"
_WRITE = "INSERT OR REPLACE INTO headway_states (key, state, expires) VALUES (?, ?, ?)"
_DELETE = "DELETE FROM headway_states WHERE key = ?"
_SWEEP = (
    "DELETE FROM headway_states WHERE key IN"
    " (SELECT key FROM headway_states WHERE expires <= ? LIMIT 1000)"
)


def path_of(url: str) -> str:
    """The file that `url` names: sqlite:///relative, sqlite:////absolute, sqlite:///:memory:.

    Raises `SetUpError` for anything else.
    """
    place = url.removeprefix("sqlite://")
    if place in ("", "/", "/:memory:"):
        return ":memory:"
    if place == url or not place.startswith("/") or "?" in place or "\0" in place:
        raise SetUpError(
            f"Invalid store: {url!r}, must be 'sqlite:///relative/path', "
            "'sqlite:////absolute/path' or 'sqlite:///:memory:'."
        )
    return place[1:]


class _Job(Generic[_A]):
    """One step that waits for its turn; then its answer or its error."""

    __slots__ = ("answer", "error", "expires", "keys", "outcome", "step")

    def __init__(self, keys: tuple[bytes, ...], step: Any, expires: int | None) -> None:
        # The step takes and makes a tuple, as long as the keys are.
        self.keys, self.step, self.expires = keys, step, expires
        self.outcome: list[bool] | None = None
        """Shared by the jobs of a transaction, so that one operation marks all as done: it holds
        something when the transaction was committed, or failed with the error of each job."""
        self.answer: Any = None
        self.error: BaseException | None = None


class SQLiteStore(AtomicStore):
    """Keeps states in the file `path`, which is made where there is none.

    Processes of one machine that name the same file share their limits, and a restart forgets
    nothing.

    path: a file, a URL (`sqlite:///x.db`), or ":memory:" for one that lives with this object.
    busy_timeout: for how many seconds other processes are waited for. clock: a VirtualClock, for
    tests. Raises `SetUpError` for a file that cannot be used, `StoreUnavailableError` when it
    fails later, or when others held it for longer than busy_timeout.
    """

    TYPE: ClassVar[str] = "sqlite"
    _is_serial: ClassVar[bool] = True
    """All of it happens under one lock: more threads would only wait for it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 10.0,
        clock: VirtualClock | None = None,
    ) -> None:
        if clock is not None and not isinstance(clock, VirtualClock):
            raise SetUpError(f"Invalid clock: {clock!r}, must be a VirtualClock or None.")
        self.clock = clock
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise SetUpError(f"Invalid path: {path!r}, must be a file's name or ':memory:'.")
        name = os.fspath(path)
        name = path_of(name) if name.startswith("sqlite:") else name
        # A relative name stays what it is when the process changes its directory.
        self.path = name if name == ":memory:" else str(Path(name).absolute())
        if not isinstance(busy_timeout, (int, float)) or not 0 < busy_timeout <= 86400:
            raise SetUpError(
                f"Invalid busy_timeout: {busy_timeout!r}, must be seconds between 0 and 86400."
            )
        self._busy_timeout = float(busy_timeout)
        self._open: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open; None where no path names it."""
        self._checked = 0.0
        self._was_made = False
        """Whether this object made the file that it is about to open."""
        self._start_afresh()
        with _fork_lock:
            _stores.add(self)
            with self._lock:
                self._connection()

    @property
    def server(self) -> str:
        """The URL that names the file."""
        return f"sqlite:///{self.path}"

    def __repr__(self) -> str:
        return f"SQLiteStore({self.path!r})"

    # ---- operations

    def update(self, key: bytes, step: Step[_A], ttl_ns: int | None = None) -> _A:
        """Change the bytes of `key` by `step(old or None) -> (new or None, answer)`; the answer.

        New bytes of None delete the key, equal ones leave it as it is. `step`
        runs under a lock and must not wait; it may run again where a transaction had to be given
        up. ttl_ns: for how long the bytes are wanted; None for good.
        """

        def one(old: tuple[bytes | None]) -> tuple[tuple[bytes | None], _A]:
            new, answer = step(old[0])
            return (new,), answer

        expires = FOREVER_NS if ttl_ns is None else self._now() + ttl_ns
        return self._take(_Job((key,), one, expires))

    def _update(self, step: "Decision", /) -> None:
        self._take(_Job(step.keys, step, None))

    def _try_update(self, step: "Decision", /) -> bool:
        if self._open is None or self._jobs:
            return False  # opening may have to wait for others, too
        if self._is_to_be_checked() and self._was_replaced():
            return False
        job: _Job[None] = _Job(step.keys, step, None)
        if not if_free(self._lock, self._try, job):
            return False
        if job.error is not None:
            raise job.error
        return True

    def _try(self, job: _Job[None]) -> bool:
        """Take a step, if no other process has the file."""
        if self._open is None:
            return False
        try:
            self._transact([job], patient=False)
        except (sqlite3.Error, SetUpError) as error:
            if _is_busy(error):
                return False
            raise self._unavailable(error) from error
        return True

    def _take(self, job: _Job[_A]) -> _A:
        try:
            if self._lock._is_owned():
                self._take_within()
            self._jobs.append(job)
            with self._lock:
                while not job.outcome:
                    job.outcome = None  # what was under way was interrupted
                    if job not in self._jobs:  # a signal handler forked: the queue is a new one
                        self._jobs.append(job)
                    self._work()
        except BaseException:  # interrupted: no other thread is to take the step later
            _discard(self._jobs, job)
            raise
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[no-any-return]

    def _take_within(self) -> None:
        """Called by a signal handler, or by a step, while this thread has the lock."""
        connection = self._open
        if connection is not None and connection.in_transaction:
            # What the transaction has read may not be changed under it, and it can't go on before
            # this call returns.
            raise self._unavailable(
                sqlite3.OperationalError(
                    "this thread is in the middle of a transaction of the store, and a signal "
                    "handler, or a step, asked it again"
                )
            )

    def get(self, key: bytes) -> bytes | None:
        """The bytes of `key`."""
        rows = self._ask(_READ, key, self._now())
        return rows[0][0] if rows else None

    def keys(self) -> list[bytes]:
        """The keys there are."""
        rows = self._ask("SELECT key FROM headway_states WHERE expires > ?", self._now())
        return [row[0] for row in rows]

    def _data_version(self) -> int | None:
        """What is another number when another connection has written; None where that is not known.

        A step of this process does not change it.
        """
        with self._lock:
            try:
                if self._open is None or (self._is_to_be_checked() and self._was_replaced()):
                    return None
                found = self._open.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error:
                return None
            return found  # type: ignore[no-any-return]

    def _keys_under(self, prefix: bytes) -> list[bytes]:
        """The keys that begin with `prefix`, which does not end in 0xff."""
        after = prefix[:-1] + bytes([prefix[-1] + 1])
        sql = "SELECT key FROM headway_states WHERE key >= ? AND key < ? AND expires > ?"
        return [row[0] for row in self._ask(sql, prefix, after, self._now())]

    def clear(self, key: bytes | None = None) -> None:
        """Forget `key`, or all keys."""
        if key is None:
            self._ask("DELETE FROM headway_states")
        else:
            self._ask(_DELETE, key)

    def close(self) -> None:
        """Close the file. The next operation opens it again; what was in memory is gone."""
        with self._lock:
            connection, self._open = self._open, None
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        connection = getattr(self, "_open", None)
        if connection is None or _fork_lock is None:  # the latter where the interpreter ends
            return
        if _fork_lock._is_owned():
            connection.close()
        elif if_free(_fork_lock, _close, connection) is None:
            _abandoned.append(connection)  # another thread forks: closed afterwards

    # ---- one connection for each process

    def _start_afresh(self) -> None:
        # An RLock knows its owner. So what was interrupted as it was acquired can be released, and
        # a step or a signal's handler that uses the store again gets an error, not a deadlock.
        self._lock: Any = threading.RLock()
        # A list: a slice of it is whole also where threads run at once; a copy of a deque is not.
        self._jobs: list[_Job[Any]] = []
        self._stays_open = False
        self._open = None
        self._swept = self._now()

    def _is_to_be_checked(self) -> bool:
        """Whether the last look at what the path names is longer ago than CHECK_S."""
        return time.monotonic() - self._checked > CHECK_S

    def _was_replaced(self) -> bool:
        """Whether the path names another file than the one that is open, or none."""
        if self._file != _identity_of(self.path):
            return True
        self._checked = time.monotonic()
        return False

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and self._is_to_be_checked() and self._was_replaced():
            # It was deleted. New processes make a new file, and the limits are to be one.
            connection, self._open = self._open, None
            connection.close()
        if self._open is None:
            # Of several who make a new file at once SQLite refuses some, however patient they are.
            until = time.monotonic() + self._busy_timeout
            while self._open is None:
                try:
                    self._open = self._connect()
                except SetUpError as error:
                    if self._was_made and "disk I/O" in str(error.__cause__):
                        remove_left_behind(self.path)
                        self._was_made = False
                        continue
                    if not _is_busy(error) or time.monotonic() > until:
                        raise
                    time.sleep(LONGEST_PAUSE_S * random.random())
        return self._open

    def _connect(self) -> sqlite3.Connection:
        if self.path != ":memory:" and not Path(self.path).parent.is_dir():
            raise SetUpError(
                f"Cannot open {self.path!r}: there is no directory {str(Path(self.path).parent)!r}."
            )
        try:
            self._was_made = make_private(self.path)
        except OSError as error:
            raise SetUpError(
                f"Cannot use {self.path!r} as a store: it cannot be made ({error.strerror})."
            ) from error
        connection = None
        try:
            connection = sqlite3.connect(
                self.path,
                timeout=self._busy_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA synchronous = NORMAL")
            if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                self._make(connection)
            self._check(connection)
            self._agree_on_time(connection)
            connection.execute("PRAGMA busy_timeout = 0")  # from here on, waiting is ours
            self._file, self._checked = _identity_of(self.path), time.monotonic()
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, sqlite3.Error):
                raise
            raise SetUpError(f"Cannot use {self.path!r} as a store: {_reason(error)}") from error

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the table in a file that is new. Of several processes one does, the others wait."""
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            connection.execute("PRAGMA journal_mode = WAL")
        try:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                for table in _SCHEMA:
                    connection.execute(table)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def _check(self, connection: sqlite3.Connection) -> None:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if owner != APPLICATION_ID:
            raise SetUpError(
                f"Cannot use {self.path!r} as a store: it is another program's database. "
                "Name a file of its own."
            )
        if version != VERSION:
            raise SetUpError(
                f"Cannot use {self.path!r} as a store: it is of version {version}, and this "
                f"headway writes version {VERSION}. Name another file, or delete it."
            )
        connection.execute("BEGIN IMMEDIATE")  # a file that cannot be written says so here
        connection.execute("UPDATE headway_states SET expires = 0 WHERE 0")
        connection.execute("ROLLBACK")

    def _agree_on_time(self, connection: sqlite3.Connection) -> None:
        """Go by the clock of the first process that used the file since the machine started."""
        boot = boot_name()
        if self.clock is not None or boot is None or self.path == ":memory:":
            return
        ours = offset_ns()
        found = "SELECT offset FROM headway_clock WHERE boot = ?"
        row = connection.execute(found, (boot,)).fetchone()
        if row is None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "INSERT OR IGNORE INTO headway_clock VALUES (?, ?)", (boot, ours)
                )
                connection.execute("DELETE FROM headway_clock WHERE boot <> ?", (boot,))
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            row = connection.execute(found, (boot,)).fetchone()
        self._offset_ns = row[0] - ours

    # ---- work, under the lock

    def _patiently(
        self, connection: sqlite3.Connection, sql: str, words: tuple[Any, ...] = ()
    ) -> sqlite3.Cursor:
        """Execute what may have to wait for another process: at most for busy_timeout."""
        until, pause, at_once = time.monotonic() + self._busy_timeout, PAUSE_S, ATTEMPTS_AT_ONCE
        while True:
            try:
                return connection.execute(sql, words)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
            if at_once > 0:
                at_once -= 1
                _let_others_run()
                continue
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 1.5, LONGEST_PAUSE_S)

    def _ask(self, sql: str, *words: Any) -> list[Any]:
        with self._lock:
            try:
                return self._patiently(self._connection(), sql, words).fetchall()
            except (sqlite3.Error, SetUpError) as error:
                raise self._unavailable(error) from error

    def _work(self) -> None:
        """Take the steps of all who wait, in their order, until there are none.

        A job stays in the queue until it is done, so what is interrupted waits again.
        """
        while batch := [job for job in self._jobs[:BATCH] if job.outcome is None]:
            try:
                self._transact(batch)
            except (sqlite3.Error, SetUpError) as error:
                failed = [False]
                for job in batch:
                    job.error = self._unavailable(error)
                    job.error.__cause__ = error
                    job.outcome = failed
                for job in batch:
                    _discard(self._jobs, job)
                return  # the others, who wait for the lock, try for themselves
            for job in batch:
                _discard(self._jobs, job)

    def _transact(
        self, batch: list[_Job[Any]], patient: bool = True, attempts: int = ATTEMPTS_AFTER_FORKS
    ) -> None:
        """Take the steps in one transaction, and mark them as done when it was committed."""
        outcome: list[bool] = []
        connection, is_ending = None, False
        self._stays_open = attempts == 0
        try:
            connection = self._connection()
            if connection.in_transaction:
                _roll_back(connection)  # of one that was interrupted in the middle of its rollback
            # BEGIN is in the `try`: a signal's handler may raise as soon as it has returned.
            if patient:
                self._patiently(connection, "BEGIN IMMEDIATE")
            else:
                connection.execute("BEGIN IMMEDIATE")
            # Only from here on: a signal's handler that asks before BEGIN takes all that waits.
            for job in batch:
                if job.outcome is None:
                    job.outcome = outcome
            now = self._now()
            for job in batch:
                if job.outcome is not outcome:
                    continue
                olds = []
                for key in job.keys:
                    row = connection.execute(_READ, (key, now)).fetchone()
                    olds.append(None if row is None else row[0])
                job.error = None
                news: tuple[bytes | None, ...] = ()
                try:
                    news, job.answer = job.step(tuple(olds))
                except Exception as error:
                    if comes_from_a_handler(error):
                        raise  # it is not the step's, which may be another thread's
                    job.error = error
                if connection is not self._open:
                    raise _Forked
                if job.error is not None:
                    continue
                for key, old, new in zip(job.keys, olds, news, strict=True):
                    if new is None:
                        if old is not None:
                            connection.execute(_DELETE, (key,))
                    elif new != old:
                        expires = expires_ns(new) if job.expires is None else job.expires
                        connection.execute(_WRITE, (key, new, expires))
            if now - self._swept > SWEEP_NS:
                connection.execute(_SWEEP, (now,))
                self._swept = now
            is_ending = True
            connection.execute("COMMIT")
            outcome.append(True)
        except BaseException as error:
            is_sqlite = isinstance(error, sqlite3.Error)
            if is_ending and not is_sqlite and not _is_open(connection):
                outcome.append(True)  # interrupted after the COMMIT: all of it counts
                raise
            forked = isinstance(error, _Forked)
            if connection is not None and connection is self._open:
                _roll_back(connection)
            for job in batch:
                if job.outcome is outcome:
                    job.outcome = None
            if not forked and (not is_sqlite or connection is None or connection is self._open):
                raise
            if attempts == 0:
                raise self._unavailable(
                    sqlite3.OperationalError("the process forked in the middle of a step")
                ) from None
        else:
            return
        # A signal handler, or a step, has forked in the middle of it, and the connection was closed
        # for that: a child that uses the file need not wait for the parent, which may wait for the
        # child. In the child the lock is another one. A step that forks each time is let through in
        # the end, on a connection that is left to the parent.
        with self._lock:
            self._transact(batch, patient, attempts - 1)

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        if isinstance(error, StoreUnavailableError):
            return error
        made = StoreUnavailableError(
            str(error)
            if isinstance(error, SetUpError)
            else f"{self.path!r} cannot answer: {_reason(error)}"
        )
        made.fault = "timeout" if _is_busy(error) else "database"
        return made


class _Forked(BaseException):
    """The process forked in the middle of a step, and the connection was closed or is another's."""


def _close(connection: sqlite3.Connection) -> bool:
    connection.close()
    return True


def _roll_back(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed, which is enough
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                connection.interrupt()


def _is_open(connection: sqlite3.Connection | None) -> bool:
    """Whether a transaction is open; not so in a connection that was closed."""
    with contextlib.suppress(sqlite3.ProgrammingError):
        return connection is not None and connection.in_transaction
    return False


def _is_busy(error: BaseException | None) -> bool:
    """Whether another connection has the file. What SQLite says counts, not the file's name."""
    if isinstance(error, SetUpError):
        error = error.__cause__
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _discard(jobs: "list[_Job[Any]]", job: _Job[Any]) -> None:
    with contextlib.suppress(ValueError):
        jobs.remove(job)


def _reason(error: Exception) -> str:
    """What SQLite says, and what to do."""
    said = str(error)
    if "not a database" in said:
        return "it is not a database. Name another file."
    if "readonly" in said or "read-only" in said:
        return "it, or its directory, cannot be written by this process."
    if "unable to open" in said:
        return "it cannot be opened: is it a directory, or may this process not read it?"
    if "locked" in said:
        return "another process held it for too long."
    return f"{said}."


def _let_others_run() -> None:
    """Whoever has the file may want this processor."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


# ---- forks

_stores: "WeakSet[SQLiteStore]" = WeakSet()
_fork_lock: Any = threading.RLock()
"""Who forks has it, and who opens a new store or drops one. A store's own lock comes after it."""
_quiet: list[SQLiteStore] = []
"""Those whose locks this fork holds."""
_abandoned: list[sqlite3.Connection] = []
"""Of stores that were dropped during a fork."""
_kept_for_parent: list[sqlite3.Connection] = []
"""In a child: what was open all the same. To close it would be to touch the parent's file."""


def _before_fork() -> None:
    """Wait until nobody uses a file, and close it."""
    _fork_lock.acquire()
    for store in list(_stores):
        _quiet.append(store)  # before it is acquired: a signal's handler may raise in between
        # Longer than a transaction can take. A signal handler that forks in the middle of one has
        # the lock already; then the transaction begins anew, in both processes.
        if not store._lock.acquire(timeout=store._busy_timeout + 1):
            continue
        if store._open is not None and store.path != ":memory:" and not store._stays_open:
            connection, store._open = store._open, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _after_fork_in_parent() -> None:
    for store in _quiet:
        if store._lock._is_owned():
            store._lock.release()
    _quiet.clear()
    while _abandoned:
        _abandoned.pop().close()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    _fork_lock = threading.RLock()
    _quiet.clear()
    for store in list(_stores):
        connection = store._open
        store._start_afresh()
        if store.path == ":memory:":
            store._open = connection
        elif connection is not None:
            _kept_for_parent.append(connection)
    _kept_for_parent.extend(_abandoned)
    _abandoned.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
