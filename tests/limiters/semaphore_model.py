"""What a semaphore of leases must do, in plain lists: nobody waits here, time is a number, and a
holder says itself whether it lives.

Who waits is looked after when something happens. A permit is missing: the holder of the lease that
ran out first is looked at; a living one gets another term, a gone one frees its permit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class Lease:
    """A permit that is held until `expires`, or longer while its holder lives."""

    holder: int
    term: float
    expires: float = 0
    lives: bool = True


@dataclass
class Place:
    """A place in line, until `deadline`."""

    who: int
    term: float
    deadline: float


@dataclass
class Model:
    """A semaphore whose clients are numbers."""

    capacity: int
    now: float = 0
    leases: list[Lease] = field(default_factory=list)  # the one that runs out first is the first
    line: list[Place] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)  # in order
    refused: set[int] = field(default_factory=set)

    @property
    def held(self) -> int:
        return len(self.leases)

    @property
    def inside(self) -> list[int]:
        """Those who hold a permit and live."""
        return sorted(lease.holder for lease in self.leases if lease.lives)

    @property
    def waiting(self) -> list[int]:
        return [place.who for place in self.line]

    def acquire(self, who: int, term: float, max_sleep: float) -> None:
        self.line.append(Place(who, term, self.now + (max_sleep or math.inf)))
        self.look()

    def release(self, who: int) -> None:
        self.leases = [lease for lease in self.leases if lease.holder != who]
        self.look()

    def leave_line(self, who: int) -> None:
        self.line = [place for place in self.line if place.who != who]
        self.look()

    def hand_over_to_a_cancelled(self, holder: int) -> None:
        """The holder leaves; the head of the line has the permit and is cancelled before it runs:
        it never was inside, and the next has the permit.
        """
        head = self.line.pop(0)
        self.release(holder)
        assert head.who not in self.entered

    def die(self, who: int) -> None:
        """Its permit stays held: nobody knows yet."""
        for lease in self.leases:
            if lease.holder == who:
                lease.lives = False

    def advance(self, seconds: float) -> list[float]:
        """Lets time pass; returns the instants at which something may have happened, the last being
        the end.
        """
        end, instants = self.now + seconds, []
        while self.now < end:
            coming = [lease.expires for lease in self.leases] + [p.deadline for p in self.line]
            self.now = min([at for at in coming if at > self.now] + [end])
            self.now = min(self.now, end)
            self.look()
            instants.append(self.now)
        return instants

    def look(self) -> None:
        """Serves, judges, and refuses who has waited long enough."""
        self._serve()
        while self.line and self.held >= self.capacity and self.leases[0].expires <= self.now:
            lease = self.leases.pop(0)
            if lease.lives:
                self._keep(lease)
            self._serve()
        late = [place.who for place in self.line if place.deadline <= self.now]
        self.refused.update(late)
        self.line = [place for place in self.line if place.who not in late]

    def _serve(self) -> None:
        while self.line and self.held < self.capacity:
            place = self.line.pop(0)
            self.entered.append(place.who)
            self._keep(Lease(place.who, place.term))

    def _keep(self, lease: Lease) -> None:
        lease.expires = self.now + lease.term
        self.leases.append(lease)
        self.leases.sort(key=lambda each: each.expires)  # stable: the earlier one stays before
