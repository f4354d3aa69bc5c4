"""A decorated function keeps its identity and its kind, and asks before it runs."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import time
import types
import typing
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from headway import DataError, LimitedError, MemoryStore, Throttled


@pytest.fixture
def once(store: MemoryStore) -> Throttled:
    """Admits one call a minute; time stands still."""
    return Throttled(key="k", quota="1/min", store=store)


def module_level(a: int, b: str = "x") -> str:
    """What it is for."""
    return f"{a}{b}"


module_level = Throttled(key="module", quota="1000/s")(module_level)


class TestIdentity:
    def test_name_module_doc_annotations_and_signature_stay(self, once: Throttled) -> None:
        def greet(name: str, *, loud: bool = False) -> str:
            """Greet somebody."""
            return name

        greet.mark = "own attribute"  # type: ignore[attr-defined]
        guarded: Any = once(greet)

        assert guarded.__name__ == "greet"
        assert guarded.__qualname__ == greet.__qualname__
        assert guarded.__module__ == __name__
        assert guarded.__doc__ == "Greet somebody."
        assert guarded.__annotations__ == greet.__annotations__
        assert guarded.__wrapped__ is greet
        assert guarded.mark == "own attribute"
        assert inspect.signature(guarded) == inspect.signature(greet)
        assert inspect.unwrap(guarded) is greet
        assert typing.get_type_hints(guarded) == {"name": str, "loud": bool, "return": str}

    def test_limiter_is_the_limiter_behind_it(self, once: Throttled) -> None:
        async def coroutine() -> None: ...

        def generator() -> Iterator[int]:
            yield 1

        async def async_generator() -> AsyncIterator[int]:
            yield 1

        for func in (lambda: None, coroutine, generator, async_generator):
            assert once(func).limiter is once  # type: ignore[attr-defined]

    def test_a_decorated_function_pickles_by_name(self) -> None:
        assert pickle.loads(pickle.dumps(module_level)) is module_level
        assert copy.deepcopy(module_level) is module_level

    def test_attributes_can_be_set(self, once: Throttled) -> None:
        guarded: Any = once(lambda: None)
        guarded.mark = 1
        assert guarded.mark == 1


class TestCalls:
    def test_the_first_call_runs_and_the_second_raises(self, once: Throttled) -> None:
        ran = []
        call = once(ran.append)

        call(1)
        with pytest.raises(LimitedError) as caught:
            call(2)

        assert ran == [1]
        assert str(caught.value) == (
            "Rate limit exceeded: remaining=0, reset_after=60, retry_after=60."
        )
        assert caught.value.rate_limit_result is not None
        assert caught.value.rate_limit_result.state.retry_after == 60

    def test_arguments_and_result_pass_through(self, once: Throttled) -> None:
        call = once(lambda *args, **kwargs: (args, kwargs))
        assert call(1, 2, x=3) == ((1, 2), {"x": 3})

    def test_an_exception_of_the_function_passes_through(self, once: Throttled) -> None:
        def fail() -> None:
            raise KeyError("own")

        with pytest.raises(KeyError, match="own"):
            once(fail)()

    def test_the_cost_of_the_limiter_is_taken(self, store: MemoryStore) -> None:
        throttled = Throttled(key="k", quota="5/min", cost=3, store=store)
        throttled(lambda: None)()
        assert throttled.peek("k").remaining == 2

    def test_a_key_made_from_the_arguments_limits_each_apart(self, store: MemoryStore) -> None:
        @Throttled(key=lambda user, **_: f"user:{user}", quota="1/min", store=store)
        def call(user: str, **kwargs: object) -> str:
            return user

        assert call("ann") == "ann"
        assert call("bob", x=1) == "bob"
        with pytest.raises(LimitedError):
            call("ann")

    def test_a_cost_made_from_the_arguments_is_taken(self, store: MemoryStore) -> None:
        throttled = Throttled(key="k", quota="10/min", cost=len, store=store)
        throttled(lambda batch: None)("four")
        assert throttled.peek("k").remaining == 6


class TestMethods:
    def test_methods_class_methods_and_static_methods_are_limited(self, store: MemoryStore) -> None:
        def limited(name: str) -> Throttled:
            return Throttled(key=name, quota="1/min", store=store)

        class Service:
            @limited("method")
            def method(self, x: int) -> tuple[object, int]:
                return self, x

            @classmethod
            @limited("class")
            def of_class(cls, x: int) -> tuple[object, int]:
                return cls, x

            @staticmethod
            @limited("static")
            def static(x: int) -> int:
                return x

            @limited("class outside")  # type: ignore[arg-type]
            @classmethod
            def of_class_outside(cls, x: int) -> tuple[object, int]:
                return cls, x

            @limited("static outside")
            @staticmethod
            def static_outside(x: int) -> int:
                return x

            @property
            @limited("property")
            def value(self) -> int:
                return 7

        service = Service()
        assert service.method(1) == (service, 1)
        assert service.of_class(2) == (Service, 2)
        assert Service.static(3) == 3
        assert service.of_class_outside(4) == (Service, 4)
        assert service.static_outside(5) == 5
        assert service.value == 7
        for again in (
            lambda: Service.method(service, 1),
            lambda: Service.of_class(2),
            lambda: service.static(3),
            lambda: Service.of_class_outside(4),
            lambda: Service.static_outside(5),
            lambda: service.value,
        ):
            with pytest.raises(LimitedError):
                again()

    def test_a_bound_method_knows_its_function(self, once: Throttled) -> None:
        class Service:
            @once
            def method(self) -> None:
                """Its doc."""

        assert Service().method.__doc__ == "Its doc."
        assert Service().method.__name__ == "method"
        assert list(inspect.signature(Service().method).parameters) == []

    def test_a_key_made_from_the_arguments_sees_self(self, store: MemoryStore) -> None:
        class Service:
            def __init__(self, name: str) -> None:
                self.name = name

            @Throttled(key=lambda self: self.name, quota="1/min", store=store)
            def call(self) -> str:
                return self.name

        assert [Service("a").call(), Service("b").call()] == ["a", "b"]
        with pytest.raises(LimitedError):
            Service("a").call()


class TestCoroutines:
    def test_a_coroutine_function_stays_one(self, once: Throttled) -> None:
        async def fetch(x: int) -> int:
            """Fetch."""
            return x

        call = once(fetch)

        assert inspect.iscoroutinefunction(call)
        assert call.__name__ == "fetch"
        assert inspect.signature(call) == inspect.signature(fetch)
        assert asyncio.run(call(3)) == 3
        with pytest.raises(LimitedError):
            asyncio.run(call(3))

    def test_a_partial_of_a_coroutine_function_becomes_one(self, once: Throttled) -> None:
        async def fetch(x: int) -> int:
            return x

        call = once(functools.partial(fetch, 3))
        assert inspect.iscoroutinefunction(call)
        assert asyncio.run(call()) == 3

    def test_an_object_with_an_async_call_is_awaited(self, once: Throttled) -> None:
        class Client:
            async def __call__(self, x: int) -> int:
                return x

        call = once(Client())
        assert inspect.iscoroutinefunction(call)
        assert asyncio.run(call(3)) == 3

    def test_waiting_leaves_the_event_loop_free(self) -> None:
        throttled = Throttled(key="k", quota="20/s burst 1", timeout=5, store=MemoryStore())
        call = throttled(self._nothing)
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        async def main() -> float:
            beating = asyncio.create_task(heart())
            started = time.monotonic()
            for _ in range(5):
                await call()
            beating.cancel()
            return time.monotonic() - started

        taken = asyncio.run(main())

        assert taken >= 0.19  # five calls, the first at once, then one each 50 ms
        assert beats > 50  # a wait that blocks the loop leaves a handful

    def test_a_wait_longer_than_the_timeout_is_denied_at_once(self) -> None:
        call = Throttled(key="k", quota="1/min", timeout=50, store=MemoryStore())(self._nothing)

        async def main() -> float:
            await call()
            started = time.monotonic()
            with pytest.raises(LimitedError):
                await call()
            return time.monotonic() - started

        assert asyncio.run(main()) < 30

    def test_a_cost_that_never_fits_is_denied_at_once(self) -> None:
        throttled = Throttled(key="k", quota="1/s", cost=5, timeout=5, store=MemoryStore())
        with pytest.raises(LimitedError):
            asyncio.run(throttled(self._nothing)())

    @staticmethod
    async def _nothing() -> None: ...


class TestGenerators:
    def test_a_generator_function_stays_one_and_asks_at_its_first_value(
        self, once: Throttled
    ) -> None:
        def count(n: int) -> Generator[int, str, str]:
            got = []
            for i in range(n):
                got.append((yield i))
            return "".join(got)

        call = once(count)
        assert inspect.isgeneratorfunction(call)

        generator = call(2)
        assert once.peek("k").remaining == 1
        assert next(generator) == 0
        assert once.peek("k").remaining == 0
        assert generator.send("a") == 1
        with pytest.raises(StopIteration) as stopped:
            generator.send("b")
        assert stopped.value.value == "ab"
        with pytest.raises(LimitedError):
            next(call(2))

    def test_an_awaitable_generator_stays_awaitable(self, once: Throttled) -> None:
        @types.coroutine
        def answer() -> Generator[Any, None, int]:
            yield
            return 42

        call = once(answer)

        async def main() -> int:
            return await call()

        assert asyncio.run(main()) == 42

    def test_an_async_generator_function_stays_one(self, once: Throttled) -> None:
        async def count(n: int) -> AsyncIterator[int]:
            for i in range(n):
                yield i

        call = once(count)
        assert inspect.isasyncgenfunction(call)

        async def collect() -> list[int]:
            return [i async for i in call(3)]

        assert asyncio.run(collect()) == [0, 1, 2]
        with pytest.raises(LimitedError):
            asyncio.run(collect())

    def test_what_is_sent_thrown_and_closed_reaches_an_async_generator(
        self, store: MemoryStore
    ) -> None:
        seen: list[object] = []

        async def listen() -> Any:
            try:
                while True:
                    try:
                        seen.append((yield len(seen)))
                    except ValueError as error:
                        seen.append(error)
            finally:
                await asyncio.sleep(0)
                seen.append("closed")

        call = Throttled(key="k", quota="9/min", store=store)(listen)
        error = ValueError("thrown")

        async def main() -> None:
            generator = call()
            assert await generator.asend(None) == 0
            assert await generator.asend("sent") == 1
            assert await generator.athrow(error) == 2
            await generator.aclose()

        asyncio.run(main())
        assert seen == ["sent", error, "closed"]

    def test_an_error_that_an_async_generator_does_not_catch_comes_out(
        self, once: Throttled
    ) -> None:
        async def listen() -> Any:
            yield 1

        async def main() -> None:
            generator = once(listen)()
            await generator.asend(None)
            with pytest.raises(KeyError):
                await generator.athrow(KeyError())
            with pytest.raises(StopAsyncIteration):
                await generator.asend(None)

        asyncio.run(main())


class TestRefusals:
    @pytest.mark.parametrize("thing", [None, 3, "f", property(lambda self: 1)])
    def test_what_cannot_be_called_is_refused(self, thing: Any, once: Throttled) -> None:
        with pytest.raises(TypeError, match=type(thing).__name__):
            once(thing)

    def test_a_limiter_without_a_key_cannot_decorate(self) -> None:
        with pytest.raises(DataError, match=r"^Invalid key: None, must be a non-empty key\.$"):
            Throttled()(lambda: None)

    def test_a_class_can_be_decorated(self, once: Throttled) -> None:
        class Thing:
            def __init__(self, x: int) -> None:
                self.x = x

        make: Callable[[int], Thing] = once(Thing)
        assert make(3).x == 3
        with pytest.raises(LimitedError):
            make(4)


class TestLimitedError:
    def test_it_pickles_with_its_result(self, once: Throttled) -> None:
        call = once(lambda: None)
        call()
        with pytest.raises(LimitedError) as caught:
            call()

        twin = pickle.loads(pickle.dumps(caught.value))

        assert str(twin) == str(caught.value)
        assert twin.rate_limit_result == caught.value.rate_limit_result

    def test_without_a_result_it_says_no_more_than_it_knows(self) -> None:
        assert str(LimitedError()) == "Rate limit exceeded."
        assert LimitedError().rate_limit_result is None


def test_annotations_that_were_assigned_are_kept_by_wrappers_of_every_kind() -> None:
    async def call(key: str) -> int:
        return 1

    call.__annotations__ = {"key": bytes, "return": float}
    once = Throttled(key="k", quota="1/s")(call)
    twice = Throttled(key="k", quota="1/s")(once)
    assert once.__annotations__ == twice.__annotations__ == {"key": bytes, "return": float}
