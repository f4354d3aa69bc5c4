"""Values in shared memory: bytes under a key that processes change one at a time, by `update`.

The store compares and swaps (src/core/shared_values.h); who was overtaken reads again. Semaphores
are such values.
"""

from collections.abc import Callable
from typing import TypeVar

from headway._core import SharedStore

__all__ = ["SharedValues"]

_A = TypeVar("_A")


class SharedValues(SharedStore):
    """What a SharedMemoryStore offers beyond decisions."""

    _is_quick = True
    """An event loop may call it: it takes microseconds."""

    def update(self, key: bytes, step: Callable[[bytes | None], tuple[bytes | None, _A]]) -> _A:
        """Change the bytes of `key` by `step(old or None) -> (new or None, answer)`; the answer.

        New bytes of None delete the key, equal ones leave it as it is. `step` runs again where
        another process has been faster. Values live apart from the keys of limits, in a part of the
        file of their own. Raises StoreUnavailableError where there is no room for the bytes, or
        where a process is stopped in the midst of a change.
        """
        while True:
            old, mark = self._value(key)
            new, answer = step(old)
            if new == old or self._set_value(key, new, mark):
                return answer

    def get(self, key: bytes) -> bytes | None:
        """The bytes of `key`."""
        return self._value(key)[0]

    def _listener_lives(self, listener: str) -> bool:
        """Tell whether the process of a semaphore's listener lives; see LocalPermits."""
        number = listener.partition(".")[0]
        return number.isdecimal() and self._lives(int(number))
