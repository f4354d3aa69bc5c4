"""Keys: any text or bytes, under the promised name, and never without a time to live.

A name is `{prefix}:v1:{algorithm}:` and the key in a hash tag, so that the rules of one key share a
cluster's slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from servers import RedisServer
from store_help import USINGS, ask

from headway import DataError
from headway.store import RedisStore

__all__ = ["ask"]

KEYS: dict[str, str | bytes] = {
    "unicode": "ключ-鍵-🔑",
    "NUL": "a\0b",
    "only NUL": "\0",
    "open brace": "{",
    "close brace": "}",
    "empty tag": "{}",
    "a tag": "{user}.7",
    "a late close": "}x{y}",
    "backslash": "\\",
    "backslash and close": "\\}",
    "newline": "a\r\nb",
    "blank": " ",
    "colons": "::v1:gcra:",
    "bytes": b"\xff\xfe\x00",
    "a surrogate's bytes": b"\xed\xa0\x80",
    "64 KiB": "x" * 65_536,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_any_key_has_a_quota_of_its_own(
    key: str | bytes, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url)
    assert [bool(ask(store, key=key, quota="2/h")) for _ in range(3)] == [True, True, False]
    others = [other for other in KEYS.values() if other != key]
    assert all(ask(store, key=other, quota="2/h") for other in others)
    assert server.command("DBSIZE") == len(KEYS)


@pytest.mark.parametrize("key", [k for k in KEYS.values() if len(k) < 100])
def test_all_rules_of_a_key_are_in_one_slot(key: str | bytes, server: RedisServer) -> None:
    import headway

    store = RedisStore(server.url)
    assert headway.Throttled(key, quota="2/m, 2/h, 2/d", store=store).limit()
    names = server.command("KEYS", "*")
    assert len(names) == 3
    assert len({tag(name) for name in names}) == 1
    assert tag(names[0])


def tag(name: str) -> str:
    """What a cluster hashes."""
    start = name.index("{")
    return name[start + 1 : name.index("}", start)]


@pytest.mark.parametrize("using", USINGS)
def test_the_name_of_a_key_says_prefix_version_and_algorithm(
    using: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url)
    ask(store, using=using, key="user:7")
    ask(store, using=using, key="user:7", key_prefix="shop")
    assert sorted(server.command("KEYS", "*")) == [
        f"headway:v1:{using}:{{user:7}}",
        f"shop:v1:{using}:{{user:7}}",
    ]


def test_text_and_its_utf_8_are_one_key(server: RedisServer, ask: Callable[..., Any]) -> None:
    store = RedisStore(server.url)
    assert ask(store, key="é", quota="1/h")
    assert not ask(store, key="é".encode(), quota="1/h")


@pytest.mark.parametrize("using", USINGS)
@pytest.mark.parametrize("quota", ["5/s", "3/100ms", "2/s, 9/m", "7/d burst 0", "1/w burst 9"])
def test_every_key_has_a_time_to_live_that_outlives_its_state(
    using: str, quota: str, server: RedisServer, ask: Callable[..., Any]
) -> None:
    store = RedisStore(server.url)
    server.command("CONFIG", "RESETSTAT")
    state = ask(store, using=using, quota=quota).state
    ask(store, using=using, quota=quota, timeout=0.01)
    names = server.command("KEYS", "*")
    lives = [int(server.command("PTTL", name)) for name in names]
    assert all(life != -1 for life in lives), dict(zip(names, lives, strict=True))
    if state.reset_after > 1:
        assert max(lives) >= (state.reset_after - 1) * 1000


def test_a_settled_key_still_has_a_time_to_live(server: RedisServer) -> None:
    import asyncio

    from headway.asyncio import Throttled

    async def main() -> None:
        limiter = Throttled("key", using="gcra", quota="1/m", store=RedisStore(server.url))
        await limiter.limit()
        task = asyncio.create_task(limiter.limit(timeout=100))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        await limiter.peek()

    asyncio.run(main())
    assert 0 < int(server.command("PTTL", "headway:v1:gcra:{key}")) <= 3_600_000


@pytest.mark.parametrize("key", ["", b"", "x" * 65_537, 5, None])
def test_what_is_no_key_is_a_data_error_and_sends_nothing(
    key: object, server: RedisServer, ask: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match="Invalid key"):
        ask(RedisStore(server.url), "limit", key, key=None)
    assert server.command("DBSIZE") == 0
