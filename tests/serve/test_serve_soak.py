"""The soak of `make soak-service`, for two minutes: see `soak.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import FILLING, KINDS, Target
from service_help import ALICE, ServiceProcess
from soak import Soak, run


def test_there_are_twenty_kinds_and_more() -> None:
    assert len(KINDS) >= 20
    assert set(FILLING) <= set(KINDS)


@pytest.mark.parametrize("name", ["pipelines", "large_heads", "no_http", "many_headers"])
def test_a_kind_does_what_it_is_for_and_no_harm(name: str) -> None:
    with ServiceProcess(tokens=[f"alice:{ALICE}"]) as service:
        target = Target(service.address, 1)
        KINDS[name](target)
        assert target.sent
        assert service.get("/healthz").status == 200


def test_memory_that_grows_and_memory_that_is_flat_are_told_apart() -> None:
    flat, grows = Soak(100.0), Soak(100.0)
    flat.memory = [(float(at), 80.0 + min(at, 50)) for at in range(100)]
    grows.memory = [(float(at), 80.0 + at) for at in range(100)]
    assert not flat.failures
    assert "memory grows" in grows.failures[0]


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_minutes_among_hostile_clients_leave_memory_flat() -> None:
    soak = run(120.0, [])
    print(soak.report())
    assert not soak.failures
