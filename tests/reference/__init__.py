"""The reference model of the five algorithms, and the hypothesis strategies that exercise it."""
