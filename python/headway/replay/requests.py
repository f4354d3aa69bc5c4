"""Requests in the order of time: from the lines of one or many logs to (time, key, cost).

Three steps, each on a whole batch at once, because a Python statement per line is what costs:

1. `Source` turns the blocks of one file into batches. Time never goes backwards in a replay: a line
   that is older than one before it (a slow request is logged late) counts as arriving with its
   predecessor, and is counted.
2. `merged` puts several files into one order by their own timestamps, so rotated logs may be named
   in any order and the logs of several servers may overlap.
3. `timed` gives each request its instant. Logs tell whole seconds only. Spread (the default): the n
   requests of one second arrive i * floor(10^9 / n) ns after it, i = 0 .. n-1 in order of
   appearance. Not spread: all n arrive at the whole second.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, compress
from operator import ne, sub
from typing import NamedTuple

from headway.replay.access_log import BAD_STAMP, FIELDS, LinePattern, Stamps
from headway.replay.blocks import LogFile, UnreadableLog

SECOND = 1_000_000_000
LONGEST_KEY = 65_536  # what a limiter accepts, in bytes
MOST_COST = 10**12
LEAP = 86_400  # seconds: further apart than lines of one log are, unless a clock was wrong
FEW = 16
PATIENCE = 1 << 20  # bytes without one good line after which a file is no access log


class Selection(NamedTuple):
    """Which requests are replayed, and what they are counted against."""

    by: tuple[str, ...] = ("ip",)
    """The fields that make the key, of `access_log.FIELDS`."""
    size_is_cost: bool = False
    """A request costs the bytes that were sent, instead of a fixed number."""
    statuses: frozenset[bytes] | None = None
    """Only requests answered like this."""
    path_prefix: bytes | None = None
    """Only requests for a path that starts like this."""

    def fields(self) -> frozenset[str]:
        """What has to be captured from each line."""
        wanted = {*self.by}
        wanted |= {"size"} if self.size_is_cost else set()
        wanted |= {"status"} if self.statuses is not None else set()
        wanted |= {"path"} if self.path_prefix is not None else set()
        assert wanted <= set(FIELDS)
        return frozenset(wanted)


def _cost(size: bytes) -> int:
    """The bytes that a line says; the most, where it has more digits than int() may read."""
    if size == b"-":
        return 0
    return MOST_COST if len(size) > 19 else min(int(size), MOST_COST)


class Batch(NamedTuple):
    """Requests in order. `costs` is None where every request costs the same."""

    seconds: Sequence[int]
    keys: Sequence[bytes]
    costs: Sequence[int] | None

    def slice(self, start: int, stop: int) -> Batch:
        """The requests from `start` up to `stop`."""
        costs = None if self.costs is None else self.costs[start:stop]
        return Batch(self.seconds[start:stop], self.keys[start:stop], costs)


class Source:
    """One log file as batches of requests, and the tally of what was met on the way."""

    def __init__(
        self, file: LogFile, selection: Selection, pattern: LinePattern, stamps: Stamps
    ) -> None:
        self.file = file
        self._selection = selection
        self._pattern = pattern
        self._stamps = stamps
        self._newest = 0
        self._next_line = 1
        self.lines = 0
        """Lines that are not empty."""
        self.malformed = 0
        self.first_malformed: tuple[int, str] | None = None
        """Line number and text of the first malformed line."""
        self.early = 0
        """Lines that are far ahead of their successors: their instants are not believed."""
        self.late = 0
        self.latest_by = 0
        """By how many seconds the worst of the late lines was late."""
        self.anonymous = 0
        """Requests without a user, which a limit by user leaves alone."""
        self.left_out = 0
        """Requests that a filter left out."""
        self.cut_keys = 0

    def batches(self) -> Iterator[Batch]:
        """The requests of the file. Raises `UnreadableLog` when it holds no access log."""
        seen = 0
        for block in self.file.blocks():
            batch = self._batch(block)
            seen += len(block)
            if seen >= PATIENCE:
                self._refuse_if_no_log()
            if batch.keys:
                yield batch
        self._refuse_if_no_log()

    def _refuse_if_no_log(self) -> None:
        if self.first_malformed is not None and self.malformed == self.lines:
            number, text = self.first_malformed
            raise UnreadableLog(
                f"{self.file.name!r} is no access log in common or combined format: none of its "
                f"first {self.lines:,} lines is a request; line {number} is {text!r}"
            )

    def _batch(self, block: bytes) -> Batch:
        table = self._pattern.columns(block)
        column = self._pattern.column
        seconds = list(map(self._stamps.__getitem__, table[column["stamp"]]))
        first_line = self._next_line
        self._next_line += len(seconds)
        self.lines += len(seconds)
        if BAD_STAMP in seconds:
            self._note_malformed(block, seconds, first_line)
            good = [second != BAD_STAMP for second in seconds]
            table = [tuple(compress(values, good)) for values in table]
            seconds = list(compress(seconds, good))
        fields = {name: table[index] for name, index in column.items()}
        seconds = self._never_backwards(seconds)
        keep = self._kept(fields)
        if keep is not None:
            seconds = list(compress(seconds, keep))
            fields = {name: tuple(compress(values, keep)) for name, values in fields.items()}
        costs = None
        if self._selection.size_is_cost:
            costs = [_cost(size) for size in fields["size"]]
        return Batch(seconds, self._keys(fields), costs)

    def _note_malformed(self, block: bytes, seconds: list[int], first_line: int) -> None:
        lines = block.split(b"\n")
        bad = [index for index, second in enumerate(seconds) if second == BAD_STAMP]
        blank = sum(1 for index in bad if not lines[index].strip())
        self.malformed += len(bad) - blank
        self.lines -= blank  # an empty line says nothing, and nothing wrong
        if self.first_malformed is None and len(bad) > blank:
            index = next(index for index in bad if lines[index].strip())
            text = lines[index][:120].decode("utf-8", "backslashreplace").rstrip("\r")
            self.first_malformed = (first_line + index, text)

    def _never_backwards(self, seconds: list[int]) -> list[int]:
        if not seconds:
            return seconds
        if seconds[-1] - (self._newest or seconds[0]) > LEAP or seconds != sorted(seconds):
            seconds = self._without_leaps(seconds)
        if seconds[0] < self._newest or seconds != sorted(seconds):
            steady = list(accumulate(seconds, max, initial=self._newest))[1:]
            self.late += sum(map(ne, seconds, steady))
            self.latest_by = max(self.latest_by, *map(sub, steady, seconds))
            seconds = steady
        self._newest = seconds[-1]
        return seconds

    def _without_leaps(self, seconds: list[int]) -> list[int]:
        """Let lines from the future arrive with those around them: else one would make all later
        lines arrive at its instant.

        Lines that belong together are those between two leaps. Where a leap goes back, the smaller
        part is the odd one; a few lines at the end of a batch after a leap forward may be.
        """
        parts: list[list[int]] = [[seconds[0]]]
        for before, second in itertools.pairwise(seconds):
            if abs(second - before) > LEAP:
                parts.append([])
            parts[-1].append(second)
        steady: list[int] = []
        for number, part in enumerate(parts):
            newest = steady[-1] if steady else self._newest
            following = parts[number + 1] if number + 1 < len(parts) else None
            instant = None
            if following is None:
                if newest and part[0] - newest > LEAP and len(part) < FEW and len(parts) > 1:
                    instant = newest
            elif part[0] - following[0] > LEAP and len(part) < len(following):
                instant = max(newest, following[0])
            if instant is None:
                steady += part
            else:
                self.early += len(part)
                steady += [instant] * len(part)
        return steady

    def _kept(self, fields: dict[str, tuple[bytes, ...]]) -> list[bool] | None:
        wanted, prefix = self._selection.statuses, self._selection.path_prefix
        keep: list[bool] | None = None
        if wanted is not None:
            keep = [status in wanted for status in fields["status"]]
        if prefix is not None:
            starts = [path.startswith(prefix) for path in fields["path"]]
            keep = starts if keep is None else [a and b for a, b in zip(keep, starts, strict=True)]
        if keep is not None:
            self.left_out += len(keep) - sum(keep)
        if self._selection.by == ("user",) and b"-" in fields["user"]:
            named = [user != b"-" for user in fields["user"]]
            known = named if keep is None else [a and b for a, b in zip(keep, named, strict=True)]
            self.anonymous += (len(known) if keep is None else sum(keep)) - sum(known)
            keep = known
        return keep

    def _keys(self, fields: dict[str, tuple[bytes, ...]]) -> Sequence[bytes]:
        parts = []
        for name in self._selection.by:
            values = fields[name]
            if b"" in values:  # a request line of raw bytes has no method and no path
                values = tuple(value or b"-" for value in values)
            parts.append(values)
        keys = parts[0] if len(parts) == 1 else tuple(map(b" ".join, zip(*parts, strict=True)))
        if keys and max(map(len, keys)) > LONGEST_KEY:
            self.cut_keys += sum(len(key) > LONGEST_KEY for key in keys)
            keys = tuple(key[:LONGEST_KEY] for key in keys)
        return keys


def merged(sources: Iterable[Iterator[Batch]]) -> Iterator[Batch]:
    """The batches of all sources as one sequence whose seconds never decrease.

    Within one second the requests of one source stay together.
    """
    heap: list[tuple[int, int, int, Batch, Iterator[Batch]]] = []
    for number, source in enumerate(sources):
        if first := next(source, None):
            heap.append((first.seconds[0], number, 0, first, source))
    heapq.heapify(heap)
    while heap:
        _, number, start, batch, source = heap[0]
        stop = len(batch.keys)
        if len(heap) > 1:
            until = min(heap[i][0] for i in (1, 2) if i < len(heap))
            stop = bisect_right(batch.seconds, until, start)
        yield batch if stop - start == len(batch.keys) else batch.slice(start, stop)
        if stop < len(batch.keys):
            heapq.heapreplace(heap, (batch.seconds[stop], number, stop, batch, source))
        elif following := next(source, None):
            heapq.heapreplace(heap, (following.seconds[0], number, 0, following, source))
        else:
            heapq.heappop(heap)


class Requests(NamedTuple):
    """Requests of whole seconds, in order: `runs` holds (second, number of requests in it)."""

    times: list[int]
    """When each arrives, in ns since the Unix epoch."""
    batch: Batch
    runs: list[tuple[int, int]]


def timed(batches: Iterable[Batch], *, spread: bool) -> Iterator[Requests]:
    """Gives each request its instant. A second that is cut by a batch's end is put together."""
    held: list[Batch] = []
    """Parts of one second, which are put together once, however many there are."""
    for batch in batches:
        last = bisect_left(batch.seconds, batch.seconds[-1])
        if last or (held and held[0].seconds[0] != batch.seconds[-1]):
            held.append(batch.slice(0, last))
            yield _with_times(_joined(held), spread)
            held = []
        held.append(batch.slice(last, len(batch.keys)))
    if held:
        yield _with_times(_joined(held), spread)


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    costs = None
    if parts[0].costs is not None:
        costs = [cost for part in parts for cost in part.costs or ()]
    seconds = [second for part in parts for second in part.seconds]
    return Batch(seconds, [key for part in parts for key in part.keys], costs)


def _with_times(batch: Batch, spread: bool) -> Requests:
    seconds, end, start = batch.seconds, len(batch.seconds), 0
    times: list[int] = []
    runs: list[tuple[int, int]] = []
    while start < end:
        second = seconds[start]
        stop = bisect_right(seconds, second, start)
        count, now = stop - start, second * SECOND
        runs.append((second, count))
        if count == 1 or not spread:
            times += [now] * count
        else:
            step = SECOND // count
            times += range(now, now + step * count, step)
        start = stop
    return Requests(times, batch, runs)
