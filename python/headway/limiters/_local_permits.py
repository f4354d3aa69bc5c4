"""Permits that processes of one machine share by a store that changes bytes atomically: shared
memory, a SQLite file, or one of the user's own.

What is a script on a server is a function here (`_permit_steps.take`) that the store calls between
reading and writing; all the rest, the lines of threads and tasks and the keeper of leases, is the
same. Who listens for news waits until the bytes change: shared memory wakes a thread, and a thread
for each store looks for all other listeners (`_watcher`).
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

from headway._workers import in_worker
from headway.exceptions import StoreUnavailableError
from headway.limiters._permit_steps import State, take
from headway.limiters._permits import BEAT, Answer, Permits, Step
from headway.limiters._watcher import watcher_of

__all__ = ["LocalPermits"]

SLICE_S = 0.1
"""For so long at most a listener does not look whether it is still wanted."""


class LocalPermits(Permits):
    """What the semaphores of one name share in this process, where a store of this machine is."""

    store: Any
    """An AtomicStore, or what has its `update` and a time (`_now`)."""

    def _start_anew(self) -> None:
        super()._start_anew()
        self.key = b"limiters:v1:semaphore:" + self.name.encode("utf-8", "surrogatepass")
        self._lives = getattr(self.store, "_listener_lives", None)
        identity = getattr(self.store, "_identity", None)
        if identity is not None:  # of this process, by which others can tell whether it lives
            self.listener = f"{identity()}.{self.listener}"

    def ask(self, listener: str = "", steps: Sequence[Step] = ()) -> Answer:
        answer: Answer = self.store.update(self.key, functools.partial(self._take, listener, steps))
        if steps:
            watcher_of(self.store).stir()
        return answer

    async def ask_async(self, listener: str, steps: Sequence[Step]) -> Answer:
        if getattr(self.store, "_is_quick", False):
            return self.ask(listener, steps)
        return await in_worker(self.store, functools.partial(self.ask, listener, steps))

    def policy(self, error: StoreUnavailableError) -> Any:
        raise error

    def ear(self, seconds: float) -> "Ear":
        return Ear(self)

    def _take(
        self, listener: str, steps: Sequence[Step], old: bytes | None
    ) -> tuple[bytes | None, Answer]:
        state = State.read(old)
        now = self.store._now() // 1000
        answer = take(state, now, self.capacity, listener, int(BEAT * 1e6), steps, self._lives)
        return (state.write() if steps else old), answer

    # Listening.

    def hear(self, listener: str) -> str | None:
        """Take a piece of news off the list of `listener`, if there is one."""

        def pop(old: bytes | None) -> tuple[bytes | None, str | None]:
            state = State.read(old)
            news = state.news.get(listener)
            if not news:
                return old, None
            id = news.pop(0)
            if not news:
                del state.news[listener]
            return state.write(), id

        look = getattr(self.store, "get", None)  # which blocks no writer
        if look is not None and not State.read(look(self.key)).news.get(listener):
            return None
        heard: str | None = self.store.update(self.key, pop)
        return heard


class Ear:
    """What has the two operations of a connection that a listener sleeps on."""

    def __init__(self, permits: LocalPermits) -> None:
        self._permits = permits
        self._closed = False

    def _run(self, _script: None, names: tuple[bytes], words: tuple[Any, ...]) -> Any:
        """Wait for news as BLPOP does: a pair with the id, or None when the time is over."""
        permits, wait = self._permits, getattr(self._permits.store, "_wait_for_change", None)
        listener = names[0].removeprefix(permits.news).decode()
        if wait is None:
            return self._reply(
                names, watcher_of(permits.store).wait(permits, listener, float(words[-1]))
            )
        end = time.monotonic() + float(words[-1])
        while not self._closed:
            seen = permits.store._changes()
            id = permits.hear(listener)
            rest = end - time.monotonic()
            if id is not None:
                return self._reply(names, id)
            if rest <= 0:
                break
            wait(seen, min(rest, SLICE_S))
        return None

    async def _run_async(self, _script: None, names: tuple[bytes], words: tuple[Any, ...]) -> Any:
        """The same, as a task of asyncio."""
        permits = self._permits
        listener = names[0].removeprefix(permits.news).decode()
        watcher = watcher_of(permits.store)
        return self._reply(names, await watcher.wait_async(permits, listener, float(words[-1])))

    def _reply(self, names: tuple[bytes], id: str | None) -> Any:
        return None if id is None else (names[0], id.encode())

    def close(self) -> None:
        self._closed = True
