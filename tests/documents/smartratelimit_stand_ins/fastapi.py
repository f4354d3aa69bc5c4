"""Stands in for FastAPI: an app whose routes are called by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FastAPI:
    def get(self, path: str) -> Callable[[Any], Any]:
        return lambda function: function
