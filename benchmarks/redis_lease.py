"""redis_lease: what does a decision cost that spends tokens which were leased from a server?

headway leases in blocks and decides in the process; beside it headway in memory, headway without
leases, and throttled-py, which asks the server each time. Quotas are large enough to deny nothing.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import has
from benchmarks.harness import BASELINE, HEADWAY, PEER, Settings
from benchmarks.redis_contenders import WINDOWS
from benchmarks.redis_harness import Runner, measure, one_thread
from benchmarks.redis_server import Server, placed, running
from benchmarks.report import Report, Section, Target

NAME = "redis_lease"
RATE_BOUND = 200.0
USED = ("fixed_window", "sliding_window", "token_bucket", "gcra")
LEASES: dict[str, Any] = {"50ms": "50ms", "1,000 tokens": {"tokens": 1000}}
BATCH_SECONDS = 0.3
A_SECOND = 20_000_000
"""More than one thread asks for."""


def run(settings: Settings) -> Report:
    """Measures and reports."""
    report = Report(
        NAME,
        "Tokens leased from Redis, one thread",
        "Million decisions a second; ratios are formed round by round.",
    )
    seconds = BATCH_SECONDS * (1.0 if settings.scale == 1.0 else 0.3)
    with running() as server, placed(server, "apart") as sentence:
        report.notes.append(f"Redis {server.version} on loopback. {sentence}")
        groups = [(using, _group(server, using)) for using in USED]
        runners = [runner for _, group in groups for runner in group.values()]
        measure(runners, seconds, settings, 1)
        for runner in runners:
            runner.close()
    report.sections = [
        Section(
            "Decisions a second",
            "thousand decisions a second",
            [runner.rate_row() for runner in runners],
            short="k/s",
            more_is_better=True,
        )
    ]
    for using, group in groups:
        if "throttled-py" in group:
            report.targets.append(
                Target(
                    f"{using}: leased for 50ms",
                    group["50ms"].times_faster(group["throttled-py"]),
                    RATE_BOUND,
                    "x throttled-py's",
                    at_least=True,
                )
            )
        report.targets.append(
            Target(
                f"{using}: leased for 50ms",
                group["50ms"].times_slower(group["memory"]),
                2.0,
                "x the time in memory",
            )
        )
    return report


def _group(server: Server, using: str) -> dict[str, Runner]:
    from headway import MemoryStore, Throttled
    from headway.store import RedisStore

    quota = f"{60 * A_SECOND}/m" if using in WINDOWS else f"{A_SECOND}/s"
    group = {}
    for name, lease in LEASES.items():
        store = RedisStore(server.url, lease=lease)
        limit = Throttled(using=using, quota=quota, store=store).limit
        label = f"headway {using}, {name}"
        run = one_thread('limit("k")', {"limit": limit})
        group[name] = Runner(label, HEADWAY, run, store.close)
    for name, place in (("memory", MemoryStore()), ("each asked", RedisStore(server.url))):
        limit = Throttled(using=using, quota=quota, store=place).limit
        run = one_thread('limit("k")', {"limit": limit})
        group[name] = Runner(f"headway {using}, {name}", BASELINE, run)
    if has("throttled-py"):
        import throttled

        limiter = throttled.rate_limiter
        how = (
            limiter.per_min(60 * A_SECOND)
            if using in WINDOWS
            else limiter.per_sec(A_SECOND, burst=A_SECOND)
        )
        peer = throttled.Throttled(
            using=using, quota=how, store=throttled.RedisStore(server=server.url)
        )
        run = one_thread('limit("k")', {"limit": peer.limit})
        group["throttled-py"] = Runner(f"throttled-py {using}", PEER, run)
    return group
