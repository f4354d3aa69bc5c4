"""Turns of work that takes long, on the event loop that decides for everybody.

A snapshot of ten thousand keys takes tens of milliseconds. It is made in steps: after
`_SLICE_S` of work the loop goes on with others for `_PAUSE_S`, so decisions wait for a slice at
most. One snapshot is made at a time, and of one tenant only one waits for that: a tenant that asks
over and over takes its turn with the others, and no more than a share of the processor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

from headway.serve.answers import Answer, Refused
from headway.serve.tokens import Tenant

__all__ = ["Turns"]

_SLICE_S = 0.0003
_PAUSE_S = 0.001
_MOST_WAITING = 16
"""Questions of one tenant that wait for their turn."""


class Turns:
    """One piece of work after the other, the tenants by turns."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def take(self, tenant: Tenant, work: Generator[None, None, Answer]) -> Answer:
        """Do the steps of `work` and return its answer. Raises Refused where too many wait."""
        if tenant.looking >= _MOST_WAITING:
            raise Refused.because(
                503, "Too many questions of this tenant wait for an answer.", (b"retry-after", b"1")
            )
        tenant.looking += 1
        try:
            async with tenant.turn, self._one:
                return await _in_slices(work)
        finally:
            tenant.looking -= 1


async def _in_slices(work: Generator[None, None, Answer]) -> Answer:
    end = time.perf_counter() + _SLICE_S
    while True:
        try:
            next(work)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        if time.perf_counter() > end:
            await asyncio.sleep(_PAUSE_S)
            end = time.perf_counter() + _SLICE_S
