"""The permits of one request, until its response has ended."""

import sys
from typing import Any

__all__ = ["Held"]


class Held(list[Any]):
    """Semaphores, each with a permit. What is here when the last reference goes is given back.

    A server or a middleware may drop a response without closing it, and the thread or task that
    took a permit may live on for long: nothing else would end it then.
    """

    __slots__ = ()

    def drop(self) -> None:
        """Give all back without waiting, in any thread: a server is told in the background."""
        while self:
            permit = self.pop()
            leave = getattr(permit, "__aexit__", None) or permit.__exit__
            leave(GeneratorExit, None, None)  # as where a block is closed: nothing to await

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.drop()
