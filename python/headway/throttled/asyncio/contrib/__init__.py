"""throttled.md's integrations with frameworks, by its names; each needs its framework.

headway's own, which do more, are in `headway.contrib`.
"""
