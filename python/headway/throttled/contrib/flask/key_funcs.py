"""Who is limited, of the request that is served now."""

import logging

__all__ = ["get_remote_address"]

UNKNOWN = "unknown"

logger = logging.getLogger("headway.contrib")


def get_remote_address() -> str:
    """The address of whoever is connected; "unknown", said in the log, where there is none.

    Behind a proxy, werkzeug's ProxyFix makes it the client's.
    """
    from flask import request

    address = request.remote_addr
    if address:
        return address
    logger.warning(
        "get_remote_address: request.remote_addr is not there, so the key is %r.", UNKNOWN
    )
    return UNKNOWN
