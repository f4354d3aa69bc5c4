"""Servers that belong together: a primary with replicas under sentinels, and a cluster.

Both are made of `RedisServer`s, so that a test may kill, pause or start each of them. Whatever
changes who is in charge (`failover`, `kill_primary`, `move_slot`) returns when all that answer
agree on it again; `settle` waits for just that, after a test did something by hand. Failures are
noticed within one to two seconds: less, and a busy machine would look like a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

from certificates import Certificates
from ports import ServerFailed, until
from servers import Option, RedisServer, quoted
from wire import RedisError

T = TypeVar("T", bound="Topology")

SLOTS = 16_384


class Topology:
    """Servers that start together and end together."""

    def __init__(self) -> None:
        self.everyone: list[RedisServer] = []

    def __enter__(self: T) -> T:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for server in self.everyone:
            server.close()

    def _start(self, servers: list[RedisServer]) -> list[RedisServer]:
        """Starts them all at once."""
        self.everyone += servers
        with ThreadPoolExecutor(len(servers)) as pool:
            return list(pool.map(RedisServer.start, servers))

    def logs(self) -> str:
        """The end of everybody's log."""
        return "\n".join(f"{s!r}:\n{s.log[-2000:]}" for s in self.everyone)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        try:
            until(condition, what)
        except ServerFailed as error:
            raise ServerFailed(f"{error}\n{self.logs()}") from None


class Sentinels(Topology):
    """One primary, its replicas, and the sentinels that watch them."""

    def __init__(
        self,
        binary: str = "redis-server",
        options: Mapping[str, Option] | None = None,
        *,
        name: str = "mymaster",
        replicas: int = 2,
        sentinels: int = 3,
        password: str | None = None,
        sentinel_password: str | None = None,
        down_after_ms: int = 1_000,
    ) -> None:
        super().__init__()
        self.binary, self.name, self.password = binary, name, password
        self.sentinel_password, self._down_after_ms = sentinel_password, down_after_ms
        self._options = {**_replication(password), **(options or {})}
        self._counts = replicas, sentinels
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []

    def _begin(self) -> None:
        first = RedisServer(self.binary, self._options, password=self.password)
        self.servers = self._start([first])
        follow = self._options | {"replicaof": f"{first.host} {first.port}"}
        replicas, sentinels = self._counts
        self.servers += self._start(
            [RedisServer(self.binary, follow, password=self.password) for _ in range(replicas)]
        )
        self._until(lambda: self._follow(first), "replicas in touch with their primary")
        watch = [
            f"monitor {self.name} {first.host} {first.port} {sentinels // 2 + 1}",
            f"down-after-milliseconds {self.name} {self._down_after_ms}",
            f"failover-timeout {self.name} 4000",
        ]
        if self.password is not None:
            watch.append(f"auth-pass {self.name} {quoted(self.password)}")
        self.sentinels = [
            RedisServer(
                self.binary, {"sentinel": watch}, password=self.sentinel_password, sentinel=True
            )
            for _ in range(sentinels)
        ]
        for sentinel in self._start(self.sentinels):
            with contextlib.suppress(RedisError):  # before 7.0 they meet every two seconds
                periods = ("PUBLISH-PERIOD", 200, "INFO-PERIOD", 500, "PING-PERIOD", 200)
                sentinel.command("SENTINEL", "DEBUG", *periods)
        self.settle()
        self._until(self._acquainted, "sentinels that know each other and the replicas")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The sentinels'."""
        return [sentinel.address for sentinel in self.sentinels]

    @property
    def url(self) -> str:
        login = _login(self.password)
        return f"redis+sentinel://{login}{_joined(self.sentinels)}/{self.name}/0"

    def primary_port(self) -> int:
        """What a client that asks a sentinel is told."""
        for sentinel in self._that_answer(self.sentinels):
            return self._told_by(sentinel)
        raise ServerFailed("no sentinel answers")

    def primary(self) -> RedisServer:
        port = self.primary_port()
        return next(server for server in self.servers if server.port == port)

    def replicas(self) -> list[RedisServer]:
        port = self.primary_port()
        return [server for server in self.servers if server.port != port]

    def failover(self) -> RedisServer:
        """Has the sentinels put another server in charge, and returns it. What had not reached that
        one is lost, as ever with sentinels.
        """
        old = self.primary()
        sentinel = next(self._that_answer(self.sentinels))
        self._until(
            lambda: sentinel.command("SENTINEL", "FAILOVER", self.name) == "OK",
            "a sentinel that agrees to a failover",
        )
        return self._succeeded(old)

    def kill_primary(self) -> RedisServer:
        """SIGKILL for the primary; returns the one the sentinels then put in charge."""
        old = self.primary()
        old.kill()
        return self._succeeded(old)

    def settle(self) -> None:
        """Waits until all sentinels name one primary, it is one, and the others follow it."""
        self._until(self._agree, "sentinels and servers that agree on the primary")

    def _succeeded(self, old: RedisServer) -> RedisServer:
        self._until(lambda: self.primary_port() != old.port, f"a primary other than {old!r}")
        self.settle()
        return self.primary()

    def _told_by(self, sentinel: RedisServer) -> int:
        return int(sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])

    def _agree(self) -> bool:
        named = {self._told_by(sentinel) for sentinel in self._that_answer(self.sentinels)}
        return len(named) == 1 and self._follow(self.primary())

    def _acquainted(self) -> bool:
        replicas, sentinels = self._counts
        for sentinel in self._that_answer(self.sentinels):
            flat = sentinel.command("SENTINEL", "MASTER", self.name)
            known = dict(zip(flat[::2], flat[1::2], strict=True))
            found = int(known["num-slaves"]), int(known["num-other-sentinels"]) + 1
            if found != (replicas, sentinels) or known["flags"] != "master":
                return False
        return True

    def _follow(self, primary: RedisServer) -> bool:
        """Whether it is a primary, and all others that answer copy from it."""
        others = (s for s in self._that_answer(self.servers) if s is not primary)
        return primary.is_primary() and all(_copies(other, primary) for other in others)

    @staticmethod
    def _that_answer(servers: Iterable[RedisServer]) -> Iterator[RedisServer]:
        return (server for server in servers if server.answers)


class Cluster(Topology):
    """Shards of one primary and its replicas each; `shards[n]` holds all servers of shard n.

    At first the slots are shared out in equal parts, in the order of the shards.
    """

    def __init__(
        self,
        binary: str = "redis-server",
        options: Mapping[str, Option] | None = None,
        *,
        shards: int = 3,
        replicas: int = 1,
        password: str | None = None,
        tls: Certificates | None = None,
        node_timeout_ms: int = 1_500,
    ) -> None:
        super().__init__()
        self.binary, self.password, self.tls = binary, password, tls
        self._options: dict[str, Option] = {
            **_replication(password),
            **({} if tls is None else {"tls-cluster": "yes", "tls-replication": "yes"}),
            "cluster-enabled": "yes",
            "cluster-announce-ip": "127.0.0.1",
            "cluster-node-timeout": node_timeout_ms,
            "cluster-replica-validity-factor": 0,  # any replica may take over, however old its data
            "cluster-migration-barrier": 10,  # replicas stay with their primary
            **(options or {}),
        }
        self._counts = shards, replicas
        self.shards: list[list[RedisServer]] = []
        self._ids: dict[int, str] = {}

    def _begin(self) -> None:
        shards, replicas = self._counts
        nodes = self._start(
            [
                RedisServer(self.binary, self._options, password=self.password, tls=self.tls)
                for _ in range(shards * (1 + replicas))
            ]
        )
        self.shards = [nodes[n::shards] for n in range(shards)]
        for epoch, node in enumerate(nodes, 1):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            self._ids[node.port] = node.command("CLUSTER", "MYID")
        for n, (primary, *_) in enumerate(self.shards):
            _add_slots(primary, SLOTS * n // shards, SLOTS * (n + 1) // shards - 1)
        for node in nodes[1:]:
            node.command("CLUSTER", "MEET", nodes[0].host, nodes[0].port)
        self._until(lambda: all(self._knows(node, nodes) for node in nodes), "nodes that all met")
        for primary, *others in self.shards:
            for other in others:
                other.command("CLUSTER", "REPLICATE", self._ids[primary.port])
        self.settle()

    @property
    def nodes(self) -> list[RedisServer]:
        return self.everyone

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [node.address for node in self.nodes]

    @property
    def url(self) -> str:
        return f"redis+cluster://{_login(self.password)}{_joined(self.nodes)}/0"

    def primary(self, shard: int) -> RedisServer:
        """Who is in charge of a shard now."""
        for node in self.shards[shard]:
            if node.answers and node.is_primary():
                return node
        raise ServerFailed(f"nobody is in charge of shard {shard}\n{self.logs()}")

    def replicas(self, shard: int) -> list[RedisServer]:
        """Those of a shard that answer and are not in charge."""
        return [n for n in self.shards[shard] if n.answers and not n.is_primary()]

    def slot_of(self, key: str) -> int:
        return int(self._anyone().command("CLUSTER", "KEYSLOT", key))

    def owner(self, slot: int) -> RedisServer:
        """The primary that serves a slot."""
        for (first, last), (port, _) in self._slots(self._anyone()).items():
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise ServerFailed(f"nobody serves slot {slot}\n{self.logs()}")

    def command(self, key: str, *args: str | int | bytes) -> Any:
        """The reply of the node that serves a key."""
        return self.owner(self.slot_of(key)).command(*args)

    def failover(self, shard: int) -> RedisServer:
        """Puts a replica in charge of a shard, without loss, and returns it."""
        new = self.replicas(shard)[0]
        self._until(
            lambda: new.is_primary() or (new.command("CLUSTER", "FAILOVER"), False)[1],
            f"{new!r} in charge of shard {shard}",
        )
        self.settle()
        return new

    def kill_primary(self, shard: int, *, wait: bool = True) -> RedisServer:
        """SIGKILL for a shard's primary, which is returned; waits until a replica took over."""
        old = self.primary(shard)
        old.kill()
        if wait:
            self._until(
                lambda: any(node.answers and node.is_primary() for node in self.shards[shard]),
                f"a replica that takes over shard {shard}",
            )
            self.settle()
        return old

    def move_slot(self, slot: int, to: int) -> None:
        """Moves a slot with its keys to another shard, while clients go on."""
        self.begin_move(slot, to)
        self.finish_move(slot, to)

    def begin_move(self, slot: int, to: int) -> None:
        """From here on the old owner answers ASK for keys it does not have."""
        source, target = self.owner(slot), self.primary(to)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source.port])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target.port])

    def move_keys(self, slot: int, to: int, count: int = 100) -> int:
        """Moves up to so many keys of a slot that is being moved; returns how many it were."""
        source, target = self.owner(slot), self.primary(to)
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            login = [] if self.password is None else ["AUTH", self.password]
            where = (target.host, target.port, "", 0, 10_000, "REPLACE")
            source.command("MIGRATE", *where, *login, "KEYS", *keys)
        return len(keys)

    def finish_move(self, slot: int, to: int) -> None:
        """Moves the keys that are left; from then on the old owner answers MOVED."""
        source, target = self.owner(slot), self.primary(to)
        while self.move_keys(slot, to):
            pass
        others = [n for n in self.nodes if n.answers and n not in (target, source)]
        for node in (target, source, *others):  # in this order nobody is sent in circles
            if node.is_primary():
                node.command("CLUSTER", "SETSLOT", slot, "NODE", self._ids[target.port])
        self.settle()

    def settle(self) -> None:
        """Waits until all that answer are well, and agree on the slots and all replicas."""
        self._until(self._agree, "a cluster that is well and agrees")

    def _agree(self) -> bool:
        answering = [node for node in self.nodes if node.answers]
        seen = self._slots(answering[0])
        return (
            all("cluster_state:ok" in node.command("CLUSTER", "INFO") for node in answering)
            and sum(last - first + 1 for first, last in seen) == SLOTS
            and all(self._slots(node) == seen for node in answering[1:])
            and {port for served in seen.values() for port in (served[0], *served[1])}
            >= {node.port for node in answering}
            and all(self._follow(shard) for shard in self.shards)
        )

    def _follow(self, shard: list[RedisServer]) -> bool:
        """Whether a shard has one primary, and all others that answer copy from it."""
        primaries = [node for node in shard if node.answers and node.is_primary()]
        return len(primaries) == 1 and all(
            _copies(node, primaries[0])
            for node in shard
            if node.answers and node is not primaries[0]
        )

    @staticmethod
    def _slots(node: RedisServer) -> dict[tuple[int, int], tuple[int, frozenset[int]]]:
        """What a node tells clients: ranges of slots, their primary's port, its replicas'."""
        return {
            (first, last): (primary[1], frozenset(replica[1] for replica in replicas))
            for first, last, primary, *replicas in node.command("CLUSTER", "SLOTS")
        }

    def _knows(self, node: RedisServer, nodes: list[RedisServer]) -> bool:
        lines = [line.split() for line in node.command("CLUSTER", "NODES").splitlines()]
        met = {line[0] for line in lines if "handshake" not in line[2] and line[7] == "connected"}
        return met == {self._ids[other.port] for other in nodes}

    def _anyone(self) -> RedisServer:
        return next(node for node in self.nodes if node.answers)


def _replication(password: str | None) -> dict[str, Option]:
    quick: dict[str, Option] = {"repl-ping-replica-period": 1}
    return quick if password is None else quick | {"masterauth": quoted(password)}


def _copies(server: RedisServer, primary: RedisServer) -> bool:
    """Whether it follows the primary, and is sent what is written. The link is up on the replica's
    side up to a second before that.
    """
    seen = server.info("replication")
    return (
        seen["role"] == "slave"
        and seen["master_port"] == str(primary.port)
        and seen["master_link_status"] == "up"
        and f"port={server.port},state=online," in primary.command("INFO", "replication")
    )


def _add_slots(node: RedisServer, first: int, last: int) -> None:
    try:
        node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
    except RedisError:  # before 7.0
        node.command("CLUSTER", "ADDSLOTS", *range(first, last + 1))


def _login(password: str | None) -> str:
    return "" if password is None else f":{quote(password, '')}@"


def _joined(servers: list[RedisServer]) -> str:
    return ",".join(f"{server.host}:{server.port}" for server in servers)
