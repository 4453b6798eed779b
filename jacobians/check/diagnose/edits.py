"""A program whose derivative can be edited while its values stay as they are.

Every place where a hand-written derivative is likely to go wrong becomes a switch: the tangent that
enters an operation by one operand is multiplied by a number (0: the path is missing, −1: its sign
is wrong); the value that an operation is linearised at is exchanged for another of the same shape;
a local derivative is left out, applied twice, inverted. Setting the switches and taking a JVP gives
the derivative that such a mistake would give. A loop is edited in all its steps alike.

    edited = Edited(inner=inner, names=["x"])
    edited.survey(values)
    edited.evaluate([Setting(scales={3: 0.0})], values, tangents)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians.check.diagnose.budget import OutOfTime
from jacobians.check.diagnose.switches import (
    Candidate,
    Setting,
    Switchboard,
    Switches,
    hold,
)
from jacobians.check.diagnose.walk import Walk
from jacobians.program.view import Program

Array = NDArray[Any]

# how much longer than finding the switches the first run with all of them takes, and the run with
# those of paths only
RUN = 8.0
PATHS_ONLY = 0.4
# beyond this many elements only switches that cost no copies are made
MAX_SIZE = 1 << 16
# how many settings are evaluated together, a multiple of this: operation by operation, a run costs
# hardly more for a thousand than for one, but each width is compiled once more
BATCH = 64
# up to how many elements of the inputs in one batch, and in one of more settings than that
MAX_BATCH = 1 << 22
MAX_WIDE = 1 << 21


@dataclass(eq=False, kw_only=True)
class Edited(Switchboard):
    """A program with switches in its derivative.

    Attributes:
        inner: the program.
        names: names of its inputs.
        cost: how long a run is expected to take, in seconds: as long as the last one.
    """

    inner: Program
    names: Sequence[str]
    cost: float = 0.0
    _width: int = 0

    def survey(self, values: Sequence[Any]) -> None:
        """Finds all switches, at values."""
        start = time.process_time()
        self._run(values, Switches(recording=True))
        self.cost = RUN * (time.process_time() - start)

    def evaluate(
        self, settings: Sequence[Setting], values: Sequence[Any], tangents: Sequence[Any]
    ) -> Array:
        """Edited derivatives times tangents.

        Args:
            settings: which switches to move, one derivative for each.
            values: the program's inputs.
            tangents: one array per input with one more axis in front, for several tangents.

        Returns:
            By setting, tangent and entry of all outputs; of the first settings only where there is
            no time for all.

        Raises:
            OutOfTime: there is no time for any.
        """
        choosing = any(setting.choices for setting in settings)
        held = tuple(k for k, c in enumerate(self.choices) if c.arrays is not None and choosing)
        size = len(tangents[0]) * sum(int(np.size(v)) for v in values)
        size += sum(int(np.size(self._array(c, 0))) for c in held)
        # one width for all, so that operations are compiled once; a loop is compiled every time
        wanted = -(-len(settings) // BATCH) * BATCH
        self._width = max(self._width, min(wanted, MAX_WIDE // max(size, 1)), BATCH)
        width = max(1, min(self._width, max(MAX_BATCH // max(size, 1), 1)))
        width = len(settings) if self.has_loops else width
        parts: list[Array] = []
        for start in range(0, len(settings), width):
            batch = settings[start : start + width]
            began = time.process_time()
            try:
                self.budget.check(self.cost if choosing else PATHS_ONLY * self.cost)
                made = self._batch(batch, held, choosing, width, values, tangents)
            except OutOfTime:
                if not parts:
                    raise
                break
            parts.append(made[: len(batch)])
            if choosing:
                self.cost = time.process_time() - began
        return np.concatenate(parts)

    def _batch(
        self,
        settings: Sequence[Setting],
        held: tuple[int, ...],
        choosing: bool,
        width: int,
        values: Sequence[Any],
        tangents: Sequence[Any],
    ) -> Array:
        """Derivatives for as many settings as are evaluated together."""
        scales = np.ones((width, max(len(self.edges), 1)))
        chosen = np.zeros((width, max(len(self.choices), 1)), np.int32)
        overrides = {c: np.repeat(np.asarray(self._array(c, 0))[None], width, 0) for c in held}
        for k, setting in enumerate(settings):
            for edge, number in setting.scales:
                scales[k, edge] = number
            for choice, position in setting.choices:
                chosen[k, choice] = position
                if choice in overrides:
                    overrides[choice][k] = self._array(choice, position)

        def one(s: Any, c: Any, arrays: Any) -> Any:
            def f(*v: Any) -> Any:
                return self._run(v, Switches(s, c if choosing else None, arrays))

            def along(*t: Any) -> Any:
                made = jax.jvp(f, tuple(values), t)[1]
                return jnp.concatenate([jnp.ravel(x) for x in made])

            return jax.vmap(along)(*tangents)

        # operation by operation: compiling a program for every question takes longer
        stacked = {c: jnp.asarray(arrays) for c, arrays in overrides.items()}
        return np.asarray(jax.vmap(one)(scales, chosen, stacked))

    def _array(self, choice: int, position: int) -> Any:
        arrays = self.choices[choice].arrays
        assert arrays is not None
        return arrays[position]

    def choice_at(self, other: "Edited", choice: int) -> int | None:
        """The number of a choice in another taking apart of the same program."""
        key = next(key for key, number in self.choice_numbers.items() if number == choice)
        return other.choice_numbers.get(key)

    @property
    def has_loops(self) -> bool:
        """Whether the program has a loop, which is compiled at each evaluation."""
        return any(edge.looped for edge in self.edges)

    def _run(self, values: Sequence[Any], switches: Switches) -> tuple[Any, ...]:
        named = [Candidate(n, hold(v)) for n, v in zip(self.names, values, strict=True)]
        active = [True] * len(values)
        walk = Walk(self, switches)
        return tuple(walk.frame(self.inner, list(values), active, (), named, self.names)[0])
