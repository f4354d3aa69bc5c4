"""Stands in for the `httpx` package: a client that prints what it is asked for.

Only what the documents use: `async with AsyncClient() as client: client.get(...)`. The document
does not await the answer; here that is no mistake, since there is none.
"""

from types import EllipsisType


class AsyncClient:
    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    def get(self, url: "str | EllipsisType") -> None:
        print("GET", "..." if url is ... else url)
