"""Calls a function that a service limits to 20 a second, so many times; prints when each ran."""

import json
import os
import sys
import time

from headway.choked import Choked

url, token, key, times = sys.argv[1:]


os.environ["CHOKED_API_URL"] = url


@Choked(api_token=token)(key=key, request_limit="20/s burst 1")
def work() -> float:
    return time.monotonic()


print(json.dumps([work() for _ in range(int(times))]))
