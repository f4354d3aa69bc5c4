"""`headway top` on a terminal, as it is drawn in one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("rich")
pytest.importorskip("pyte")

from servers import RedisServer
from terminals import Terminal

from headway import RateLimitResult, RateLimitState
from headway.activity import Activity

KEYS = {"user:alice": 9, "user:bob": 5, "mail:outgoing": 0, "bad \x1b[2Jkey": 1}


@pytest.fixture
def activity(server: RedisServer) -> Activity:
    """Publishes to the server: some keys, how often each was denied, one that waits."""
    activity = Activity(publish=server.url)
    for key, denied in KEYS.items():
        record(activity, key, limited=False, times=2)
        record(activity, key, limited=True, times=denied)
    activity.begin_wait("mail:outgoing", "token_bucket", "10/h")
    activity.publish()
    return activity


def record(activity: Activity, key: str, *, limited: bool, times: int) -> None:
    remaining = 0 if limited else 8
    result = RateLimitResult(limited, RateLimitState(10, remaining, 3000))
    for _ in range(times):
        activity.record(key, "token_bucket", "10/h", result)


@pytest.fixture
def terminal(server: RedisServer, activity: Activity) -> Iterator[Terminal]:
    with Terminal(["-m", "headway.top", server.url, "--interval", "0.1"]) as terminal:
        terminal.shows("user:alice")
        yield terminal


def rows(terminal: Terminal) -> list[str]:
    """The keys on the screen, in their order."""
    named = [line for line in terminal.lines if any(key[:4] in line[:5] for key in KEYS)]
    return [line.split("  ")[0] for line in named]


def test_keys_are_shown_with_quota_bar_and_waiters(terminal: Terminal) -> None:
    (mail,) = [line for line in terminal.lines if line.startswith("mail:outgoing")]
    assert "10/h" in mail
    assert "████████░░ 8" in mail
    assert "4 keys" in terminal.lines[1]
    assert "8 admitted, 15 denied in all" in terminal.lines[1]


def test_a_name_cannot_drive_the_terminal(terminal: Terminal) -> None:
    assert "bad \\x1b[2Jkey" in terminal.text
    assert b"bad \x1b" not in terminal.raw


def test_letters_and_arrows_choose_what_comes_first(terminal: Terminal) -> None:
    assert rows(terminal)[0] == "user:alice"
    terminal.type("k")
    terminal.until(lambda t: rows(t)[:1] == ["bad \\x1b[2Jkey"], "sorted by key")
    terminal.type("w")
    terminal.until(lambda t: rows(t)[:1] == ["mail:outgoing"], "sorted by waiting")
    terminal.type("<<")
    terminal.until(lambda t: rows(t)[:1] == ["user:alice"], "sorted by denied again")
    assert "denied/s ▼" in terminal.text


def test_typing_after_a_slash_filters_at_once(terminal: Terminal) -> None:
    terminal.type("/USER")
    terminal.until(lambda t: rows(t) == ["user:alice", "user:bob"], "only users")
    terminal.shows("filter: USER")
    terminal.type(":ali\x7f\x7f\x7fbob\r")
    terminal.until(lambda t: rows(t) == ["user:bob"], "only bob")
    terminal.shows("Esc clears")
    terminal.type("\x1b")
    terminal.until(lambda t: len(rows(t)) == 4, "all keys again")


def test_a_filter_that_nothing_matches_says_so(terminal: Terminal) -> None:
    terminal.type("/q?\r")
    terminal.shows("no key contains 'q?'")
    assert terminal.process.poll() is None


def test_rates_are_counted_from_what_is_published(terminal: Terminal, activity: Activity) -> None:
    def grows(terminal: Terminal) -> bool:
        record(activity, "user:bob", limited=True, times=50)
        activity.publish()
        (bob,) = [line for line in terminal.lines if line.startswith("user:bob")]
        rate = bob.split("10/h")[1].split("token_bucket")[-1].split()[1]
        return rate not in ("-", "0") and float(rate.replace(",", "")) > 10

    terminal.until(grows, "bob is denied more than ten times a second")
    terminal.until(lambda t: rows(t)[0] == "user:bob", "who is denied fastest comes first")


def test_nothing_moves_while_it_is_paused(terminal: Terminal, activity: Activity) -> None:
    terminal.type("p")
    terminal.shows("PAUSED")
    terminal.read(0.5)
    record(activity, "newcomer", limited=True, times=50)
    activity.publish()
    terminal.read(0.5)
    assert "newcomer" not in terminal.text
    terminal.type("p")
    terminal.shows("newcomer")


def test_many_keys_are_scrolled(terminal: Terminal, activity: Activity) -> None:
    for i in range(40):
        record(activity, f"user{i:02}", limited=True, times=20)
    activity.publish()
    terminal.type("k")
    terminal.shows("user00")
    first = rows(terminal)[0]
    terminal.type("\x1b[6~")
    terminal.until(lambda t: rows(t)[0] != first, "another page")
    terminal.type("\x1b[F")
    terminal.shows("44 of 44")
    terminal.type("\x1b[H")
    terminal.until(lambda t: rows(t)[0] == first, "the first page")


@pytest.mark.parametrize(("columns", "lines"), [(140, 30), (60, 12), (30, 8)])
def test_another_size_is_drawn_at_once(terminal: Terminal, columns: int, lines: int) -> None:
    terminal.resize(columns, lines)
    terminal.until(
        lambda t: "headway top" in t.lines[0] and t.lines[-1].startswith(" ") and rows(t),
        "the screen has the new size",
    )
    assert ("algorithm" in terminal.text) is (columns == 140)


def test_q_gives_the_terminal_back_as_it_was(terminal: Terminal) -> None:
    assert terminal.settings != terminal.before
    terminal.type("q")
    assert terminal.ends() == 0
    assert terminal.settings == terminal.before
    assert b"\x1b[?1049l" in terminal.raw
    assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_gives_the_terminal_back_too(
    terminal: Terminal, number: signal.Signals, code: int
) -> None:
    terminal.process.send_signal(number)
    assert terminal.ends() == code
    assert terminal.settings == terminal.before
    assert b"\x1b[?1049l" in terminal.raw


def test_it_can_be_stopped_and_goes_on(terminal: Terminal) -> None:
    terminal.type("\x1a")
    terminal.until(lambda t: t.settings == t.before, "the terminal is the shell's")
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda t: t.settings != t.before, "the terminal is top's again")
    terminal.type("/bob\r")
    terminal.until(lambda t: rows(t) == ["user:bob"], "it reacts")


def test_a_server_that_goes_away_is_said_and_comes_back(
    terminal: Terminal, server: RedisServer, activity: Activity
) -> None:
    server.kill()
    terminal.shows("no answer: redis://127.0.0.1")
    assert "user:alice" in terminal.text
    server.start()
    record(activity, "newcomer", limited=True, times=1)
    terminal.shows("newcomer")
    assert "no answer" not in terminal.text


def test_a_server_that_hangs_does_not_hold_up_the_keys(
    terminal: Terminal, server: RedisServer
) -> None:
    server.pause()
    try:
        terminal.type("/bob\r")
        terminal.until(lambda t: rows(t) == ["user:bob"], "the filter works")
        terminal.type("q")
        assert terminal.ends() == 0
    finally:
        server.resume()


def test_a_wrong_address_is_told_before_the_screen_is_taken() -> None:
    with Terminal(["-m", "headway.top", "redis://127.0.0.1:1"]) as terminal:
        assert terminal.ends() == 69
        assert "Connection refused" in terminal.text
        assert b"\x1b[?1049h" not in terminal.raw
