"""One process of the question `keys`: fills a limiter with keys and prints how many resident
bytes that took.

``python -m benchmarks.keys_child CONTENDER COUNT`` prints one number: the resident set at the end
minus that of the process before anything was imported. The keys are 16 characters long, made one
by one and not kept.
"""

from __future__ import annotations

import gc
import sys

from benchmarks.machine import resident_bytes


def fill(contender: str, count: int) -> object:
    """A limiter that holds `count` keys, each with one call. Imports happen in here."""
    from benchmarks.keys_fill import FILLERS

    use, owner = FILLERS[contender](count)
    for i in range(count):
        use(f"{i:016d}")
    return owner


def main() -> None:
    """Measures the contender named on the command line."""
    contender, count = sys.argv[1], int(sys.argv[2])
    empty = resident_bytes()
    owner = fill(contender, count)
    gc.collect()
    print(resident_bytes() - empty)
    del owner


if __name__ == "__main__":
    main()
