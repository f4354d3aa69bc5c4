"""redis_threads: 16 threads ask for the same key on a server; who is faster, and at what CPU?

headway's threads share one connection and its writes. redis-py and throttled-py open a connection
for each thread, and so does the C program, which is no contender: it shows what the server can do.
"""

from __future__ import annotations

from benchmarks.contenders import has
from benchmarks.harness import Settings
from benchmarks.redis_contenders import Program, evalsha, headway, incrby, throttled
from benchmarks.redis_harness import measure
from benchmarks.redis_server import placed, running
from benchmarks.report import Report, Section, Target

NAME = "redis_threads"
THREADS = 16
RATE_BOUND = 6.0
CPU_BOUND = 1 / 8
USED = ("fixed_window", "sliding_window", "token_bucket", "gcra")
BATCH_SECONDS = 0.6


def run(settings: Settings) -> Report:
    """Measures and reports."""
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    report = Report(
        NAME,
        f"{THREADS} threads on one key on Redis",
        "Thousand decisions a second of all threads together, and microseconds of the client's "
        "CPU for each; ratios are formed round by round.",
    )
    with running() as server, placed(server, "apart", spread_out=True) as sentence:
        report.notes.append(f"Redis {server.version} on loopback. {sentence}")
        ours = [headway(server, using, THREADS) for using in USED]
        theirs = (
            [throttled(server, using, THREADS) for using in USED] if has("throttled-py") else []
        )
        program = Program(server, "gcra")
        runners = [
            *(runner for pair in zip(ours, theirs, strict=True) for runner in pair),
            evalsha(server, "gcra", THREADS),
            incrby(server, THREADS),
            program.runner("C, hiredis, EVALSHA of gcra, a connection each", "threads", THREADS),
        ]
        measure(runners, seconds, settings, THREADS)
        for runner in runners:
            runner.close()
    report.sections = [
        Section(
            "Decisions a second",
            "thousand decisions a second",
            [runner.rate_row() for runner in runners],
            short="k/s",
            more_is_better=True,
        ),
        Section("The client's CPU for each", "µs", [runner.cpu_row() for runner in runners]),
    ]
    for using, mine, peer in zip(USED, ours, theirs, strict=True):
        report.targets += [
            Target(
                f"{using}: decisions a second",
                mine.times_faster(peer),
                RATE_BOUND,
                "x throttled-py's",
                at_least=True,
            ),
            Target(f"{using}: CPU", mine.times_the_cpu(peer), CPU_BOUND, "x throttled-py's"),
        ]
    return report
