"""Code that asks a store while a call of the same thread waits for it: signal handlers, finalizers,
callbacks of the collector, log handlers; and threads and forks that leave such a call behind.

Each test is a process of its own, since what is tested would hang it. The server is here.
"""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from certificates import Certificates
from faults_server import SILENCE, Answer, FakeServer, decided

WITHIN_S = 20.0
"""How long a process may take; only a failure takes so long."""

PRELUDE = """if True:
    import asyncio, gc, logging, os, signal, sys, threading, time
    from headway import RedisStore, StoreUnavailableError, Throttled
    from headway.asyncio import Throttled as AsyncThrottled

    def say(*words):
        print(*words, flush=True)

    def alarm(seconds, handler):
        signal.signal(signal.SIGALRM, lambda *_: handler())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    url = sys.argv[1]
    def limiter(timeout=2.0, kind=Throttled, **how):
        store = RedisStore(f"{url}timeout={timeout}", **how)
        return kind(quota="100/s", store=store)
"""

Run = Callable[..., list[str]]


def run(server: FakeServer, certificates: Certificates, script: str) -> list[str]:
    """The lines that the script says."""
    url = server.url + (f"?ssl_ca_certs={certificates.ca}&" if server.tls else "?")
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + script, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # which makes it say where its threads are
        process.wait()
        os.killpg(process.pid, signal.SIGKILL)  # a child that it forked
        out, err = process.communicate()
        pytest.fail(f"it hangs; it said {out.splitlines()}\n{err}")
    assert process.returncode == 0, err
    return out.splitlines()


def later(seconds: float) -> Callable[[bytes], Answer]:
    def answer(request: bytes) -> Answer:
        time.sleep(seconds)
        return decided()

    return answer


@pytest.fixture(params=["plain", "tls"])
def serve(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Iterator[Callable[..., FakeServer]]:
    """Starts a server that speaks plainly, and one that speaks TLS."""
    context = None
    if request.param == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(FakeServer(answer, tls=context))


@pytest.fixture
def ask_later(serve: Callable[..., FakeServer], certificates: Certificates) -> Run:
    """Runs a script against a server that answers after 0.3 s."""
    return lambda script: run(serve(later(0.3)), certificates, script)


@pytest.fixture
def ask_silent(serve: Callable[..., FakeServer], certificates: Certificates) -> Run:
    """Runs a script against a server that greets and then says nothing."""
    return lambda script: run(serve(lambda request: SILENCE), certificates, script)


# ---- what asks again ----


def test_a_signal_handler_may_ask_the_store_that_its_thread_waits_for(ask_later: Run) -> None:
    said = ask_later("""
    t = limiter()
    def handler():
        say("handler", bool(t.limit("b")))
    alarm(0.1, handler)
    def other():
        time.sleep(0.15)
        say("other", bool(t.limit("c")))
    thread = threading.Thread(target=other)
    thread.start()
    say("main", bool(t.limit("a")))
    thread.join()
    """)
    assert sorted(said) == ["handler True", "main True", "other True"]


def test_so_it_may_where_another_thread_drives(ask_later: Run) -> None:
    said = ask_later("""
    t = limiter(timeout=5)
    threads = [threading.Thread(target=t.limit, args=(f"t{n}",)) for n in range(3)]
    [thread.start() for thread in threads]
    time.sleep(0.05)
    alarm(0.1, lambda: say("handler", bool(t.limit("b"))))
    say("main", bool(t.limit("a")))
    [thread.join() for thread in threads]
    """)
    assert said == ["handler True", "main True"]


def test_handlers_within_handlers_are_answered(ask_later: Run) -> None:
    said = ask_later("""
    t, depth = limiter(timeout=5), 0
    def handler():
        global depth
        depth += 1
        if depth < 4:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        say(depth, bool(t.limit("b")))
    alarm(0.05, handler)
    say("main", bool(t.limit("a")))
    """)
    assert sorted(said) == ["1 True", "2 True", "3 True", "4 True", "main True"]


def test_a_handler_that_takes_its_time_holds_nobody_up(ask_later: Run) -> None:
    said = ask_later("""
    t = limiter(timeout=10)
    begin = time.monotonic()
    def other(n):
        time.sleep(0.02)
        t.limit(f"o{n}")
        say("other" if time.monotonic() - begin < 4 else "late")
    threads = [threading.Thread(target=other, args=(n,)) for n in range(6)]
    [thread.start() for thread in threads]
    alarm(0.15, lambda: (time.sleep(5), say("handler")))
    say("main", bool(t.limit("a")))
    [thread.join() for thread in threads]
    """)
    assert said == ["other"] * 6 + ["handler", "main True"]


def test_what_the_collector_calls_may_ask(ask_later: Run) -> None:
    """Its callbacks, and the finalizers of what it finds, at each of its runs."""
    said = ask_later("""
    t, asked = limiter(timeout=3), 0
    def ask():
        global asked
        if asked < 4:
            asked += 1
            try:
                t.limit("collector")
            except StoreUnavailableError:
                pass
    class Cycle:
        def __init__(self): self.self = self
        def __del__(self): ask()
    gc.callbacks.append(lambda phase, info: (ask(), Cycle()))
    gc.set_threshold(1)
    for n in range(5):
        try:
            t.limit("a")
        except StoreUnavailableError:
            pass
    gc.set_threshold(0)
    gc.callbacks.clear()
    say("main", bool(t.limit("a")))
    """)
    assert said == ["main True"]


def test_a_log_handler_may_ask(ask_silent: Run) -> None:
    said = ask_silent("""
    t = limiter(timeout=0.3, on_error="allow")
    class Handler(logging.Handler):
        def emit(self, record):
            say("log", bool(t.limit("log")))
    logging.getLogger("headway.store").addHandler(Handler())
    say("main", bool(t.limit("a")))
    """)
    assert said == ["log True", "main True"]


# ---- who is left ----


@pytest.mark.parametrize("begins", [0.0, 0.4], ids=["waiting", "driving"])
def test_a_finalizer_is_answered_when_daemon_threads_have_been_ended(
    serve: Callable[..., FakeServer], certificates: Certificates, begins: float
) -> None:
    said = run(
        serve(later(0.05)),
        certificates,
        f"""
    t = limiter(timeout=3)
    t.limit("warm")
    def work():
        while True:
            t.limit("a")
    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    time.sleep({begins})
    class Last:
        def __del__(self, t=t, write=os.write):
            write(1, b"finalizer %d" % bool(t.limit("b")))
    import builtins
    builtins.last = Last()  # what the module has is not finalized, as those threads hold it
    """,
    )
    assert said == ["finalizer 1"]


def test_a_caller_gives_up_by_its_own_deadline_where_the_driver_was_ended(
    ask_silent: Run,
) -> None:
    said = ask_silent("""
    t = limiter(timeout=1)
    def work():
        try:
            t.limit("a")
        except StoreUnavailableError:
            pass
    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
    class Last:
        def __del__(self, t=t, write=os.write, now=time.monotonic):
            begin = now()
            try:
                t.limit("b")
            except Exception:
                write(1, b"over %d" % (now() - begin < 4))
    import builtins
    builtins.last = Last()  # what the module has is not finalized, as those threads hold it
    """)
    assert said == ["over 1"]


@pytest.mark.parametrize("late", [False, True], ids=["answered", "silent"])
def test_a_fork_in_a_handler_leaves_both_processes_with_an_answer(
    serve: Callable[..., FakeServer], certificates: Certificates, late: bool
) -> None:
    answer = (lambda request: SILENCE) if late else later(0.3)
    said = run(
        serve(answer),
        certificates,
        """
    t = limiter(timeout=1, on_error="deny")
    child = None
    def handler():
        global child
        child = os.fork()
    alarm(0.1, handler)
    said = bool(t.limit("a"))
    if child == 0:
        say("child", said, bool(t.limit("again")))
        os._exit(0)
    os.waitpid(child, 0)
    say("parent", said, bool(t.limit("again")))
    """,
    )
    assert said == [f"child {not late} {not late}", f"parent {not late} {not late}"]


def test_a_fork_in_a_handler_while_others_wait(ask_later: Run) -> None:
    said = ask_later("""
    t = limiter(timeout=2)
    child = None
    def handler():
        global child
        child = os.fork()
    threads = [threading.Thread(target=t.limit, args=(f"o{n}",)) for n in range(4)]
    [thread.start() for thread in threads]
    alarm(0.1, handler)
    said = bool(t.limit("a"))
    if child == 0:
        say("child", said)
        os._exit(0)
    os.waitpid(child, 0)
    [thread.join() for thread in threads]
    say("parent", said)
    """)
    assert said == ["child True", "parent True"]


# ---- what a handler raises ----

RAISES = """
    class Mine(Exception):
        pass
    kind = {kind}
    def handler():
        raise kind("raised")
"""


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "Mine", "TimeoutError", "OSError"])
@pytest.mark.parametrize("on_error", ["raise", "allow"])
def test_what_a_handler_raises_comes_out_of_the_call_once(
    ask_silent: Run, kind: str, on_error: str
) -> None:
    said = ask_silent(
        RAISES.format(kind=kind)
        + f"""
    t = limiter(timeout=2, on_error="{on_error}")
    begin = time.monotonic()
    alarm(0.2, handler)
    try:
        say("returned", t.limit("a"))
    except kind as error:
        say(repr(error), time.monotonic() - begin < 1.5)
    time.sleep(0.1)
    """
    )
    assert said == [f"{kind}('raised') True"]


@pytest.mark.parametrize("on_error", ["raise", "allow"])
def test_an_interrupt_comes_out_of_an_event_loop_once(ask_silent: Run, on_error: str) -> None:
    said = ask_silent(
        RAISES.format(kind="KeyboardInterrupt")
        + f"""
    t = limiter(timeout=2, kind=AsyncThrottled, on_error="{on_error}")
    begin = time.monotonic()
    async def main():
        say("returned", await t.limit("a"))
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    alarm(0.2, handler)
    try:
        loop.run_until_complete(task)
    except KeyboardInterrupt as error:
        say(repr(error), time.monotonic() - begin < 1.5)
    """
    )
    assert said == ["KeyboardInterrupt('raised') True"]


WRAPPED = """
    import ssl
    class Context(ssl.SSLContext):
        def wrap_bio(self, *args, **kwargs):
            made = super().wrap_bio(*args, **kwargs)
            if {when}:
                raise kind("raised")
            return made
    context = ssl.create_default_context(cafile=url.split("ssl_ca_certs=")[1].strip("&"))
    context.__class__ = Context
    place = url.split("?")[0]
    options = {{"CONNECTION_POOL_KWARGS": {{"ssl_context": context}}, "SOCKET_TIMEOUT": 2.0}}
    wraps = 0
    def made(kind):
        return kind(quota="100/s", store=RedisStore(place, options, on_error="allow"))
"""


@pytest.fixture
def ask_tls(certificates: Certificates) -> Iterator[Run]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server.certificate, certificates.server.key)
    with FakeServer(tls=context) as server:
        yield lambda script: run(server, certificates, script)


@pytest.mark.parametrize("kind", ["KeyboardInterrupt", "MemoryError", "Mine", "TimeoutError"])
def test_what_is_raised_while_tls_begins_comes_out_once_and_the_next_call_is_answered(
    ask_tls: Run, kind: str
) -> None:
    said = ask_tls(
        RAISES.format(kind=kind)
        + WRAPPED.format(when="(globals().update(wraps=wraps + 1), wraps == 1)[1]")
        + """
    t = made(Throttled)
    try:
        say("returned", t.limit("a"))
    except kind as error:
        say(repr(error))
    say(bool(t.limit("a")), t.store.failures)
    """
    )
    assert said == [f"{kind}('raised')", "True 0"]


def test_what_is_raised_while_tls_begins_is_the_event_loops(ask_tls: Run) -> None:
    said = ask_tls(
        RAISES.format(kind="KeyboardInterrupt")
        + WRAPPED.format(when="(globals().update(wraps=wraps + 1), wraps == 1)[1]")
        + """
    t = made(AsyncThrottled)
    loop = asyncio.new_event_loop()
    async def ask():
        return bool(await t.limit("a")), t.store.failures
    task = loop.create_task(ask())
    try:
        say("returned", loop.run_until_complete(task))
    except KeyboardInterrupt as error:
        say(repr(error))
    say(*loop.run_until_complete(task))
    """
    )
    assert said == ["KeyboardInterrupt('raised')", "True 0"]


def test_a_call_made_while_tls_begins_has_a_connection_of_its_own(ask_tls: Run) -> None:
    said = ask_tls(
        RAISES.format(kind="KeyboardInterrupt")
        + WRAPPED.format(when="nested()")
        + """
    def nested():
        global wraps
        wraps += 1
        if wraps == 1:
            begin = time.monotonic()
            say("nested", bool(t.limit("b")), t.store.failures, time.monotonic() - begin < 1.5)
    t = made(Throttled)
    say("outer", bool(t.limit("a")), t.store.failures)
    """
    )
    assert said == ["nested True 0 True", "outer True 0"]
