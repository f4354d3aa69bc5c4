"""Benchmarks of headway and of the released peers: one module per question.

``python -m benchmarks`` asks all of them, ``python -m benchmarks memory keys`` those two. See
README.md for what they measure and how; `harness.py` for the one way of timing that they share.
"""
