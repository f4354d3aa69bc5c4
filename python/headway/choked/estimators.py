"""How many tokens a call will take, from its arguments.

Counted is what goes to a language model: the strings among the arguments, in lists too, and the
contents of chat messages. What counts them is chosen by name and found when first needed.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from headway.exceptions import DataError

__all__ = ["Estimator", "estimator", "texts_of"]

Estimator = Callable[..., int]
Counter = Callable[[str], int]

CHARACTERS_A_TOKEN = 4


def estimator(choice: "str | Estimator | None") -> Estimator:
    """Return the function that counts a call's tokens, at least 1; ValueError if unknown."""
    if callable(choice):
        return _checked(choice)
    find = _COUNTERS.get(choice if choice is not None else "default")
    if find is None:
        known = ", ".join(repr(name) for name in _COUNTERS)
        raise ValueError(
            f"Invalid token_estimator: {choice!r}, must be one of {known}, or a callable."
        )
    return functools.partial(_estimate, find)


def _estimate(find: Callable[[], Counter], /, *args: object, **kwargs: object) -> int:
    count = find()
    return max(1, sum(count(text) for text in texts_of(args, kwargs)))


def texts_of(args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[str]:
    """Yield the texts among a call's arguments."""
    for value in (*args, *kwargs.values()):
        yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):  # a message, or a part of one: {"type": "text", "text": …}
        for field in ("content", "text"):
            yield from _texts(value.get(field))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _by_characters(text: str) -> int:
    return -(-len(text) // CHARACTERS_A_TOKEN)


def _fallback(library: str, error: Exception) -> Counter:
    logging.getLogger("headway.choked").info(
        "%s cannot count tokens here (%s: %s): %d characters count as one token.",
        library,
        type(error).__name__,
        error,
        CHARACTERS_A_TOKEN,
    )
    return _by_characters


@functools.cache
def _tiktoken() -> Counter:
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]

        encoding = tiktoken.encoding_for_model("gpt-4")
    except Exception as error:  # not installed, or its tables cannot be loaded
        return _fallback("tiktoken", error)
    return lambda text: len(encoding.encode(text, disallowed_special=()))


@functools.cache
def _voyageai() -> Counter:
    try:
        from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

        tokenizer = Tokenizer.from_pretrained("voyageai/voyage-3.5")
    except Exception as error:  # likewise
        return _fallback("tokenizers", error)
    return lambda text: len(tokenizer.encode(text).ids)


_COUNTERS: dict[str, Callable[[], Counter]] = {
    "default": _tiktoken,
    "openai": _tiktoken,
    "tiktoken": _tiktoken,
    "voyageai": _voyageai,
}


def _checked(estimate: Estimator) -> Estimator:
    """Return `estimate` with its answer checked: DataError where it is not a number of tokens."""

    @functools.wraps(estimate)
    def wrapper(*args: object, **kwargs: object) -> int:
        tokens = estimate(*args, **kwargs)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
            raise DataError(
                f"Invalid tokens: {tokens!r} of token_estimator, must be an integer from 0."
            )
        return max(1, tokens)

    return wrapper
