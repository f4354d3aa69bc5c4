"""redis: what does one decision on a server cost one thread, and a program in C that pipelines?

headway beside the same EVALSHA sent by hiredis' blocking call in C, by redis-py, beside redis-py's
plain INCRBY, and beside throttled-py with its own scripts. Most of the time is the network's and
the server's; the client's part is its CPU time, which is shown apart.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders import ALGORITHMS, has
from benchmarks.harness import HEADWAY, Settings
from benchmarks.redis_contenders import Program, evalsha, headway, incrby, throttled
from benchmarks.redis_harness import Runner, measure
from benchmarks.redis_server import Server, placed, running
from benchmarks.report import Report, Section, Target

NAME = "redis"
C_BOUND, EVALSHA_BOUND, INCRBY_BOUND, CPU_BOUND = 1.15, 1.4, 1.0, 1.3
PIPELINE_BOUND = 80.0
DEPTHS = (16, 100)
BATCH_SECONDS = 0.3
PLACES = {
    "together": "gcra, server and client on one processor",
    "free": "gcra, server and client where the scheduler puts them",
}
"""Where one thread is measured too, for information."""


def run(settings: Settings) -> Report:
    """Measures and reports."""
    report = Report(
        NAME,
        "One decision on Redis, one thread",
        "Thousand decisions a second, and microseconds of the client's CPU for each; ratios are "
        "formed round by round.",
    )
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    with running() as server:
        with placed(server, "apart") as sentence:
            report.notes.append(f"Redis {server.version} on loopback. {sentence}")
            _blocking(server, settings, seconds, report)
            _pipelined(server, settings, seconds, report)
        for where, title in PLACES.items():
            with placed(server, where):
                _elsewhere(server, settings, seconds, report, title)
    return report


def _blocking(server: Server, settings: Settings, seconds: float, report: Report) -> None:
    plain = incrby(server)
    runners: list[Runner] = [plain]
    groups = []
    for using in ALGORITHMS:
        ours, by_redis_py = headway(server, using), evalsha(server, using)
        in_c = Program(server, using).runner(f"C, hiredis, EVALSHA of {using}", "evalsha")
        groups.append((using, ours, in_c, by_redis_py))
        runners += [ours, in_c, by_redis_py]
        if has("throttled-py"):
            runners.append(throttled(server, using))
    runners.append(Program(server, "gcra").runner("C, hiredis, INCRBY", "incrby"))
    measure(runners, seconds, settings, 1)
    for runner in runners:
        runner.close()
    thousands = "thousand decisions a second"
    report.sections += [
        Section(
            "Decisions a second",
            thousands,
            [runner.rate_row() for runner in runners],
            short="k/s",
            more_is_better=True,
        ),
        Section("The client's CPU for each", "µs", [runner.cpu_row() for runner in runners]),
    ]
    for using, ours, in_c, by_redis_py in groups:
        report.targets += [
            Target(f"{using}: time", ours.times_slower(in_c), C_BOUND, "x the C program's"),
            Target(
                f"{using}: decisions a second",
                ours.times_faster(by_redis_py),
                EVALSHA_BOUND,
                "x redis-py's EVALSHA",
                at_least=True,
            ),
            Target(
                f"{using}: decisions a second",
                ours.times_faster(plain),
                INCRBY_BOUND,
                "x redis-py's INCRBY",
                at_least=True,
            ),
            Target(f"{using}: CPU", ours.times_the_cpu(in_c), CPU_BOUND, "x the C program's"),
        ]


def _elsewhere(
    server: Server, settings: Settings, seconds: float, report: Report, title: str
) -> None:
    in_c = Program(server, "gcra").runner("C, hiredis, EVALSHA of gcra", "evalsha")
    runners = [incrby(server), headway(server, "gcra"), in_c, evalsha(server, "gcra")]
    if has("throttled-py"):
        runners.append(throttled(server, "gcra"))
    measure(runners, seconds, settings, 1)
    for runner in runners:
        runner.close()
    rows = [replace(r.rate_row(), ratio=r.times_faster(in_c)) for r in runners]
    unit, base = "thousand decisions a second", "the C program's"
    report.sections.append(Section(title, unit, rows, base, "k/s", more_is_better=True))


def _pipelined(server: Server, settings: Settings, seconds: float, report: Report) -> None:
    program = Program(server, "gcra")
    pairs = [
        (
            depth,
            program.runner(f"headway's link, driven from C, {depth} deep", "link", depth, HEADWAY),
            program.runner(f"C, hiredis, EVALSHA {depth} deep", "pipeline", depth),
        )
        for depth in DEPTHS
    ]
    runners = [runner for _, *both in pairs for runner in both]
    measure(runners, seconds, settings, 400)
    program.close()
    report.sections.append(
        Section(
            "Pipelined from C, gcra",
            "thousand decisions a second",
            [runner.rate_row() for runner in runners],
            short="k/s",
            more_is_better=True,
        )
    )
    for depth, ours, theirs in pairs:
        report.targets.append(
            Target(
                f"the link from C, {depth} deep",
                ours.times_faster(theirs).scaled(100),
                PIPELINE_BOUND,
                "% of hiredis' pipeline",
                at_least=True,
            )
        )
