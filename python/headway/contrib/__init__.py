"""Limits where requests come in: rules, keys and headers that all web integrations share.

    from headway.contrib.asgi import RateLimitMiddleware        any ASGI app
    from headway.contrib.starlette import limit                 Starlette
    from headway.contrib.fastapi import RateLimit               FastAPI

Each integration imports its framework in its own module, and re-exports the names below.
"""

from headway.contrib._facts import Facts
from headway.contrib._keys import KeyFunction, api_key, client_address, combine, route, user
from headway.contrib._policy import Policy
from headway.contrib._rules import Concurrency, Rule
from headway.contrib._verdict import Outcome, Verdict

__all__ = [
    "Concurrency",
    "Facts",
    "KeyFunction",
    "Outcome",
    "Policy",
    "Rule",
    "Verdict",
    "api_key",
    "client_address",
    "combine",
    "route",
    "user",
]
