"""Waiting in line for a permit of a server, and how the one whose turn it is comes to know it.

Those of a process who wait for one semaphore as threads have one list of news on the server, and so
have those of an event loop. One of them listens for all (BLPOP): among threads one of those who
wait, the leader (in trio too); in asyncio a task, while somebody waits. Nobody polls: every two
seconds, and when a lease may lapse that the head of the line waits for, the listener says who
waits still.
"""

import asyncio
import sys
import threading
import time
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary, ref

from headway import _core
from headway.exceptions import StoreUnavailableError
from headway.limiters._permits import BEAT, Answer, Lease, Permits, Step, term_of

__all__ = ["PATIENCE", "AwaitingLine", "LedLine", "Lines", "ThreadLine", "Waiter"]

LOOK = 2.0
"""Seconds between two words of a listener."""
GRACE = 5.0
"""Seconds for which those in line put up with a server that does not answer."""
PATIENCE = 3.0
"""Seconds after which a thread in line makes sure that there is a leader."""
QUIET = 5.0
"""Seconds without a waiter after which a listener's connection is closed."""
FOREVER = 1e7
FIRST, OTHERS = 64, 192
"""So many from the head of the line are told of each time, and so many of the others, in turn."""


class Waiter:
    """One who wants a permit."""

    __slots__ = (
        "arrived",
        "claimed",
        "granted",
        "held",
        "id",
        "place",
        "signal",
        "since",
        "term",
        "waiting",
    )

    def __init__(self, id: str, term: float) -> None:
        self.id = id
        self.term = term
        self.place = 0
        self.granted = False
        self.arrived = False
        """Whether the server has answered that it is here."""
        self.held: int | None = None
        self.waiting: int | None = None
        """What the server said last, for the message when the time is over."""
        self.claimed = True
        """Whether its lease has a term of its own already."""
        self.since = 0.0
        """An instant before its lease began."""
        self.signal: Any = None

    def step(self, verb: str) -> Step:
        return verb, self.id, int(self.term * 1e6), self.place

    def grant(self, since: float, claimed: bool) -> None:
        self.granted, self.since, self.claimed = True, since, claimed

    def lease(self, holder: Any) -> Lease:
        return Lease(self.id, holder, self.term, self.since, self.claimed)


class _Line:
    """What threads and tasks share: all but the waiting itself."""

    def __init__(self, permits: Permits) -> None:
        self._permits = ref(permits)
        self.listener = f"{permits.listener}.{next(permits.numbers)}"
        self.news = permits.news + self.listener.encode()
        self.lock = threading.RLock()
        self.waiters: dict[str, Waiter] = {}
        self.newcomers: dict[str, Waiter] = {}
        """Those who are asking: news of them may be read before the reply to them is."""
        self._blocking: Any = None
        self._used = 0.0
        """When somebody waited last."""
        self.quiet_at: float | None = None
        """When the connection is to be looked at; None where nobody does."""
        self._heard = self._look_at = 0.0
        self._round = 0
        self._failing_since: float | None = None
        self._deaf = 0
        """How often in succession listening has failed."""

    @property
    def permits(self) -> Permits:
        """They keep the line, and whoever uses it keeps them."""
        permits = self._permits()
        assert permits is not None
        return permits

    def newcomer(self, expiry: float) -> Waiter:
        """One who is about to join."""
        return Waiter(f"{self.listener}:{next(self.permits.numbers)}", term_of(expiry))

    def expect(self, waiter: Waiter) -> None:
        """News of this one may come. Whoever says so drops it."""
        self.newcomers[waiter.id] = waiter

    def drop(self, waiter: Waiter) -> None:
        self.newcomers.pop(waiter.id, None)

    def leave(self, waiter: Waiter) -> None:
        """This one waits no more, wherever it was interrupted."""
        self.newcomers.pop(waiter.id, None)
        self.waiters.pop(waiter.id, None)

    def joined(self, waiter: Waiter, answer: Answer, asked: float) -> bool:
        """Read the answer to a newcomer: whether it has its permit. Else it is to wait."""
        with self.lock:
            waiter.place = answer.places[0]
            waiter.arrived = True
            waiter.held, waiter.waiting = answer.held, answer.waiting
            if waiter.place == 0:
                waiter.grant(asked, True)
            elif not self.waiters:
                self._plan(answer, asked)
            return waiter.granted

    def _plan(self, answer: Answer, asked: float) -> None:
        pause = LOOK if answer.lapse < 0 else min(LOOK, answer.lapse + 0.001)
        self._heard, self._look_at = asked, asked + pause

    def _who(self) -> list[Waiter]:
        """Whom the server is told of: the first, and some of the others."""
        with self.lock:
            waiters = sorted(self.waiters.values(), key=lambda waiter: waiter.place)
        first, others = waiters[:FIRST], waiters[FIRST:]
        if len(others) > OTHERS:
            start = self._round * OTHERS % len(others)
            others = list(islice(others + others, start, start + OTHERS))
        self._round += 1
        return first + others

    def _told(self, who: list[Waiter], answer: Answer, asked: float) -> None:
        self._failing_since = None
        with self.lock:
            self._plan(answer, asked)
            for waiter, place in zip(who, answer.places, strict=True):
                waiter.held, waiter.waiting = answer.held, answer.waiting
                if place == 0:
                    self._grant(waiter.id, asked, True)
                elif place > 0:
                    waiter.place = place

    @property
    def is_failing(self) -> bool:
        """Whether the server has not answered the last request."""
        return self._failing_since is not None

    def _ask_for_news(self, until: float) -> tuple[None, tuple[bytes, ...], tuple[Any, ...]]:
        pause = max(min(self._look_at, until) - time.monotonic(), 0.01)
        return None, (self.news,), ("BLPOP", self.news, f"{pause:.3f}")

    def _read(self, reply: Any) -> None:
        self._deaf = 0
        if reply is None:
            return
        if time.monotonic() > self._heard + BEAT:  # we were stopped, and it may have lapsed: ask
            self._look_at = 0.0
            return
        match reply:
            case [_, bytes(id)]:
                self._grant(id.decode("utf-8", "replace"), self._heard, False)
            case _:  # no list of that server's: it is asked
                self._look_at = 0.0

    def _grant(self, id: str, since: float, claimed: bool) -> None:
        """It is the turn of this one. Who is not here any more has given its place back.

        It stays in line until it is woken: a signal's handler may raise in between.
        """
        with self.lock:
            waiter = self.waiters.get(id) or self.newcomers.get(id)
            if waiter is not None:
                waiter.grant(since, claimed)
                self._wake(waiter)
                self.waiters.pop(id, None)

    def _wake(self, waiter: Waiter) -> None:
        raise NotImplementedError

    def _listening(self) -> Any:
        if self._blocking is None:
            self._blocking = self.permits.ear(LOOK)
        return self._blocking

    def _hang_up(self) -> None:
        """What may have been taken from the list is not known: the server is asked instead."""
        blocking, self._blocking, self._look_at = self._blocking, None, 0.0
        if blocking is not None:
            blocking.close()

    def _emptied(self) -> None:
        """No waiter is left: the connection is closed if that stays so."""
        self._used = time.monotonic()
        if self._blocking is not None and self.quiet_at is None:
            self.quiet_at = self._used + QUIET
            self._look_later(QUIET)

    def _look_later(self, seconds: float) -> None:
        """Call `hang_up_if_quiet` after so many seconds: the keeper's thread does."""
        from headway.limiters._keeper import keeper_of

        keeper_of(self.permits).watch_connections(self.permits, time.monotonic() + seconds)

    def hang_up_if_quiet(self, now: float) -> float | None:
        """Close the connection of a line in which nobody has waited for a while.

        Return when to look again, if at all.
        """
        with self.lock:
            if self.quiet_at is None or self.quiet_at > now:
                return self.quiet_at
            self.quiet_at = None
            if self.waiters or self._blocking is None:
                return None
            if self._used + QUIET > now:
                self.quiet_at = self._used + QUIET
                return self.quiet_at
            blocking, self._blocking, self._look_at = self._blocking, None, 0.0
        blocking.close()
        return None

    def _failed(self, error: StoreUnavailableError) -> float:
        """The server does not answer. Return for how long to leave it alone, or raise."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > GRACE:
            raise error
        return 0.05 + min((now - self._failing_since) / 4, 0.45)

    def _failed_to_listen(self) -> float:
        self._hang_up()
        self._deaf += 1
        return 0.0 if self._deaf == 1 else min(0.05 * 2.0 ** min(self._deaf, 8), 1.0)


class LedLine(_Line):
    """A line in which one of those who wait, the leader, listens for all."""

    _leader: Waiter | None = None

    def _leads(self, waiter: Waiter) -> bool:
        """Tell whether it is this one. It is whoever asks first, where there is none."""
        with self.lock:
            if self._leader is None or self._leader.id not in self.waiters:
                self._leader = waiter
            return self._leader is waiter

    def _resign(self, waiter: Waiter) -> None:
        """This one waits no more."""
        with self.lock:
            self.waiters.pop(waiter.id, None)
            if self._leader is waiter:
                self._leader = next(iter(self.waiters.values()), None)
                if self._leader is not None:
                    self._wake(self._leader)
            if self.waiters:
                return
        self._emptied()

    def leave(self, waiter: Waiter) -> None:
        super().leave(waiter)
        self._resign(waiter)

    def _wake(self, waiter: Waiter) -> None:
        if waiter.signal is not None:
            waiter.signal.set()


class ThreadLine(LedLine):
    """The line of the threads of a process."""

    def join(self, waiter: Waiter) -> bool:
        asked = time.monotonic()
        return self.joined(waiter, self.permits.ask(self.listener, [waiter.step("enter")]), asked)

    def wait(self, waiter: Waiter, until: float) -> bool:
        """Wait for the permit; False when it has not come in time."""
        waiter.signal = threading.Event()
        try:
            with self.lock:
                if not waiter.granted:
                    self.waiters[waiter.id] = waiter
            while not waiter.granted:
                now = time.monotonic()
                if now >= until:
                    break
                if self._leads(waiter):
                    self._turn(until)
                else:
                    waiter.signal.wait(min(until - now, PATIENCE))
                    waiter.signal.clear()
        finally:
            self._resign(waiter)
        return waiter.granted

    def _turn(self, until: float) -> None:
        """What a leader does: look, or listen."""
        try:
            asked = time.monotonic()
            if asked >= self._look_at:
                who = self._who()
                steps = [waiter.step("wait") for waiter in who]
                self._told(who, self.permits.ask(self.listener, steps), asked)
                return
        except StoreUnavailableError as error:
            time.sleep(min(self._failed(error), max(until - time.monotonic(), 0)))
            return
        try:
            self._read(self._listening()._run(*self._ask_for_news(until)))
        except StoreUnavailableError:
            time.sleep(min(self._failed_to_listen(), max(until - time.monotonic(), 0)))
        except BaseException:
            self._hang_up()
            raise


class AwaitingLine(_Line):
    """A line of tasks. Only the thread of their event loop uses it."""

    async def join(self, waiter: Waiter) -> bool:
        asked = time.monotonic()
        answer = await self.permits.ask_async(self.listener, [waiter.step("enter")])
        return self.joined(waiter, answer, asked)

    async def wait(self, waiter: Waiter, until: float) -> bool:
        """Wait for the permit; False when it has not come in time."""
        raise NotImplementedError

    async def _turn(self, until: float) -> None:
        """Look, or listen."""
        try:
            asked = time.monotonic()
            if asked >= self._look_at:
                who = self._who()
                steps = [waiter.step("wait") for waiter in who]
                self._told(who, await self.permits.ask_async(self.listener, steps), asked)
                return
        except StoreUnavailableError as error:
            await self._sleep(self._failed(error))
            return
        try:
            self._read(await self._listen_once(*self._ask_for_news(until)))
        except StoreUnavailableError:
            await self._sleep(self._failed_to_listen())
        except BaseException:
            self._hang_up()
            raise

    async def _listen_once(self, *words: Any) -> Any:
        return await self._listening()._run_async(*words)

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError


class LoopLine(AwaitingLine):
    """The line of the tasks of an event loop of asyncio."""

    _task: "asyncio.Task[None] | None" = None

    def _wake(self, waiter: Waiter) -> None:
        if waiter.signal is not None and not waiter.signal.done():
            _core._finish_future(waiter.signal, None, None)

    async def wait(self, waiter: Waiter, until: float) -> bool:
        loop = asyncio.get_running_loop()
        timer = None
        try:
            self.waiters[waiter.id] = waiter
            while not waiter.granted:
                pause = until - time.monotonic()
                if pause <= 0:
                    break
                waiter.signal = signal = loop.create_future()
                if timer is not None:
                    timer.cancel()
                if pause < FOREVER:
                    timer = loop.call_later(pause, _core._finish_future, signal, None, None)
                if self._task is None or self._task.done():
                    self._task = loop.create_task(self._listen())
                await waiter.signal
        finally:
            if timer is not None:
                timer.cancel()
            self.waiters.pop(waiter.id, None)
            if not self.waiters:
                if self._task is not None:
                    self._task.cancel()
                self._emptied()
        return waiter.granted

    def _look_later(self, seconds: float) -> None:
        """In the event loop, whose connection it is."""
        line: ref[LoopLine] = ref(self)
        asyncio.get_running_loop().call_later(seconds, _look_at_line, line)

    async def _listen(self) -> None:
        """The task: it looks and listens while somebody waits."""
        try:
            while self.waiters:
                await self._turn(FOREVER + time.monotonic())
        except Exception as error:  # of the server, of a store of the user's own, of a handler
            waking = [one.signal for one in self.waiters.values() if one.signal is not None]
            waking = [signal for signal in waking if not signal.done()]
            for signal in waking:
                signal.set_exception(error)
            if not waking:
                raise
        except BaseException:
            for waiter in list(self.waiters.values()):
                self._wake(waiter)  # who is not cancelled too makes another task
            raise
        finally:
            self._task = None

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Lines:
    """The lines of one semaphore in this process."""

    def __init__(self, permits: Permits) -> None:
        self._permits = ref(permits)
        self._lock = threading.RLock()
        self._threads: ThreadLine | None = None
        self._loops: WeakKeyDictionary[Any, AwaitingLine] = WeakKeyDictionary()

    def _known(self) -> Permits:
        permits = self._permits()
        assert permits is not None
        return permits

    def of_threads(self) -> ThreadLine:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadLine(self._known())
            return self._threads

    def of_loop(self) -> AwaitingLine:
        """Of the event loop that is running. RuntimeError where none is."""
        loop, kind = _running()
        with self._lock:
            line = self._loops.get(loop)
            if line is None:
                line = self._loops[loop] = kind(self._known())
            return line

    def quiet_at(self, now: float) -> float | None:
        """Close the connections of led lines that are not used; when to look again, if at all."""
        with self._lock:
            lines = [line for line in (self._threads, *self._loops.values()) if line is not None]
        led = (line for line in lines if isinstance(line, LedLine))
        instants = [line.hang_up_if_quiet(now) for line in led]
        return min((each for each in instants if each is not None), default=None)


def _look_at_line(line: "ref[LoopLine]") -> None:
    found = line()
    if found is not None:
        again = found.hang_up_if_quiet(time.monotonic())
        if again is not None:
            found._look_later(max(again - time.monotonic(), 0.01))


def _running() -> tuple[Any, type[AwaitingLine]]:
    """What stands for the running event loop, and the kind of its line."""
    try:
        return asyncio.get_running_loop(), LoopLine
    except RuntimeError:
        if "trio" not in sys.modules:
            raise
    from headway.limiters._trio_line import TrioLine, running

    return running(), TrioLine
