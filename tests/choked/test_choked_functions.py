"""What choked makes of the thing it decorates: functions, coroutine functions, generators and
methods stay what they are, and `choked` itself is found both ways.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from headway import MemoryStore
from headway.choked import choked

pytestmark = pytest.mark.usefixtures("virtual")


def left(function: Any) -> int:
    """How many tokens the bucket of a function holds."""
    remaining: int = function.limiter.peek().remaining
    return remaining


def test_a_function_keeps_its_identity_and_its_answer(key: str) -> None:
    @choked(key=key, max_tokens=5, refill_period=60)
    def add(first: int, second: int = 2) -> int:
        """Adds."""
        return first + second

    assert add(1) == 3
    assert add(first=1, second=4) == 5
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert list(inspect.signature(add).parameters) == ["first", "second"]
    assert not inspect.iscoroutinefunction(add)
    assert left(add) == 3


def test_a_coroutine_function_stays_one_and_takes_its_token_when_awaited(key: str) -> None:
    @choked(key=key, max_tokens=5, refill_period=60)
    async def call(value: int) -> int:
        return value

    assert inspect.iscoroutinefunction(call)
    coroutine = call(7)
    assert left(call) == 5
    assert asyncio.run(coroutine) == 7
    assert left(call) == 4


def test_a_generator_takes_one_token_when_its_first_value_is_asked_for(key: str) -> None:
    @choked(key=key, max_tokens=5, refill_period=60)
    def count() -> Iterator[int]:
        yield 1
        yield 2

    assert inspect.isgeneratorfunction(count)
    values = count()
    assert left(count) == 5
    assert list(values) == [1, 2]
    assert left(count) == 4


def test_an_async_generator_takes_one_token_for_all_its_values(key: str) -> None:
    @choked(key=key, max_tokens=5, refill_period=60)
    async def count() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> list[int]:
        return [number async for number in count()]

    assert inspect.isasyncgenfunction(count)
    assert asyncio.run(main()) == [1, 2]
    assert left(count) == 4


def test_methods_of_every_kind_share_the_bucket_across_instances(key: str) -> None:
    limit = choked(key=key, max_tokens=9, refill_period=60)

    class Client:
        name = "client"

        @limit
        def method(self) -> str:
            return self.name

        @classmethod
        @limit
        def of_class(cls) -> str:
            return cls.__name__

        @staticmethod
        @limit
        def static() -> str:
            return "static"

        @limit
        async def coroutine(self) -> str:
            return self.name

    one, other = Client(), Client()
    assert [one.method(), other.method()] == ["client", "client"]
    assert [Client.of_class(), one.of_class()] == ["Client", "Client"]
    assert [Client.static(), one.static()] == ["static", "static"]
    assert asyncio.run(one.coroutine()) == "client"
    assert left(Client.method) == 2


def test_it_decorates_a_classmethod_and_a_staticmethod_from_outside(key: str) -> None:
    limit = choked(key=key, max_tokens=9, refill_period=60)

    class Client:
        @limit
        @classmethod
        def of_class(cls) -> str:
            return cls.__name__

        @limit
        @staticmethod
        def static() -> str:
            return "static"

    assert (Client.of_class(), Client().of_class(), Client.static()) == (
        "Client",
        "Client",
        "static",
    )


def test_what_cannot_be_called_cannot_be_decorated(key: str) -> None:
    limit: Any = choked(key=key, max_tokens=1, refill_period=1)
    with pytest.raises(TypeError, match="7"):
        limit(7)


def test_the_limiter_behind_a_function_reads_and_resets(virtual: MemoryStore, key: str) -> None:
    @choked(key=key, max_tokens=1, refill_period=60)
    def call() -> None: ...

    limiter: Any = call.limiter  # type: ignore[attr-defined]
    call()
    assert limiter.peek().retry_after == 0
    assert limiter.peek().reset_after == 60
    limiter.reset()
    call()
    assert limiter.store is virtual


class TestImport:
    def test_the_module_itself_is_the_decorator(self, key: str) -> None:
        from headway import choked as module

        @module(key=key, max_tokens=2, refill_period=60)
        def call() -> str:
            return "answer"

        assert call() == "answer"
        assert left(call) == 1

    def test_the_module_still_is_a_module(self) -> None:
        from headway import choked as module

        assert inspect.ismodule(module)
        assert module.choked is choked
        assert module.Choked.__name__ == "Choked"

    def test_both_ways_of_importing_give_one_bucket(self, key: str) -> None:
        import headway

        @headway.choked(key, 3, 60)
        def one() -> None: ...

        @choked(key, 3, 60)
        def other() -> None: ...

        one()
        other()
        assert left(one) == 1
