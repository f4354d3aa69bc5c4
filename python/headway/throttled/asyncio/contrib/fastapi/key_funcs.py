"""Key functions."""

import logging

from starlette.requests import Request

__all__ = ["get_remote_address"]

logger = logging.getLogger("headway.contrib")

_UNKNOWN_CLIENT = "unknown"


def get_remote_address(request: Request) -> str:
    """The address of whoever is connected, a proxy where there is one; "unknown" without one."""
    if request.client is not None and request.client.host:
        return request.client.host
    logger.warning(
        "get_remote_address: the request has no client, so it is counted under %r",
        _UNKNOWN_CLIENT,
    )
    return _UNKNOWN_CLIENT
