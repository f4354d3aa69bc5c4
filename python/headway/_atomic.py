"""Waiting for decisions of an `AtomicStore`, and what an event loop does where it is not free.

A decision is a `Step`, which the store calls in the middle of its reading and writing. A bucket's
wait is a reservation: the step has taken the slot and says when it is due, so all processes are
served in the order in which they asked. The windows have no such instant and ask again.

Who is cancelled gives the slot back. The last one is taken off; one before others is kept here, and
whoever asks next for the same takes it. Taking it off the end instead would put two calls on one
instant.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

from headway._atomic_store import AtomicStore
from headway._core import RateLimitResult, RateLimitState, Step
from headway._workers import in_worker, start_in_worker

__all__ = [
    "limit",
    "limit_async",
    "peek_async",
    "reset_async",
    "update",
    "update_from_anywhere",
    "wait_async",
]

_TICK_S = 0.0005
"""How often a virtual clock is looked at by those who wait for it."""
_LONGEST_S = 3600.0

# ---- threads


def update(place: AtomicStore, step: Step) -> None:
    """Take a step, waiting until the store is free."""
    place._update(step)


def limit(place: AtomicStore, step: Step) -> None:
    """Decide, and wait until what was reserved is due."""
    while True:
        place._update(step)
        _take_freed(place, step)
        if step.due_ns == 0:
            return
        try:
            while (rest := _rest(place, step)) > 0:
                time.sleep(rest)
        except BaseException:  # a signal's handler
            _give_back(place, step)
            raise
        if step.admitted:
            return


def update_from_anywhere(place: AtomicStore, step: Step) -> None:
    """Take a step; in an event loop, where it cannot be taken at once, a thread takes it."""
    if not _in_event_loop():
        place._update(step)
    elif not place._try_update(step):
        _do_later(partial(_settle, place, step))


def _settle(place: AtomicStore, step: Step) -> None:
    try:
        place._update(step)
    except Exception as error:  # nobody waits for it any more
        import logging

        logging.getLogger("headway.store").warning("A correction was lost: %s", error)


# ---- tasks


async def limit_async(place: AtomicStore, step: Step) -> RateLimitResult:
    """Decide and wait, as `limit` does."""
    await _update_async(place, step)
    return await wait_async(place, step)


async def wait_async(place: AtomicStore, step: Step) -> RateLimitResult:
    """Wait for what was decided, or ask again."""
    while True:
        _take_freed(place, step)
        if step.due_ns == 0:
            return step.result()
        try:
            await _sleep(place, step)
        except BaseException:
            _give_back_apart(place, step)
            raise
        if step.admitted:
            return step.result()
        await _update_async(place, step)


async def peek_async(place: AtomicStore, step: Step) -> RateLimitState:
    """Look at the state of a key."""
    await _update_async(place, step)
    return step.state()


async def reset_async(place: AtomicStore, step: Step) -> None:
    """Forget a key."""
    await _update_async(place, step)


async def _update_async(place: AtomicStore, step: Step) -> None:
    if place._try_update(step):
        return
    apart = _Apart(place, step)
    if _in_trio():
        await in_worker(place, apart.run)  # it is not abandoned when it is cancelled
        return
    import asyncio

    future = start_in_worker(place, apart.run)
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        apart.leave()
        raise


class _Apart:
    """A decision that a thread takes for a task. Nobody's decision is given back."""

    def __init__(self, place: AtomicStore, step: Step) -> None:
        self._place, self._step = place, step
        self._lock = threading.Lock()
        self._done = self._left = False

    def run(self) -> None:
        if self._left:
            return
        self._place._update(self._step)
        with self._lock:
            self._done = True
        if self._left:
            _give_back(self._place, self._step)

    def leave(self) -> None:
        with self._lock:
            self._left = True
            done = self._done
        if done:
            _give_back_apart(self._place, self._step)


async def _sleep(place: AtomicStore, step: Step) -> None:
    if _in_trio():
        import trio

        while (rest := _rest(place, step)) > 0:
            await trio.sleep(rest)
        return
    import asyncio

    while (rest := _rest(place, step)) > 0:
        await asyncio.sleep(rest)


def _in_trio() -> bool:
    if "trio" not in sys.modules:
        return False
    from headway._trio import in_trio

    return in_trio()


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            return True
    return _in_trio()


# ---- time


def _rest(place: AtomicStore, step: Step) -> float:
    """Seconds to sleep until the step is due; 0 when it is."""
    rest = (step.due_ns - place._now()) / 1e9
    if rest <= 0:
        return 0.0
    return min(rest, _LONGEST_S) if place.clock is None else _TICK_S


# ---- what nobody waits for: a thread does it, one for all, as long as there is something to do

_later: deque[Callable[[], object]] = deque()
_later_lock = threading.RLock()
_later_runs = False


def _do_later(work: Callable[[], object]) -> None:
    global _later_runs
    _later.append(work)
    with _later_lock:
        if _later_runs:
            return
        try:
            _later_runs = True
            threading.Thread(target=_work_off, name="headway-later").start()
        except BaseException:  # it may run all the same: two do the work as well as one
            _later_runs = False
            raise


def _work_off() -> None:
    global _later_runs
    while True:
        with _later_lock:
            if not _later:
                _later_runs = False
                return
            work = _later.popleft()
        work()


# ---- slots that were given up and are not the last


_Slots = dict[object, list[Step]]
_freed: "WeakKeyDictionary[AtomicStore, _Slots]" = WeakKeyDictionary()
_freed_lock = threading.Lock()


def _after_fork() -> None:
    """What was given up before is the parent's to give away."""
    global _freed_lock, _later_lock, _later_runs
    _freed_lock, _later_lock, _later_runs = threading.Lock(), threading.RLock(), False
    _freed.clear()
    _later.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _give_back(place: AtomicStore, step: Step, patient: bool = True) -> Step | None:
    """Undo what `step` took, as far as that is possible.

    What is left to be given back, where the store is not free at once, or None.
    """
    while step.admitted and step.cost > 0:
        undo = step.undo()
        try:
            if patient:
                place._update(undo)
            elif not place._try_update(undo):
                return step
        except Exception:  # it stays taken, which errs on the safe side
            return None
        now = place._now()
        with _freed_lock:
            slots = _freed.setdefault(place, {})
            kept = [other for other in slots.pop(step.slot, ()) if other.due_ns > now]
            if not undo.admitted:
                if step.due_ns > now:
                    kept = sorted([*kept, step], key=_due)
                if kept:
                    slots[step.slot] = kept
                return None
            if not kept:
                return None
            slot, step = step.slot, kept.pop()  # it may have become the last one
            if kept:
                slots[slot] = kept
    return None


def _give_back_apart(place: AtomicStore, step: Step) -> None:
    left = _give_back(place, step, patient=False)
    if left is not None:
        _do_later(partial(_give_back, place, left))


def _take_freed(place: AtomicStore, step: Step) -> None:
    """Take an earlier slot, if somebody has given one up."""
    if place not in _freed or not step.deadline_ns or (step.admitted and not step.due_ns):
        return
    now = place._now()
    with _freed_lock:
        slots = _freed[place]
        kept = [other for other in slots.get(step.slot, ()) if other.due_ns > now]
        slots.pop(step.slot, None)
        if not kept:
            return
        first = kept[0]
        found = first.due_ns <= (step.due_ns - 1 if step.admitted else step.deadline_ns)
        if found:
            del kept[0]
            step.swap(first)
        if kept:
            slots[step.slot] = kept
    if found:
        _give_back_apart(place, first)


def _due(step: Step) -> int:
    return step.due_ns
