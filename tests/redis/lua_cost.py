"""What a call of each script costs the server, by its own account (INFO commandstats), next to
INCRBY and to scripts that do less. A measurement, not a test: `python lua_cost.py [server]`.

Calls come in pipelines of 500, so that the socket is not what is measured. Of seven rounds the
quickest counts.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from lua_scripts import text
from lua_server import running

ROUNDS, PIPELINES, DEPTH = 7, 40, 500
GCRA: list[Any] = [10**6, 1, 0, 9 * 10**9, 0]
CALLS: list[tuple[str, str, list[Any]]] = [
    ("a script that returns 1", "return 1", []),
    (
        "TIME, GET and SET, nothing else",
        "redis.call('TIME') redis.call('GET', KEYS[1]) "
        "redis.call('SET', KEYS[1], '1700000000000000:1', 'PX', '9000') return {1, 'a', 'b', 'c'}",
        [],
    ),
    ("gcra, admitted", text("gcra"), GCRA),
    ("gcra, denied", text("gcra"), [1, 10**6, 0, 10**6, 0]),
    ("gcra, peek", text("gcra"), [10**6, 0, 0, 10**6, 0]),
    ("fixed window, admitted", text("fixed_window"), [10**9, 6 * 10**7, 1]),
    ("sliding window, admitted", text("sliding_window"), [10**9, 6 * 10**6, 1]),
    ("sliding window, product over 2^53", text("sliding_window"), [10**12, 3_600 * 10**6, 1]),
    ("settle, charge", text("settle"), [10**6, 1, 0, "charge"]),
    ("gcra, two rules, admitted", text("gcra"), GCRA * 2),
]


def microseconds(client: Any, command: list[Any]) -> float:
    name = f"cmdstat_{command[0].lower()}"
    best = float("inf")
    for _ in range(ROUNDS):
        client.config_resetstat()
        for _ in range(PIPELINES):
            pipe = client.pipeline(transaction=False)
            for _ in range(DEPTH):
                pipe.execute_command(*command)
            pipe.execute()
        best = min(best, client.info("commandstats")[name]["usec_per_call"])
    return best


def main(binary: str = "redis-server") -> None:
    with tempfile.TemporaryDirectory() as folder, running(binary, Path(folder) / "log") as client:
        print(f"{'INCRBY':36}{microseconds(client, ['INCRBY', 'n', 1]):6.2f} us")
        for what, script, args in CALLS:
            client.flushall()
            keys = ["{k}0", "{k}1"][: 1 + (args == GCRA * 2)]
            command = ["EVALSHA", client.script_load(script), len(keys), *keys, *args]
            print(f"{what:36}{microseconds(client, command):6.2f} us")


if __name__ == "__main__":
    main(*sys.argv[1:])
