"""All torments, by name."""

from __future__ import annotations

from typing import Any

import allocations
import signals

TORMENTS: dict[str, Any] = {
    torment.name: torment for module in (allocations, signals) for torment in module.TORMENTS
}
