"""A program of choked 0.2.5, as it is but for the host that it asks, which is written into it.

What counts tokens is not installed here, and not what is tested: where it is missing, it is
left out.
"""

import asyncio
import importlib
import importlib.util
import sys
import time
import types
from typing import Any

for name in ("tiktoken", "transformers", "dotenv"):
    if importlib.util.find_spec(name) is None:
        module: Any = types.ModuleType(name)
        module.AutoTokenizer = None
        module.load_dotenv = lambda: None
        sys.modules[name] = module

import requests  # noqa: E402

Choked = importlib.import_module("choked.choked").Choked

url, token, key, kind = sys.argv[1:]
original: Any = requests.get


def get(asked: str, **rest: Any) -> Any:
    assert asked == "https://api.try-marks.co/choked/acquire"
    return original(f"{url}/choked/acquire", **rest)


requests.get = get
choke = Choked(api_token=token)
started = time.monotonic()

if kind == "sync":
    asyncio.set_event_loop(asyncio.new_event_loop())

    @choke(key=key, request_limit="2/s")
    def work() -> float:
        return time.monotonic() - started

    times = [work() for _ in range(3)]
else:

    @choke(key=key, request_limit="2/s")
    async def work_async() -> float:
        return time.monotonic() - started

    async def main() -> list[float]:
        return [await work_async() for _ in range(3)]

    times = asyncio.run(main())
print(*times)
