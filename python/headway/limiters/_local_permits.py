"""Permits that processes of one machine share by a store that changes bytes atomically: shared
memory, a SQLite file, or one of the user's own.

What is a script on a server is a function here (`_permit_steps.take`) that the store calls between
reading and writing; all the rest, the lines of threads and tasks and the keeper of leases, is the
same. Who listens for news waits until the bytes change: shared memory wakes it, others are looked
at every few milliseconds.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from headway.exceptions import StoreUnavailableError
from headway.limiters._permit_steps import State, take
from headway.limiters._permits import BEAT, Answer, Permits, Step

__all__ = ["LocalPermits"]

POLL_S = 0.004
"""Between two looks at a store that wakes nobody."""
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
        return answer

    async def ask_async(self, listener: str, steps: Sequence[Step]) -> Answer:
        if getattr(self.store, "_is_quick", False):
            return self.ask(listener, steps)
        answer: Answer = await _in_thread(functools.partial(self.ask, listener, steps))
        return answer

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
        end = time.monotonic() + float(words[-1])
        while not self._closed:
            seen = 0 if wait is None else permits.store._changes()
            id = permits.hear(listener)
            rest = end - time.monotonic()
            if id is not None:
                return names[0], id.encode()
            if rest <= 0:
                break
            if wait is None:
                time.sleep(min(rest, POLL_S))
            else:
                wait(seen, min(rest, SLICE_S))
        return None

    async def _run_async(self, *words: Any) -> Any:
        """The same; whoever is cancelled leaves a listener behind that ends by itself."""
        return await _in_thread(functools.partial(self._run, *words))

    def close(self) -> None:
        self._closed = True


async def _in_thread(work: Any) -> Any:
    """A thread of its own: those of the loop's executor may all be busy with the user's work."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def tell(answer: Any, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

    def run() -> None:
        answer, failure = None, None
        try:
            answer = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(tell, answer, failure)

    threading.Thread(target=run, name="headway-permits", daemon=True).start()
    return await future
