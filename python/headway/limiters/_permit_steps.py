"""A semaphore's state as bytes, and the steps that change it.

It is what src/redis/lua/semaphore.lua is on a server, for stores of one machine, whose one
operation is to change bytes atomically.

A call carries any number of steps, and whatever they were, free permits then go to the heads of
the line. The verbs, the places and the reply are those of the script; instants are the store's, in
microseconds. What is more: where the store can tell that a process is dead, its permits and its
places in line are free at once, instead of when their terms are over.
"""

import json
from collections.abc import Callable, Sequence

from headway.exceptions import StoreUnavailableError
from headway.limiters._permits import Answer, Step

__all__ = ["State", "listener_of", "take"]

VERSION = 1


def listener_of(id: str) -> str:
    """The event loop, or the threads of a process, that `id` belongs to."""
    return id.partition(":")[0]


class State:
    """Who holds permits, who waits, who listens, and what they have not heard yet."""

    __slots__ = ("held", "line", "listeners", "news")

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        """Id -> the instant at which its lease lapses."""
        self.line: dict[str, int] = {}
        """Id -> its place, in the order of the places."""
        self.listeners: dict[str, int] = {}
        """Listener -> until when it is heard of."""
        self.news: dict[str, list[str]] = {}
        """Listener -> ids that were given a permit by a call of others."""

    @classmethod
    def read(cls, data: bytes | None) -> "State":
        """Raises StoreUnavailableError for bytes that no semaphore has written."""
        state = cls()
        if data is None:
            return state
        try:
            version, state.held, state.line, state.listeners, state.news = json.loads(data)
        except (ValueError, TypeError):
            version = None
        if version != VERSION:
            raise StoreUnavailableError(
                f"Invalid state of a semaphore: {data[:40]!r}, not written by headway."
            )
        return state

    def write(self) -> bytes | None:
        """None where nothing is left to be remembered."""
        if not (self.held or self.line or self.news):
            return None
        parts = (VERSION, self.held, self.line, self.listeners, self.news)
        return json.dumps(parts, separators=(",", ":")).encode()

    def forget(self, id: str) -> None:
        """Take a permit away, and the news of it: who has not read it is told nothing wrong."""
        del self.held[id]
        listener = listener_of(id)
        if id in self.news.get(listener, ()):
            self.news[listener].remove(id)
            if not self.news[listener]:
                del self.news[listener]

    def bury(self, lives: Callable[[str], bool]) -> None:
        """Forget those of dead processes."""
        known = {listener_of(id) for id in (*self.held, *self.line)}
        dead = {listener for listener in known if not lives(listener)}
        for id in [id for id in self.held if listener_of(id) in dead]:
            self.forget(id)
        for id in [id for id in self.line if listener_of(id) in dead]:
            del self.line[id]


def take(
    state: State,
    now: int,
    capacity: int,
    listener: str,
    beat: int,
    steps: Sequence[Step],
    lives: Callable[[str], bool] | None = None,
) -> Answer:
    """Take the steps at the instant `now`, and tell where each of them stands.

    beat: for how long those for whom `listener` listens stay in line without another word from it.
    lives: whether the process of a listener lives, where the store can tell.
    """
    asks: dict[str, int] = {}
    for verb, id, term, _ in steps:
        if verb == "leave":
            if id in state.held:
                state.forget(id)
            else:
                state.line.pop(id, None)
        elif verb == "renew":
            state.line.pop(id, None)
            state.held[id] = now + term
        else:
            asks[id] = term
    for id in [id for id, until in state.held.items() if until <= now]:
        state.forget(id)
    for name in [name for name, until in state.listeners.items() if until <= now]:
        del state.listeners[name]
        state.news.pop(name, None)
    _join(state, now, steps)
    if lives is not None and state.line and len(state.held) >= capacity:
        state.bury(lives)
    _hand_out(state, now, capacity, asks)

    places = [0 if id in state.held else state.line.get(id, -1) for _, id, _, _ in steps]
    if any(place > 0 for place in places):
        state.listeners[listener] = now + beat
    lapse = -1.0
    if state.line and listener_of(next(iter(state.line))) == listener:
        lapse = max(min(state.held.values(), default=now) - now, 0) / 1e6
    return Answer(len(state.held), len(state.line), lapse, places)


def _join(state: State, now: int, steps: Sequence[Step]) -> None:
    """Those who wait are in line, each at its place."""
    in_order = True
    for verb, id, _, place in steps:
        if verb not in ("enter", "wait") or id in state.held or id in state.line:
            continue
        last = next(reversed(state.line.values()), 0)
        if verb == "enter":
            place = max(now, last + 1)
        in_order = in_order and place > last
        state.line[id] = place
    if not in_order:
        state.line = dict(sorted(state.line.items(), key=lambda item: item[1]))


def _hand_out(state: State, now: int, capacity: int, asks: dict[str, int]) -> None:
    """Free permits go to the heads of the line."""
    while state.line and len(state.held) < capacity:
        id = next(iter(state.line))
        del state.line[id]
        if id in asks:  # it reads the answer
            state.held[id] = now + asks[id]
            continue
        listener = listener_of(id)
        heard = state.listeners.get(listener)
        if heard is not None:  # else whoever waited is gone
            state.held[id] = heard
            state.news.setdefault(listener, []).append(id)
