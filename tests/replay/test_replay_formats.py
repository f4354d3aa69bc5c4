"""What counts as a request, and which key it gets."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from made_logs import log_line

from headway.replay.access_log import FIELDS, LinePattern

Report = Callable[..., Any]
Write = Callable[..., str]


def clients(report: Any) -> dict[str, int]:
    """Requests by client, of a quota that denies everybody something."""
    return {row["client"]: row["requests"] for row in report["quotas"][0]["top"]}


def keys(report: Report, path: str, by: str) -> dict[str, int]:
    return clients(report(path, "--quota", "1/h burst 0", "--by", by, "--top", "100"))


def test_common_and_combined_lines_give_the_same_decisions(write: Write, report: Report) -> None:
    common = [log_line(i // 4, f"192.0.2.{i % 3}") for i in range(40)]
    combined = [log_line(i // 4, f"192.0.2.{i % 3}", agent="curl/8.5.0") for i in range(40)]
    first = report(write(common), "--quota", "1/s")
    second = report(write(combined), "--quota", "1/s")
    assert first["log"] == second["log"]
    assert first["quotas"] == second["quotas"]
    assert first["quotas"][0]["denied"] > 0


def test_the_request_of_the_apache_manual_is_read(write: Write, report: Report) -> None:
    line = (
        '127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 '
        '"http://www.example.com/start.html" "Mozilla/4.08 [en] (Win98; I ;Nav)"'
    )
    path = write([line])
    for by, key in {
        "ip": "127.0.0.1",
        "user": "frank",
        "method": "GET",
        "path": "/apache_pb.gif",
        "status": "200",
        "size": "2326",
        "referer": "http://www.example.com/start.html",
        "ua": "Mozilla/4.08 [en] (Win98; I ;Nav)",
        "method path": "GET /apache_pb.gif",
        "ip+path": "127.0.0.1 /apache_pb.gif",
        "path,ip": "/apache_pb.gif 127.0.0.1",
    }.items():
        assert keys(report, path, by) == {key: 1}
    assert report(path, "--quota", "1/s")["log"]["first"] == "2000-10-10T13:55:36-07:00"


def test_ipv6_clients_are_clients(write: Write, report: Report) -> None:
    path = write([log_line(0, "2001:db8::1"), log_line(0, "::ffff:192.0.2.7"), log_line(1, "::1")])
    assert keys(report, path, "ip") == {"2001:db8::1": 1, "::ffff:192.0.2.7": 1, "::1": 1}


def test_escaped_quotes_stay_inside_their_field(write: Write, report: Report) -> None:
    path = write(
        [
            log_line(request=r"GET /a\"b HTTP/1.1", agent=r"say \"hi\" \\"),
            log_line(request=r"GET /c\\ HTTP/1.1", agent="plain"),
        ]
    )
    assert keys(report, path, "path") == {r"/a\"b": 1, r"/c\\": 1}
    assert keys(report, path, "ua") == {r"say \"hi\" \\": 1, "plain": 1}


def test_requests_without_a_user_are_left_alone_by_a_limit_by_user(
    write: Write, report: Report
) -> None:
    path = write([log_line(user="-"), log_line(user="ann"), log_line(user="-", ip="192.0.2.2")])
    result = report(path, "--quota", "1/h burst 0", "--by", "user")
    assert clients(result) == {"ann": 1}
    assert result["files"][0]["without_user"] == 2
    assert keys(report, path, "ip user") == {"192.0.2.1 -": 1, "192.0.2.1 ann": 1, "192.0.2.2 -": 1}


def test_a_user_may_hold_spaces(write: Write, report: Report) -> None:
    assert keys(report, write([log_line(user="John Doe")]), "user") == {"John Doe": 1}


def test_the_query_string_is_no_part_of_the_path(write: Write, report: Report) -> None:
    path = write([log_line(request=f"GET /search?q={i} HTTP/1.1") for i in range(5)])
    assert keys(report, path, "path") == {"/search": 5}


def test_a_request_line_of_raw_bytes_is_a_request_without_a_path(
    write: Write, report: Report
) -> None:
    path = write([log_line(request=r"\x16\x03\x01"), log_line(request=""), log_line(request="-")])
    result = report(path, "--quota", "1/h burst 0", "--by", "path")
    assert clients(result) == {"-": 3}
    assert result["files"][0]["malformed"] == 0


def test_fields_after_the_known_ones_and_windows_line_ends_do_no_harm(
    write: Write, report: Report
) -> None:
    lines = [log_line(agent="curl") + ' "192.0.2.77" 0.003\r', log_line() + "\r"]
    result = report(write(lines), "--quota", "1/h burst 0", "--by", "ua")
    assert clients(result) == {"curl": 1, "-": 1}
    assert result["files"][0]["malformed"] == 0


def test_offsets_from_utc_are_honoured(write: Write, report: Report) -> None:
    # One instant, told by five servers: one second's worth of requests.
    hours = (0, 1, -7, 5.75, -9.5)
    path = write([log_line(7, offset_hours=h) for h in hours])
    log = report(path, "--quota", "1/s")["log"]
    assert log["peak_per_second"] == 5
    assert log["first"] == log["last"] == "2024-03-01T12:00:07+00:00"


@pytest.mark.parametrize(
    "stamp",
    [
        "30/Feb/2024:10:00:00 +0000",
        "01/Mai/2024:10:00:00 +0000",
        "01/Mar/2024:24:00:00 +0000",
        "01/Mar/2024:10:60:00 +0000",
        "01/Mar/2024:10:00:61 +0000",
        "01/Mar/2024:10:00:00 +9900",
        "01/Mar/0001:10:00:00 +0000",
        "01/Mar/9999:10:00:00 +0000",
        "2024-03-01T10:00:00+00:00",
    ],
)
def test_a_time_that_does_not_exist_makes_a_line_malformed(
    stamp: str, write: Write, report: Report
) -> None:
    bad = f'192.0.2.1 - - [{stamp}] "GET / HTTP/1.1" 200 5'
    result = report(write([log_line(), bad, log_line()]), "--quota", "1/s")
    assert result["log"]["requests"] == 2
    assert result["files"][0]["malformed"] == 1
    assert result["files"][0]["first_malformed_line"] == 2
    assert result["files"][0]["first_malformed"] == bad


def test_whether_a_line_is_well_formed_does_not_depend_on_what_is_asked() -> None:
    rng = random.Random(5)
    whole = log_line(user="John Doe", request=r"GET /a\"b?c=d HTTP/1.1", agent=r"x \"y\" (z)")
    alphabet = '\\" -[]?/:aZ09\t'
    lines = []
    for _ in range(3000):
        text = list(whole)
        for _ in range(rng.randrange(1, 4)):
            where = rng.randrange(len(text))
            text[where : where + rng.randrange(3)] = rng.choices(alphabet, k=rng.randrange(3))
        lines.append("".join(text).encode() + b"\n")
    block = b"".join(lines)
    verdicts = []
    for fields in [(), *((name,) for name in FIELDS), FIELDS]:
        pattern = LinePattern(frozenset(fields))
        stamps = pattern.columns(block)[pattern.column["stamp"]]
        assert len(stamps) == len(lines)
        verdicts.append([stamp != b"" for stamp in stamps])
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert 300 < sum(verdicts[0]) < 2700


def test_a_leap_second_is_a_second(write: Write, report: Report) -> None:
    path = write(['192.0.2.1 - - [31/Dec/2016:23:59:60 +0000] "GET / HTTP/1.1" 200 5'])
    assert report(path, "--quota", "1/s")["log"]["first"] == "2017-01-01T00:00:00+00:00"


def test_a_virtual_host_in_front_is_refused_rather_than_taken_for_the_client(
    write: Write, replay: Callable[..., Any]
) -> None:
    outcome = replay(write(["www.example.com:443 " + log_line()]), "--quota", "1/s")
    assert outcome.code == 2
    assert "no access log in common or combined format" in outcome.err


def test_filters_leave_requests_out_and_say_how_many(write: Write, report: Report) -> None:
    path = write(
        [
            log_line(0, "192.0.2.1", status=401, request="POST /login HTTP/1.1"),
            log_line(0, "192.0.2.2", status=200, request="POST /login HTTP/1.1"),
            log_line(0, "192.0.2.3", status=503, request="GET / HTTP/1.1"),
            log_line(0, "192.0.2.4", status=404, request="GET /login/x HTTP/1.1"),
        ]
    )

    def ips(*arguments: str) -> set[str]:
        return set(clients(report(path, "--quota", "1/h burst 0", *arguments)))

    assert ips("--status", "4xx") == {"192.0.2.1", "192.0.2.4"}
    assert ips("--status", "200,503") == {"192.0.2.2", "192.0.2.3"}
    assert ips("--path", "/login") == {"192.0.2.1", "192.0.2.2", "192.0.2.4"}
    assert ips("--path", "/login", "--status", "401") == {"192.0.2.1"}
    result = report(path, "--quota", "1/s", "--status", "5xx", "--by", "user")
    assert result["files"][0]["filtered_out"] == 3
    assert result["files"][0]["without_user"] == 1
