"""Files as they are found: compressed, rotated, overlapping, cut off, or no log at all."""

from __future__ import annotations

import gzip
import io
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_logs import Outcome, log_line

from headway.replay.blocks import LogFile

Write = Callable[..., str]
Replay = Callable[..., Outcome]
Report = Callable[..., Any]


def some_lines(count: int = 300, seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    seconds = sorted(rng.randrange(60) for _ in range(count))
    return [log_line(second, f"192.0.2.{rng.randrange(5)}") for second in seconds]


def as_bytes(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def results(report: Any) -> Any:
    return report["log"], report["quotas"]


def test_gzip_is_told_by_its_first_bytes_not_by_its_name(write: Write, report: Report) -> None:
    data = as_bytes(some_lines())
    plain = report(write(data, "plain.gz"), "--quota", "1/s")
    packed = report(write(gzip.compress(data), "packed.log"), "--quota", "1/s")
    assert results(plain) == results(packed)


def test_gzip_files_that_were_appended_to_each_other_are_read_whole(
    write: Write, report: Report
) -> None:
    lines = some_lines()
    members = gzip.compress(as_bytes(lines[:100])) + gzip.compress(as_bytes(lines[100:]))
    whole = report(write(as_bytes(lines)), "--quota", "1/s")
    assert results(report(write(members + bytes(512), "two"), "--quota", "1/s")) == results(whole)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.999])
def test_a_gzip_file_that_was_cut_off_gives_what_it_holds_and_says_so(
    keep: float, write: Write, replay: Replay
) -> None:
    lines = some_lines(20_000)
    data = gzip.compress(as_bytes(lines))
    path = write(data[: int(len(data) * keep)], "cut.gz")
    outcome = replay(path, "--quota", "1/s", "--json")
    assert outcome.code == 1
    file = outcome.report["files"][0]
    assert "cut off" in file["damage"]
    assert 0.5 * keep * len(lines) < outcome.report["log"]["requests"] < len(lines)
    shown = replay(path, "--quota", "1/s")
    assert shown.code == 1
    assert "cut off" in shown.out


def test_damaged_gzip_data_ends_the_file_there(write: Write, replay: Replay) -> None:
    data = bytearray(gzip.compress(as_bytes(some_lines(20_000))))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    outcome = replay(write(bytes(data)), "--quota", "1/s", "--json")
    assert outcome.code == 1
    assert "damaged" in outcome.report["files"][0]["damage"]
    assert outcome.report["log"]["requests"] > 0


def test_standard_input_is_read_for_a_dash(
    write: Write, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = as_bytes(some_lines())
    from_file = report(write(data), "--quota", "1/s")
    for piped in (data, gzip.compress(data)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(piped))))
        from_pipe = report("-", "--quota", "1/s")
        assert results(from_pipe) == results(from_file)
        assert from_pipe["files"][0]["name"] == "standard input"


def test_rotated_files_may_be_named_in_any_order(write: Write, report: Report) -> None:
    lines = [log_line(i, f"192.0.2.{i % 3}") for i in range(90)]
    parts = [write(lines[i : i + 30], f"access.log.{i}") for i in range(0, 90, 30)]
    whole = report(write(lines), "--quota", "10/m")
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert results(report(*(parts[i] for i in order), "--quota", "10/m")) == results(whole)


def test_logs_of_several_servers_are_merged_second_by_second(write: Write, report: Report) -> None:
    first = [log_line(second, "192.0.2.1") for second in range(0, 60, 2)]
    second = [log_line(second, "192.0.2.1") for second in range(1, 60, 2)]
    third = [log_line(second, "192.0.2.2") for second in range(0, 60, 7)]
    both = report(write(first, "a"), write(second, "b"), write(third, "c"), "--quota", "20/m")
    together = [log_line(s, "192.0.2.1") for s in range(60)]
    for position, line in zip(range(0, 60, 7), third, strict=True):
        together.insert(together.index(log_line(position, "192.0.2.1")) + 1, line)
    alone = report(write(together), "--quota", "20/m")
    assert results(both) == results(alone)
    assert [file["late"] for file in both["files"]] == [0, 0, 0]


def test_a_line_that_comes_late_counts_as_arriving_with_its_predecessor(
    write: Write, report: Report
) -> None:
    lines = [log_line(second) for second in (0, 5, 3, 4, 5, 9, 8)]
    result = report(write(lines), "--quota", "2/s", "--no-spread")
    steady = report(
        write([log_line(s) for s in (0, 5, 5, 5, 5, 9, 9)]), "--quota", "2/s", "--no-spread"
    )
    assert results(result) == results(steady)
    assert result["files"][0]["late"] == 3
    assert result["files"][0]["late_by_seconds"] == 2


def test_malformed_lines_are_counted_and_the_first_is_shown_with_its_number(
    write: Write, replay: Replay, report: Report
) -> None:
    path = write([log_line(), "", log_line(1), "what is this?", "", "\x1b[31mred", log_line(2)])
    file = report(path, "--quota", "1/s")["files"][0]
    assert (file["lines"], file["malformed"]) == (5, 2)
    assert (file["first_malformed_line"], file["first_malformed"]) == (4, "what is this?")
    shown = replay(path, "--quota", "1/s").out
    assert "2 of 5 lines are malformed" in shown
    assert "the first is line 4: what is this?" in shown


def test_what_a_client_sent_cannot_control_the_terminal(write: Write, replay: Replay) -> None:
    nasty = "\x1b[31m[bold]\udcff\x07"
    path = write(["\x1b[2Jgone", *(log_line(agent=nasty) for _ in range(3))])
    outcome = replay(path, "--quota", "1/h", "--by", "ua")
    assert "\x1b" not in outcome.out
    assert "\x07" not in outcome.out
    assert "[bold]" in outcome.out


def test_line_numbers_go_on_over_a_line_that_is_too_long(write: Write, report: Report) -> None:
    lines = [log_line(), log_line(agent="x" * (3 << 20)), log_line(1), "bad"]
    file = report(write(lines), "--quota", "1/s")["files"][0]
    assert (file["lines"], file["malformed"], file["first_malformed_line"]) == (4, 2, 2)
    assert "1 MiB" in file["first_malformed"]


def test_keys_longer_than_a_limiter_takes_are_cut_and_counted(write: Write, report: Report) -> None:
    lines = [log_line(request=f"GET /{'x' * 70_000}{i} HTTP/1.1") for i in range(4)]
    result = report(write(lines), "--quota", "1/h", "--by", "path")
    assert result["files"][0]["keys_cut"] == 4
    assert result["log"]["clients"] == 1
    assert result["quotas"][0]["denied"] == 3


def test_a_file_without_its_last_newline_loses_nothing(write: Write, report: Report) -> None:
    data = as_bytes(some_lines(10)).rstrip(b"\n")
    assert report(write(data), "--quota", "1/s")["log"]["requests"] == 10


def test_an_empty_file_holds_no_requests(write: Write, replay: Replay) -> None:
    outcome = replay(write(b""), "--quota", "1/s")
    assert (outcome.code, outcome.out) == (0, "No requests to replay.\n")
    assert replay(write(b""), "--json").report["suggestions"] == []


@pytest.mark.parametrize(
    "data",
    [b"just some text\nand more\n", bytes(range(256)) * 5000, b"x" * (3 << 20)],
    ids=["text", "binary", "one long line"],
)
def test_a_file_that_is_no_access_log_is_refused_with_a_sentence(
    data: bytes, write: Write, replay: Replay
) -> None:
    outcome = replay(write(data, "thing.bin"), "--quota", "1/s")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "thing.bin' is no access log in common or combined format" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(("magic", "kind"), [(b"\xfd7zXZ\0", "xz"), (b"BZh9", "bzip2")])
def test_other_compressions_are_named(
    magic: bytes, kind: str, write: Write, replay: Replay
) -> None:
    outcome = replay(write(magic + b"..."), "--quota", "1/s")
    assert outcome.code == 2
    assert f"compressed with {kind}" in outcome.err


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path, replay: Replay) -> None:
    for path in (tmp_path / "nope.log", tmp_path):
        outcome = replay(str(path), "--quota", "1/s")
        assert (outcome.code, outcome.out) == (2, "")
        assert repr(str(path)) in outcome.err


def test_blocks_are_whole_lines_however_the_bytes_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.replay.blocks.BLOCK", 7)
    path = tmp_path / "log"
    for data in (b"one\ntwo\n\nthree is longer\nend", b"\n", b"abcdefg\nabcdefg\n", b"no newline"):
        for stored in (data, gzip.compress(data)):
            path.write_bytes(stored)
            blocks = list(LogFile(str(path)).blocks())
            assert b"".join(blocks).rstrip(b"\n") == data.rstrip(b"\n")
            assert all(block.endswith(b"\n") for block in blocks)


@pytest.mark.parametrize("at", [0, 100, 300], ids=["first", "middle", "last"])
def test_one_line_from_the_future_does_not_take_all_later_ones_along(
    at: int, write: Write, report: Report
) -> None:
    lines = [log_line(n // 10, f"192.0.2.{n % 7}") for n in range(300)]
    neighbour = lines[min(at, 299)]
    odd = neighbour.replace("/2025:", "/2095:").replace("/2024:", "/2094:")
    assert odd != neighbour
    result = report(write([*lines[:at], odd, *lines[at:]]), "--quota", "3/s", "--no-spread")
    clean = report(
        write([*lines[:at], neighbour, *lines[at:]], "clean.log"), "--quota", "3/s", "--no-spread"
    )
    assert results(result) == results(clean)
    assert result["files"][0]["early"] == 1
    assert result["files"][0]["late"] == 0


def test_days_without_a_request_are_believed(write: Write, report: Report) -> None:
    lines = [log_line(second) for second in range(30)]
    lines += [log_line(second + 3 * 86_400) for second in range(30)]
    file = report(write(lines), "--quota", "3/s")["files"][0]
    assert (file["early"], file["late"]) == (0, 0)


def test_a_size_of_thousands_of_digits_is_the_most_that_counts(
    write: Write, report: Report
) -> None:
    lines = [log_line(0, size="9" * 5000), log_line(1, size="10")]
    assert report(write(lines), "--quota", "5/m", "--cost", "bytes")["files"][0]["malformed"] == 0


def test_gzip_is_seen_in_a_pipe_that_holds_one_byte_at_first(tmp_path: Path) -> None:
    data = gzip.compress(as_bytes(some_lines()))

    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:  # type: ignore[override]
            return super().read1(1 if self.tell() < 5 else size)  # type: ignore[arg-type]

    path = tmp_path / "x"
    path.write_bytes(b"")
    file = LogFile(str(path))
    file._file = Pipe(data)  # type: ignore[assignment]
    assert b"".join(file.blocks()).count(b"\n") == 300
