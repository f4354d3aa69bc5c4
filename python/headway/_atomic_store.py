"""AtomicStore: what a store must be able to do so that limiters can decide on it.

That is one operation: change the bytes of a key so that nobody comes between reading and writing.
`SQLiteStore` does so by a transaction; a store of your own may compare and swap, or lock.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from headway._core import now_ns

if TYPE_CHECKING:
    from headway._core import Step, VirtualClock

__all__ = ["AtomicStore"]

_A = TypeVar("_A")


class AtomicStore(ABC):
    """The base of stores that are written in Python: define `update`, and limiters can use it.

        class MyStore(AtomicStore):
            def update(self, key, step):
                while True:
                    old, version = self.read(key)
                    new, answer = step(old)
                    if new == old or self.write_if(key, new, version):
                        return answer

    All rules of a quota are kept in one value. `headway.algorithms.expires_ns(new)` tells from when
    a value says nothing any more, so that it may be dropped. What `update` raises, limiters raise.
    In an event loop `update` is called in a thread.
    """

    TYPE: ClassVar[str] = "custom"
    """The kind of store, as `HookContext.store_type` reports it."""
    clock: "VirtualClock | None" = None
    """The time that decisions are made by; None for the process' clock, `headway.clock.now_ns`."""
    _offset_ns: int = 0
    """The store's time less the process' clock."""

    @abstractmethod
    def update(self, key: bytes, step: Callable[[bytes | None], tuple[bytes | None, _A]]) -> _A:
        """Change the bytes of `key` by `step(old or None) -> (new or None, answer)`; the answer.

        Nobody may come between reading the old bytes and writing the new ones. None as new bytes
        deletes the key. `step` may be called again with other bytes where somebody did come
        between; only the last call counts.
        """

    def _now(self) -> int:
        return now_ns() + self._offset_ns if self.clock is None else self.clock.now_ns

    def _update(self, step: "Step", /) -> None:
        """Take a decision, waiting until the store is free."""
        packed: Any = step
        self.update(step.key, packed)
        if not step.taken:
            raise TypeError(
                f"{type(self).__name__}.update() returned without having called the step that it "
                "was given"
            )

    def _try_update(self, step: "Step", /) -> bool:
        """Take a decision if that blocks nobody; tell whether it was taken."""
        return False
