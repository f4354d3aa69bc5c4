"""How a call's tokens are counted: with tiktoken or tokenizers where they are installed, else four
characters a token, which the log says once.

Neither library is needed here: modules of their names stand in for them, or for their absence.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headway import MemoryStore
from headway.choked import Choked

LIBRARY = {"default": "tiktoken", "openai": "tiktoken", "voyageai": "tokenizers"}


def words(text: str) -> list[str]:
    """A tokenizer for which each word is a token."""
    return text.split()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both libraries, counting words; the names of the models that are asked for."""
    asked: list[str] = []
    tiktoken: Any = ModuleType("tiktoken")
    tokenizers: Any = ModuleType("tokenizers")

    def encoding_for_model(model: str) -> SimpleNamespace:
        asked.append(model)
        return SimpleNamespace(encode=lambda text, **options: words(text))

    def from_pretrained(model: str) -> SimpleNamespace:
        asked.append(model)
        return SimpleNamespace(encode=lambda text: SimpleNamespace(ids=words(text)))

    tiktoken.encoding_for_model = encoding_for_model
    tokenizers.Tokenizer = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "tiktoken", tiktoken)
    monkeypatch.setitem(sys.modules, "tokenizers", tokenizers)
    return asked


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library."""
    for name in ("tiktoken", "tokenizers"):
        monkeypatch.setitem(sys.modules, name, None)


def tokens_of(virtual: MemoryStore, key: str, choice: Any, *args: Any, **kwargs: Any) -> int:
    """What a call with these arguments is charged."""

    @Choked()(key=key, token_limit="1000000/m", token_estimator=choice)
    def call(*args: Any, **kwargs: Any) -> None: ...

    call(*args, **kwargs)
    taken: int = 1_000_000 - call.limiter.peek().remaining  # type: ignore[attr-defined]
    return taken


@pytest.mark.parametrize("choice", [*LIBRARY, None])
def test_the_library_counts_where_it_is_installed(
    choice: str | None, installed: list[str], virtual: MemoryStore, key: str
) -> None:
    assert tokens_of(virtual, key, choice, "one two three four") == 4
    assert len(installed) == 1


@pytest.mark.parametrize("choice", LIBRARY)
def test_the_library_is_looked_for_once(
    choice: str, installed: list[str], virtual: MemoryStore, key: str
) -> None:
    for number in range(3):
        tokens_of(virtual, f"{key} {number}", choice, "one two")
    assert len(installed) == 1


def test_the_library_is_not_looked_for_before_a_call(
    installed: list[str], virtual: MemoryStore, key: str
) -> None:
    @Choked()(key=key, token_limit="100/m")
    def call(text: str) -> None: ...

    assert installed == []


@pytest.mark.parametrize("choice", LIBRARY)
@pytest.mark.parametrize(("characters", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_without_it_four_characters_count_as_a_token(
    choice: str, characters: int, tokens: int, missing: None, virtual: MemoryStore, key: str
) -> None:
    assert tokens_of(virtual, key, choice, "x" * characters) == tokens


@pytest.mark.parametrize("choice", LIBRARY)
def test_that_characters_are_counted_is_said_once(
    choice: str,
    missing: None,
    virtual: MemoryStore,
    key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "headway.choked")
    for number in range(3):
        tokens_of(virtual, f"{key} {number}", choice, "text")
    said = [record.getMessage() for record in caplog.records if "token" in record.getMessage()]
    assert len(said) == 1
    assert LIBRARY[choice] in said[0]
    assert "4 characters" in said[0]


@pytest.mark.parametrize("choice", ["default", "voyageai"])
def test_a_library_that_cannot_load_its_tables_is_as_good_as_none(
    choice: str,
    installed: list[str],
    virtual: MemoryStore,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_network(model: str) -> None:
        raise OSError("no route to host")

    modules: dict[str, Any] = dict(sys.modules)
    monkeypatch.setattr(modules["tiktoken"], "encoding_for_model", no_network)
    monkeypatch.setattr(modules["tokenizers"].Tokenizer, "from_pretrained", no_network)
    caplog.set_level(logging.INFO, "headway.choked")
    assert tokens_of(virtual, key, choice, "x" * 40) == 10
    assert "no route to host" in caplog.text


def test_a_callable_gets_the_arguments_as_the_function_does(virtual: MemoryStore, key: str) -> None:
    seen = []

    def count(*args: Any, **kwargs: Any) -> int:
        seen.append((args, kwargs))
        return 7

    assert tokens_of(virtual, key, count, 1, "two", three=[3]) == 7
    assert seen == [((1, "two"), {"three": [3]})]


MESSAGES = [
    {"role": "system", "content": "x" * 40},
    {"role": "user", "content": [{"type": "text", "text": "x" * 20}, {"type": "image_url"}]},
]


@pytest.mark.parametrize(
    ("args", "kwargs", "tokens"),
    [
        (("x" * 40, "x" * 20), {}, 15),
        ((), {"prompt": "x" * 40}, 10),
        ((["x" * 40, "x" * 20],), {}, 15),
        ((("x" * 40, ["x" * 20]),), {}, 15),
        ((MESSAGES,), {}, 15),
        ((), {"messages": MESSAGES, "model": "xxxx"}, 16),
        ((7, None, 1.5, object(), b"bytes"), {}, 1),
        ((), {}, 1),
        (("я" * 8,), {}, 2),
        (({"content": None},), {}, 1),
    ],
)
def test_the_texts_among_the_arguments_are_counted(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tokens: int,
    missing: None,
    virtual: MemoryStore,
    key: str,
) -> None:
    assert tokens_of(virtual, key, "default", *args, **kwargs) == tokens
