"""throttled-py's integration with FastAPI, by its own names: a decorator for routes.

    limiter = Limiter("100/m", key_func=get_remote_address)
    app.add_exception_handler(RateLimitExceededError, rate_limit_exceeded_handler)
    app.add_middleware(RateLimitMiddleware)             # fields on responses that are allowed

    @app.get("/items")
    @limiter.limit("10/s burst 20")
    async def items(request: Request): ...

`headway.contrib.fastapi` does more: it also takes plain functions, routes that do not ask for the
request, proxies, several rules, and tells fields on responses of any type.
"""

from headway.throttled.asyncio.contrib.fastapi.exceptions import (
    RateLimitExceededError,
    rate_limit_exceeded_handler,
)
from headway.throttled.asyncio.contrib.fastapi.headers import (
    RateLimitContext,
    RateLimitHeaderPolicy,
)
from headway.throttled.asyncio.contrib.fastapi.key_funcs import get_remote_address
from headway.throttled.asyncio.contrib.fastapi.limiter import KeyFunc, Limiter
from headway.throttled.asyncio.contrib.fastapi.middleware import RateLimitMiddleware

__all__ = [
    "KeyFunc",
    "Limiter",
    "RateLimitContext",
    "RateLimitExceededError",
    "RateLimitHeaderPolicy",
    "RateLimitMiddleware",
    "get_remote_address",
    "rate_limit_exceeded_handler",
]
