"""How much a test repeats: little by default, more where HEADWAY_TEST_THOROUGH is 1.

A test that takes its number of rounds from here has the marker `rounds`. `make test` runs it with
few rounds; `make test-all` runs it again, thoroughly, as it does all tests of hypothesis:

    HEADWAY_TEST_THOROUGH=1 pytest -m "slow or rounds or hypothesis"

What a round asserts does not depend on how many there are.
"""

from __future__ import annotations

import os

THOROUGH = os.environ.get("HEADWAY_TEST_THOROUGH", "") not in ("", "0")
QUICK_EXAMPLES, THOROUGH_EXAMPLES = 30, 150


def rounds(quick: int, thorough: int) -> int:
    return thorough if THOROUGH else quick


def examples(thorough: int) -> int:
    """For `settings(max_examples=…)`, where a property needs fewer examples than others: a fifth
    of the number by default.
    """
    return thorough if THOROUGH else max(5, thorough * QUICK_EXAMPLES // THOROUGH_EXAMPLES)
