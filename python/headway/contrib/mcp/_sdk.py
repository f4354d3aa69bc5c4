"""What differs between the two series of the SDK, `mcp` 1.x (FastMCP) and 2.x (MCPServer).

Everything else of this package is written once. What is read from the SDK's objects is read by
`getattr`, since neither series has the other's names.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["ERROR", "IS_V2", "call_tool_result", "context_class", "current_context", "error"]

try:
    _exceptions: Any = import_module("mcp.shared.exceptions")
except ImportError as missing:
    if find_spec("mcp") is not None:
        raise
    raise ImportError(
        'headway.contrib.mcp needs the MCP Python SDK: pip install "headway[mcp]"', name="mcp"
    ) from missing

IS_V2: bool = hasattr(_exceptions, "MCPError")
ERROR: type[Exception] = _exceptions.MCPError if IS_V2 else _exceptions.McpError
"""What the SDK answers with an error of JSON-RPC."""


def error(self: Any, code: int, message: str, data: dict[str, Any]) -> None:
    """Initialize `self`, an `ERROR`."""
    if IS_V2:
        ERROR.__init__(self, code, message, data)
        return
    types: Any = import_module("mcp.types")
    ERROR.__init__(self, types.ErrorData(code=code, message=message, data=data))


def call_tool_result(text: str, meta: dict[str, Any]) -> Any:
    """What a tool returns that could not do its work: the model reads `text`."""
    types: Any = import_module("mcp.types")
    return types.CallToolResult.model_validate(
        {"content": [{"type": "text", "text": text}], "isError": True, "_meta": meta}
    )


def context_class() -> Any:
    """What a tool declares as the type of a parameter to be given the context of its call."""
    if IS_V2:
        return import_module("mcp.server.mcpserver").Context
    return import_module("mcp.server.fastmcp").Context


def current_context() -> Any:
    """The context of the request that this task serves; None outside, and always in 2.x."""
    if IS_V2:
        return None
    return import_module("mcp.server.lowlevel.server").request_ctx.get(None)
