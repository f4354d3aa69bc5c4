"""All torments, by name."""

from __future__ import annotations

from typing import Any

import allocations
import hostile_redis
import signals
import surroundings
import suspensions

TORMENTS: dict[str, Any] = {
    torment.name: torment for module in (allocations, signals, suspensions, surroundings, hostile_redis) for torment in module.TORMENTS
}
