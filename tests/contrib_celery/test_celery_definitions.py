"""What a limited task is told when it is defined, and what it does where there is no worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("celery")

from celery import Celery

from headway import DataError, MemoryStore, SetUpError, Throttled
from headway.contrib.celery import RateLimitedTask


@pytest.fixture
def app() -> Celery:
    """Nobody connects to its broker."""
    made = Celery("here", broker="memory://", set_as_current=False)
    made.conf.headway_store = MemoryStore()
    return made


def plain(*args: Any, **kwargs: Any) -> str:
    return "ran"


def of_itself(self: Any, *args: Any, **kwargs: Any) -> str:
    return "ran"


def define(app: Celery, function: Callable[..., Any] = plain, **options: Any) -> Any:
    # Not shared: every app that is made later in this process would get the task too.
    task = app.task(base=RateLimitedTask, name="task", lazy=False, shared=False, **options)
    return task(function)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"quota": "many"}, DataError, "many"),
        ({"quota": 5}, DataError, "Invalid quota: 5"),
        ({"quota": "1/s", "using": "best"}, SetUpError, "best"),
        ({"concurrency": 0}, DataError, "Invalid concurrency: 0, must be an integer between 1"),
        ({"quota": "1/s", "key": 5}, DataError, "Invalid key: 5, must be a text or a function"),
        ({"quota": "1/s", "key": ""}, DataError, "Invalid key: ''"),
        ({"quota": "1/s", "cost": 1.5}, DataError, "Invalid cost: 1.5, must be an integer"),
        ({"quota": "1/s", "max_wait": -1}, DataError, "Invalid max_wait: -1, must be seconds"),
    ],
)
def test_bad_options_are_named_where_the_task_is_defined(
    app: Celery, options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        define(app, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": lambda **_: 7}, "Invalid key: 7"),
        ({"cost": lambda: -1}, "Invalid cost: -1"),
        ({"cost": 3}, "Invalid cost: 3, the quota of 'task' has at most 2."),
    ],
)
def test_bad_answers_of_functions_fail_the_task(app: Celery, options: Any, words: str) -> None:
    task = define(app, quota="2/s", **options)
    with pytest.raises(DataError) as caught:
        task.apply(throw=True)
    assert words in str(caught.value)


def test_a_store_that_workers_do_not_share_must_be_asked_for(app: Celery) -> None:
    app.conf.headway_store = None
    with pytest.raises(SetUpError, match="task has no store that workers share"):
        define(app, quota="1/s").apply(throw=True)


def test_the_broker_is_the_store_where_it_is_redis() -> None:
    from headway.contrib.celery import _store_of

    app = Celery("here", broker="redis://somewhere:6379/5", set_as_current=False)
    assert _store_of(define(app, quota="1/s")).server == "redis://somewhere:6379/5"  # type: ignore[union-attr]
    app.conf.headway_store = "redis://elsewhere:6379/0"
    assert _store_of(define(app, quota="1/s")).server == "redis://elsewhere:6379/0"  # type: ignore[union-attr]


def test_a_task_that_is_called_is_its_function(app: Celery) -> None:
    task = define(app, quota="1/h")
    assert [task() for _ in range(3)] == ["ran"] * 3


def test_a_task_that_is_applied_waits_in_place(app: Celery) -> None:
    task = define(app, quota="20/s burst 1", concurrency=1)
    since = time.monotonic()
    assert [task.apply().get() for _ in range(5)] == ["ran"] * 5
    assert time.monotonic() - since >= 4 / 20


def test_a_key_may_be_shared_with_what_is_no_task(app: Celery) -> None:
    store = app.conf.headway_store
    define(app, quota="10/h", key="api", cost=4).apply(throw=True)
    assert Throttled("api", quota="10/h", store=store).peek().remaining == 6


def test_a_quota_may_depend_on_the_key(app: Celery) -> None:
    store = app.conf.headway_store

    def quota(key: str) -> str:
        return "10/h" if key == "gold" else "5/h; 100/d"

    task = define(app, quota=quota, key=lambda tier: tier)
    task.apply(("gold",), throw=True)
    task.apply(("free",), throw=True)
    assert Throttled("gold", quota="10/h", store=store).peek().remaining == 9
    assert Throttled("free", quota="5/h; 100/d", store=store).peek().remaining == 4


def test_functions_given_as_options_are_not_methods(app: Celery) -> None:
    seen: list[Any] = []

    def key(*args: Any, **kwargs: Any) -> str:
        seen.append((args, kwargs))
        return "key"

    task = define(app, of_itself, quota="10/h", key=key, bind=True)
    task.apply((1,), {"word": 2}, throw=True)
    assert seen == [((1,), {"word": 2})]


def test_all_tasks_of_an_app_may_have_the_base() -> None:
    app = Celery("there", broker="memory://", set_as_current=False, task_cls=RateLimitedTask)
    task = app.task(plain, name="plain", lazy=False, shared=False)
    assert task.apply(throw=True).get() == "ran"


def test_without_celery_the_import_says_what_to_install(run_python: Callable[..., str]) -> None:
    said = run_python("""
import sys
sys.modules["celery"] = None
try:
    import headway.contrib.celery
except ImportError as error:
    print(error)
""")
    assert said.strip() == 'headway.contrib.celery needs Celery: pip install "headway[celery]"'
