"""A Celery application with limited tasks. Each says when it ran, and in which process.

BROKER=redis://… celery -A celery_limited_app worker -c 2
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from headway.contrib.celery import RateLimitedTask

app = Celery("limited", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=4)
if "STORE" in os.environ:
    app.conf.headway_store = os.environ["STORE"]


def ran(task: Any = None) -> dict[str, Any]:
    retries = task.request.retries if task else 0
    return {"at": time.monotonic(), "wall": time.time(), "pid": os.getpid(), "retries": retries}


@app.task(base=RateLimitedTask, quota="20/s burst 1", bind=True, max_retries=0)
def paced(self: Any, number: int = 0) -> dict[str, Any]:
    return {**ran(self), "number": number}


@app.task(base=RateLimitedTask, quota="10/s burst 5")
def burst() -> dict[str, Any]:
    return ran()


@app.task(base=RateLimitedTask, quota="20/s", using="fixed_window")
def window() -> dict[str, Any]:
    return ran()


@app.task(
    base=RateLimitedTask,
    quota="50/s burst 10",
    key=lambda account, **_: f"account {account}",
    cost=lambda account, weight=1: weight,
)
def weighed(account: str, weight: int = 1) -> dict[str, Any]:
    return {**ran(), "weight": weight}


@app.task(base=RateLimitedTask, concurrency=1)
def alone() -> dict[str, Any]:
    since = time.monotonic()
    time.sleep(0.05)
    return {"since": since, "to": time.monotonic(), "pid": os.getpid()}


@app.task(base=RateLimitedTask, quota="1/h", key=lambda word: None)
def exempt(word: str) -> str:
    return word


@app.task(base=RateLimitedTask, quota="1/s burst 1", key="both")
def slow() -> dict[str, Any]:
    return ran()


@app.task
def free() -> dict[str, Any]:
    return ran()


@app.task(base=RateLimitedTask, quota="50/s burst 1", bind=True, max_retries=2)
def retries_itself(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(base=RateLimitedTask, quota="5/h", cost=lambda cost: cost, key="small")
def too_much(cost: int) -> int:
    return cost
