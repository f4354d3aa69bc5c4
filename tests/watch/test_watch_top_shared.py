"""`headway top` on shared memory, which other processes use meanwhile."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from headway import Throttled
from headway.commands.parser import Refused
from headway.top.sources import source_of


@pytest.fixture
def url() -> Iterator[str]:
    """Names a table that is there."""
    shared = pytest.importorskip("headway._shm_store")
    store = shared.SharedMemoryStore(f"watch-{secrets.token_hex(6)}", "256K")
    yield store.server
    store.remove()


def test_what_another_process_did_is_shown(url: str) -> None:
    program = (
        "import sys; from headway import Throttled\n"
        "limiter = Throttled(quota='2/h', store=sys.argv[1])\n"
        "for _ in range(5): limiter.limit('k')\n"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True, timeout=60)
    found = source_of(url).snapshot()
    (one,) = found.keys
    assert (one.key, one.quota, one.limit, one.remaining) == ("k", "2/h", 2, 0)
    assert (one.admitted, one.denied, found.admitted, found.denied) == (2, 3, 2, 3)


def test_totals_never_fall_when_keys_go(url: str) -> None:
    source = source_of(url)
    limiter = Throttled(quota="1/h", store=url)
    for _ in range(3):
        limiter.limit("k")
    assert source.snapshot().denied == 2
    limiter.reset("k")
    assert source.snapshot().denied == 2
    for _ in range(2):
        limiter.limit("k")
    assert source.snapshot().denied == 3


def test_a_table_that_is_not_there_is_not_made() -> None:
    shared = pytest.importorskip("headway._shm_store")
    name = f"watch-{secrets.token_hex(6)}"
    with pytest.raises(Refused, match="names no table"):
        source_of(f"shm:///{name}")
    assert not shared.path_of(name).exists()
