"""Going back to the broker, on a worker in this process: nothing is lost, or booked twice.

The broker is Celery's own in memory. That it refuses a message cannot be arranged from outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import headway

pytest.importorskip("celery")

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from kombu.exceptions import OperationalError

from headway.contrib.celery import RateLimitedTask, _Line

DEADLINE_S = 30.0


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("put-back", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(headway_store=headway.MemoryStore(), broker_connection_retry_on_startup=False)
    app.loader.import_task_module = lambda *_: None
    setup_logging.connect(leave_logging_alone)
    yield app
    setup_logging.disconnect(leave_logging_alone)
    app.close()


def leave_logging_alone(**_: Any) -> None:
    """A worker would set the level and the handlers of the process, and so of later tests."""


class Broker:
    """Refuses what is put back, as long as it is away."""

    def __init__(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away = False
        self.refused = 0
        send = app.amqp.send_task_message

        def refusing(*args: Any, **kwargs: Any) -> Any:
            if self.is_away and "headway" in (kwargs.get("headers") or ()):
                self.refused += 1
                raise OperationalError("the broker is away")
            return send(*args, **kwargs)

        monkeypatch.setitem(app.amqp.__dict__, "send_task_message", refusing)


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_a_task_that_the_broker_does_not_take_back_waits_in_place(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(app, monkeypatch)
    clock = headway.VirtualClock(10**18)
    app.conf.headway_store = headway.MemoryStore(clock=clock)

    @app.task(base=RateLimitedTask, max_wait=0, quota="5/s burst 1", name="paced")
    def paced(number: int) -> int:
        return number

    with start_worker(app, perform_ping_check=False, pool="threads", concurrency=3):
        broker.is_away = True
        sent = [paced.delay(number) for number in range(3)]
        until(lambda: broker.refused >= 2, "the broker refuses two")
        assert [one.state for one in sent].count("SUCCESS") <= 1
        until(lambda: clock.advance(1) or all(one.ready() for one in sent), "all have run")
        assert [one.get(timeout=DEADLINE_S, interval=0.01) for one in sent] == [0, 1, 2]


@pytest.mark.parametrize("quota", [None, "1000/s"])
def test_one_that_waits_for_a_permit_does_so_too(
    app: Celery, monkeypatch: pytest.MonkeyPatch, quota: str | None
) -> None:
    broker = Broker(app, monkeypatch)

    @app.task(base=RateLimitedTask, max_wait=0, quota=quota, concurrency=1, name=f"one {quota}")
    def one(number: int) -> int:
        until(lambda: broker.refused, "the broker refuses another")
        return number

    with start_worker(app, perform_ping_check=False, pool="threads", concurrency=3):
        broker.is_away = True
        sent = [one.delay(number) for number in range(3)]
        assert [each.get(timeout=DEADLINE_S, interval=0.01) for each in sent] == [0, 1, 2]


def test_a_task_goes_back_as_soon_as_the_broker_takes_it(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(app, monkeypatch)

    @app.task(base=RateLimitedTask, max_wait=0, quota="1/h", name="seldom")
    def seldom() -> None:
        pass

    with start_worker(app, perform_ping_check=False, pool="threads", concurrency=1):
        seldom.delay().get(timeout=DEADLINE_S, interval=0.01)
        broker.is_away = True
        second = seldom.delay()
        until(lambda: broker.refused, "the broker refuses it")
        assert second.state == "PENDING"
        broker.is_away = False
        until(lambda: second.state == "RETRY", "it goes back")


def test_where_one_rule_has_no_place_left_the_others_are_not_booked() -> None:
    store = headway.MemoryStore(clock=headway.VirtualClock(10**18))
    quotas = [headway.per_min(60), headway.per_hour(1)]
    line = _Line(tuple(quotas), store)
    assert [line.book("k", 1)[1] for _ in range(5)] == [True, True, False, False, False]
    often, _ = line._rules[0]
    assert often.peek("0:k").reset_after == 2.0
