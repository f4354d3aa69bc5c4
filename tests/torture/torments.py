"""All torments, by name."""

from __future__ import annotations

from typing import Any

import allocations
import calls
import hostile_redis
import signals
import surroundings
import suspensions

_MODULES = (allocations, calls, signals, suspensions, surroundings, hostile_redis)
TORMENTS: dict[str, Any] = {
    torment.name: torment for module in _MODULES for torment in module.TORMENTS
}
