"""What the service says: a status, a body and headers, made once and sent as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ["JSON", "Answer", "Refused", "failure", "json_answer"]

JSON = ((b"content-type", b"application/json"),)


@dataclass(slots=True)
class Answer:
    """A response. `charged` says that something was taken from a quota for it."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON
    charged: bool = False


class Refused(Exception):
    """A request that cannot be served; its answer is what the caller is told."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer

    @classmethod
    def because(cls, status: int, message: str, *headers: tuple[bytes, bytes]) -> Refused:
        """Return what refuses a request with a sentence."""
        return cls(failure(status, message, *headers))


def failure(status: int, message: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Return an answer that says in a sentence what is wrong."""
    # ASCII: what was quoted from a request may be no text at all.
    return Answer(status, json.dumps({"error": message}).encode(), (*JSON, *headers))


def json_answer(data: object, charged: bool = False) -> Answer:
    """Return data that was asked for."""
    return Answer(200, json.dumps(data, allow_nan=False).encode(), charged=charged)
