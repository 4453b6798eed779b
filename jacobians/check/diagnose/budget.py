"""How long a search for the cause may take: seconds of CPU time, asked for between hypotheses.

A verdict is certain and its explanation is a service: it may not cost minutes. What is plain is
looked for first, and when the time is over the search stops with what it has found. The CPU time is
that of the process, since compiling runs in threads of its own; so other busy threads count too.
Where the machine is shared and little of it is ours, at most `PATIENCE` times as long is waited.

    >>> budget = Budget(10.0)
    >>> with budget.running():
    ...     budget.check()             # raises OutOfTime once ten seconds have been spent
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jacobians.errors import ArgumentError

SECONDS = 10.0
# so many times the CPU time may pass on the wall clock
PATIENCE = 12.0


class OutOfTime(Exception):
    """The search stops here: its time is over. Never leaves `diagnose`."""


@dataclass(eq=False)
class Budget:
    """Seconds of CPU time, spent while it runs.

    Attributes:
        seconds: how much there is.
        within: another budget that is spent along with this one, and ends it when it is over.
        spent: how much has been spent before the current run.
        stopped: whether a search has been given up for want of time.
    """

    seconds: float = SECONDS
    within: "Budget | None" = None
    spent: float = 0.0
    stopped: bool = False
    _since: tuple[float, float] | None = field(default=None, repr=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Spends time while the block runs; a block within it is not counted twice."""
        if self._since is not None:
            yield
            return
        self._since = time.process_time(), time.perf_counter()
        try:
            if self.within is None:
                yield
            else:
                with self.within.running():
                    yield
        finally:
            self.spent, self._since = self._used(), None

    def _used(self) -> float:
        if self._since is None:
            return self.spent
        cpu, wall = self._since
        wall_time = (time.perf_counter() - wall) / PATIENCE
        return self.spent + max(time.process_time() - cpu, wall_time)

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is over."""
        mine = self.seconds - self._used()
        return mine if self.within is None else min(mine, self.within.left)

    def check(self, cost: float = 0.0) -> None:
        """Raises `OutOfTime` where less is left than a step is expected to take."""
        if self.left <= cost:
            self.stopped = True
            raise OutOfTime


def budget_of(diagnose: Any) -> Budget | None:
    """The budget that the option `diagnose=` asks for, or None for no diagnosis.

    Args:
        diagnose: True for the usual one, False for none, a number of seconds, or a `Budget` that
            several checks share.

    Raises:
        ArgumentError: it is none of them.
    """
    if isinstance(diagnose, Budget):
        return diagnose
    if isinstance(diagnose, (bool, np.bool_)):
        return Budget() if diagnose else None
    if not isinstance(diagnose, (int, float, np.integer, np.floating)) or not diagnose >= 0:
        raise ArgumentError(
            f"diagnose={diagnose!r}: give the seconds of CPU time that looking for the cause of a "
            "mistake may take, or True for the usual number, or False for none"
        )
    return Budget(float(diagnose)) if diagnose else None
