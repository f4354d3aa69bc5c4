"""Limits for servers of the Model Context Protocol, on the MCP Python SDK, 1.x and 2.x.

    from mcp.server import MCPServer
    from headway.contrib.mcp import RateLimit, concurrency, limit, user

    mcp = MCPServer("archive")
    RateLimit("100/minute", key=user()).install(mcp)   # all tool calls of a user together

    @mcp.tool()
    @limit("10/minute")                                 # this tool, each caller
    async def search(query: str) -> str: ...

    @mcp.tool()
    @concurrency(2, max_wait=10)                        # two at once, others wait
    async def render(scene: str) -> str: ...

A tool that is limited returns an error that the model can read: what was exceeded, and after how
many seconds to try again. Its `_meta` has the numbers under "headway/rate-limit". Other requests
(resources, prompts, lists) are answered with a JSON-RPC error, code -32029, the numbers in `data`.
"""

from headway.contrib._keys import KeyFunction, api_key, client_address, combine, route, user
from headway.contrib.mcp import _sdk  # noqa: F401  (first: it says what to install)
from headway.contrib.mcp._call import Call, caller, everyone, session
from headway.contrib.mcp._denial import META, RATE_LIMITED, RateLimitedError
from headway.contrib.mcp._limit import Concurrency, RateLimit

__all__ = [
    "META",
    "RATE_LIMITED",
    "Call",
    "Concurrency",
    "KeyFunction",
    "RateLimit",
    "RateLimitedError",
    "api_key",
    "caller",
    "client_address",
    "combine",
    "concurrency",
    "everyone",
    "limit",
    "route",
    "session",
    "user",
]

limit = RateLimit
"""`RateLimit` under the name that reads well above a function."""
concurrency = Concurrency
"""`Concurrency` under the name that reads well above a function."""
