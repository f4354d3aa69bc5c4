"""Names with several addresses, and names that take long to be looked up.

The resolver's answers are made by a library that the process loads first. An address that does not
answer is a listener whose backlog is full, so that the kernel drops what comes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults_server import FakeServer

RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* "2-1.test" has the addresses 127.0.0.2 and 127.0.0.1; "slow.test" takes its time and has none. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found) {
    resolver *real = (resolver *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *dot = host == NULL ? NULL : strstr(host, ".test");
    if (dot == NULL) {
        return real(host, port, hints, found);
    }
    if (hints != NULL && (hints->ai_flags & AI_NUMERICHOST)) {
        return EAI_NONAME;
    }
    if (strncmp(host, "slow", 4) == 0) {
        sleep(6);
        return EAI_AGAIN;
    }
    *found = NULL;
    for (const char *at = host; at < dot; at += 2) {
        char address[16];
        snprintf(address, sizeof address, "127.0.0.%c", *at);
        if (real(address, port, hints, found) != 0) {
            return EAI_FAIL;
        }
        while (*found != NULL) {
            found = &(*found)->ai_next;
        }
    }
    return 0;
}
"""

PRELUDE = """if True:
    import asyncio, sys, threading, time
    from headway import RedisStore, StoreUnavailableError, Throttled
    from headway.asyncio import Throttled as AsyncThrottled
    url, as_task = sys.argv[1], sys.argv[2] == "tasks"
    def asked(store):
        try:
            if not as_task:
                return bool(Throttled(quota="10/s", store=store).limit("k"))
            async def ask():
                return bool(await AsyncThrottled(quota="10/s", store=store).limit("k"))
            return asyncio.run(ask())
        except StoreUnavailableError as error:
            return error.fault
"""

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no compiler here for Linux")
    folder = tmp_path_factory.mktemp("resolver")
    (folder / "resolver.c").write_text(RESOLVER)
    made = folder / "resolver.so"
    words = [compiler, "-shared", "-fPIC", "-o", made, folder / "resolver.c", "-ldl"]
    subprocess.run(words, check=True, timeout=60)
    return made


@pytest.fixture
def run(resolver: Path) -> Run:
    """Runs a script, and returns what it says."""

    def run(script: str, url: str, kind: str) -> list[str]:
        environment = os.environ | {"LD_PRELOAD": str(resolver)}
        words = [sys.executable, "-c", PRELUDE + script, url, kind]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@contextlib.contextmanager
def silent(port: int) -> Iterator[None]:
    """127.0.0.2 does not answer on that port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("name", ["2-1", "1-2", "3-1", "3-2-1", "2-3-3-1"])
def test_a_host_is_reached_by_whichever_of_its_addresses_answers(
    run: Run, name: str, kind: str
) -> None:
    """127.0.0.1 answers, 127.0.0.2 does not, 127.0.0.3 refuses."""
    with FakeServer() as server, silent(server.port):
        url = f"redis://{name}.test:{server.port}/0?connect_timeout=20&timeout=20"
        assert run("print(asked(RedisStore(url)))", url, kind) == ["True"]
        assert server.requests["EVALSHA"] == 1


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_host_of_which_no_address_answers_is_given_up_in_time(run: Run, kind: str) -> None:
    with FakeServer() as server, silent(server.port):
        script = """
    begin = time.monotonic()
    print(asked(RedisStore(url)), 0.5 < time.monotonic() - begin < 4)
    """
        url = f"redis://2-2-2.test:{server.port}/0?connect_timeout=0.6&timeout=5"
        assert run(script, url, kind) == ["timeout True"]


def test_only_the_thread_that_looks_a_name_up_waits_for_the_resolver(run: Run) -> None:
    script = """
    store, told = RedisStore(url), []
    def ask():
        begin = time.monotonic()
        fault = asked(store)
        told.append((fault, time.monotonic() - begin < 4))
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(told == ("timeout", True) for told in told))
    """
    url = "redis://slow.test:6379/0?connect_timeout=1&timeout=1"
    assert int(run(script, url, "threads")[0]) >= 4
