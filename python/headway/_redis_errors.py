"""Why a Redis server has not answered, in a sentence that says what would help."""

from headway.exceptions import StoreUnavailableError

__all__ = ["unavailable"]

_HELP = {
    "address": "Check the host's name.",
    "connect": "Is the server running there, and reachable from here?",
    "timeout": "The server is too slow, or the network is; see `timeout` and `connect_timeout`.",
    "login": "Check the user and the password.",
    "database": "Check the number at the end of the URL.",
    "protocol": "Is it a Redis server, on this port, without TLS?",
    "replicas": "Are the replicas connected, and as many as wait_replicas asks for?",
    "tls": "Check the certificates, and whether the port speaks TLS.",
}


def unavailable(server: str, fault: str, text: str, lost: bool) -> StoreUnavailableError:
    """Return the error for a request that was not answered.

    `fault` is the compiled client's word for it, and becomes an attribute of the error; so does
    `may_have_counted`: whether the request had been sent, so that the server may have taken it.
    """
    text = text.rstrip(". ")
    sentence = f"{server} cannot answer: {text}{'' if text.endswith(('?', '!')) else '.'}"
    if fault in _HELP:
        sentence += f" {_HELP[fault]}"
    error = StoreUnavailableError(sentence)
    error.fault = fault
    error.may_have_counted = lost
    return error
