"""A program whose derivative can be edited while its values stay as they are.

Every place where a hand-written derivative is likely to go wrong becomes a switch: the tangent that
enters an operation by one operand is multiplied by a number (0: the path is missing, −1: its sign
is wrong); the value that an operation is linearised at is exchanged for another of the same shape;
a local derivative is left out, applied twice, inverted. Setting the switches and taking a JVP gives
the derivative that such a mistake would give. A loop is edited in all its steps alike.

    >>> edited = Edited(inner)
    >>> edited.evaluate([Setting(scales={3: 0.0})], values, tangents)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.check.diagnose.alternatives import (
    ELEMENTWISE,
    LINEAR,
    WITHOUT_DERIVATIVE,
    alternatives,
    multipliers,
)
from jacobians.check.diagnose.budget import Budget, OutOfTime
from jacobians.check.diagnose.exchanges import _factors, _replacements, _stand_ins
from jacobians.check.diagnose.switches import (
    Candidate,
    Choice,
    Edge,
    Option,
    Setting,
    _is_array,
    _is_float,
    carrier,
    hold,
)
from jacobians.check.diagnose.words import Place, place_of
from jacobians.program.strip import run
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


@dataclass(eq=False)
class Edited:
    """A program with switches in its derivative.

    Attributes:
        inner: the program.
        names: names of its inputs.
        small: whether values are small enough to keep others to exchange them for.
        edges: the edges, found as the program is traced.
        choices: the choices.
        recorded: the values that the program computes outside loops.
        budget: the time that it may take, looked at after every operation.
        cost: how long a run is expected to take, in seconds: as long as the last one.
    """

    inner: Program
    names: Sequence[str]
    small: bool = True
    edges: list[Edge] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    recorded: list[Candidate] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)
    cost: float = 0.0
    _width: int = 0
    _taken: dict[Any, int] = field(default_factory=dict)
    _edge_keys: dict[Any, int] = field(default_factory=dict)
    _choice_keys: dict[Any, int] = field(default_factory=dict)

    def survey(self, values: Sequence[Any]) -> None:
        """Finds all switches, at values."""
        start = time.process_time()
        self._run(values, _Switches(recording=True))
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
                return self._run(v, _Switches(s, c if choosing else None, arrays))

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
        key = next(key for key, number in self._choice_keys.items() if number == choice)
        return other._choice_keys.get(key)

    @property
    def has_loops(self) -> bool:
        """Whether the program has a loop, which is compiled at each evaluation."""
        return any(edge.looped for edge in self.edges)

    def _run(self, values: Sequence[Any], switches: "_Switches") -> tuple[Any, ...]:
        walk = _Walk(self, switches)
        named = [Candidate(n, hold(v)) for n, v in zip(self.names, values, strict=True)]
        return tuple(
            walk.frame(self.inner, list(values), [True] * len(values), (), named, self.names)[0]
        )


@dataclass(frozen=True, eq=False)
class _Switches:
    """Positions of all switches.

    Attributes:
        scales: one number per edge.
        chosen: one position per choice, or None to leave all as the program is.
        arrays: arrays to put into choices, by number.
        recording: whether switches are being found rather than moved.
    """

    scales: Any = None
    chosen: Any = None
    arrays: Any = field(default_factory=dict)
    recording: bool = False

    @property
    def paths_only(self) -> bool:
        """Whether no choice is looked for or moved."""
        return self.chosen is None and not self.recording


@dataclass(eq=False)
class _Walk:
    """One evaluation."""

    edited: Edited
    switches: _Switches
    looped: bool = False
    caller: Place | None = None

    def _place(self, equation: Any) -> Place:
        """Where an operation stands, or where the function that it is part of is called."""
        place = place_of(equation)
        if place.where or self.caller is None:
            return place
        return replace(place, where=self.caller.where, line=self.caller.line)

    def scale(self, key: Any, place: Place, value: Any) -> tuple[int, Any]:
        """The number of an edge, and a value with its tangent multiplied by the switch."""
        keys = self.edited._edge_keys
        if key not in keys:
            keys[key] = len(self.edited.edges)
            self.edited.edges.append(Edge([place], self.looped))
        number = keys[key]
        if self.switches.recording:
            return number, value
        factor = self.switches.scales[number].astype(value.dtype)
        return number, hold(value) + factor * carrier(value)

    def choose(self, key: Any, place: Place, options: list[Option], values: list[Any]) -> Any:
        """One of several values that the program has, by a switch."""
        keys = self.edited._choice_keys
        if self.switches.recording:
            if key not in keys:
                keys[key] = len(self.edited.choices)
                self.edited.choices.append(Choice(place, [Option("", ""), *options], None))
            return values[0]
        return jnp.stack([jnp.asarray(v) for v in values])[self.switches.chosen[keys[key]]]

    def put(
        self, key: Any, place: Place, value: Any,
        found: Callable[[], tuple[list[Option], list[Any]]],
    ) -> Any:  # fmt: skip
        """A value, or the array that a switch puts in its place; looked for when recording."""
        keys = self.edited._choice_keys
        if self.switches.recording and key not in keys:
            options, values = found()
            if options:
                keys[key] = len(self.edited.choices)
                arrays = [np.asarray(v) for v in [value, *values]]
                self.edited.choices.append(Choice(place, [Option("", ""), *options], arrays))
        if key in keys and keys[key] in self.switches.arrays:
            moved = self.switches.chosen[keys[key]] > 0
            return jnp.where(moved, self.switches.arrays[keys[key]], value)
        return value

    def stand_in(self, key: Any, place: Place, value: Any, own: Candidate | None,
                 candidates: list[Candidate], factor: bool) -> Any:  # fmt: skip
        """A value with its tangent, or another in its place, for all that is computed from it."""
        if not self.edited.small or self.looped or not _is_float(value):
            return value
        found = lambda: _stand_ins(hold(value), own, candidates, factor)  # noqa: E731
        return self.put((*key, "value"), place, hold(value), found) + carrier(value)

    def frame(
        self,
        inner: Program,
        values: list[Any],
        active: list[bool],
        path: tuple[Any, ...],
        outer: list[Candidate],
        names: Sequence[str] = (),
    ) -> tuple[list[Any], list[bool]]:
        """Evaluates one program; `active` says which inputs carry tangents."""
        environment: dict[Any, Any] = dict(zip(inner.inputs, values, strict=True))
        environment.update(inner.constants)
        moving = {v for v, a in zip(inner.inputs, active, strict=True) if a}
        uses: dict[Any, int] = {}
        for equation in inner.equations:
            for atom in equation.invars:
                if not program.is_literal(atom):
                    uses[atom] = uses.get(atom, 0) + 1
        choosing = not self.switches.paths_only
        needed = self.edited.small and choosing and (self.looped or self.switches.recording)
        plain = self._plain_values(inner, values, names) if needed else {}
        candidates = [*plain.values(), *outer]
        factors = _factors(inner)
        if self.switches.recording and not self.looped:
            self.edited.recorded += plain.values()
        if not path:
            whole = Place("the inputs", "", "", "", 0)
            for k, v in enumerate(inner.inputs):
                environment[v] = self.stand_in(
                    ("input", k), whole, environment[v], plain.get(v), candidates, v in factors
                )
        edge_of: dict[Any, int] = {}

        def read(atom: Any) -> Any:
            return program.literal_value(atom) if program.is_literal(atom) else environment[atom]

        for number, equation in enumerate(inner.equations):
            operands = [read(atom) for atom in equation.invars]
            here = [not program.is_literal(a) and a in moving for a in equation.invars]
            key = (*path, number)
            results, active_out, edge = self._equation(
                equation, operands, here, key, candidates, plain, uses, edge_of
            )
            if len(results) == 1 and active_out[0] and equation.outvars[0] not in inner.outputs:
                own = plain.get(equation.outvars[0])
                factor = equation.outvars[0] in factors
                place = self._place(equation)
                results = [self.stand_in(key, place, results[0], own, candidates, factor)]
            environment.update(zip(equation.outvars, results, strict=True))
            moving.update(v for v, a in zip(equation.outvars, active_out, strict=True) if a)
            if edge is not None and len(equation.outvars) == 1:
                edge_of[equation.outvars[0]] = edge
        return (
            [read(atom) for atom in inner.outputs],
            [not program.is_literal(a) and a in moving for a in inner.outputs],
        )

    def _plain_values(
        self, inner: Program, values: list[Any], names: Sequence[str]
    ) -> dict[Any, Candidate]:
        """Every value of a program, without tangents, by variable."""
        found: dict[Any, Candidate] = {}
        environment: dict[Any, Any] = dict(zip(inner.inputs, map(hold, values), strict=True))
        environment.update(inner.constants)
        for k, v in enumerate(inner.inputs):
            if k < len(names) and names[k]:
                found[v] = Candidate(names[k], environment[v])
            elif not names:
                found[v] = Candidate("an operand", environment[v])
        for equation in inner.equations:
            operands = [
                program.literal_value(a) if program.is_literal(a) else environment[a]
                for a in equation.invars
            ]
            results = program.evaluate(equation, operands)
            environment.update(zip(equation.outvars, results, strict=True))
            for v, result in zip(equation.outvars, results, strict=True):
                if _is_array(result):
                    place = place_of(equation)
                    name = f"the result of `{place.name}`"
                    if place.line:
                        name += f" in `{place.line[:40]}`"
                    found[v] = Candidate(name, result)
        for v in inner.outputs:
            if not program.is_literal(v) and v in found and v not in inner.inputs:
                label = "the output" if names and not names[0].startswith("the ") else "the result"
                if names and names[0].startswith("the "):
                    label = f"the value after the step ({found[v].name[4:]})"
                found[v] = Candidate(label, found[v].value)
        return found

    def _equation(
        self,
        equation: Any,
        operands: list[Any],
        active: list[bool],
        key: tuple[Any, ...],
        candidates: list[Candidate],
        plain: dict[Any, Candidate],
        uses: dict[Any, int],
        edge_of: dict[Any, int],
    ) -> tuple[list[Any], list[bool], int | None]:
        self.edited.budget.check()
        if not any(active):
            return list(program.evaluate(equation, operands)), [False] * len(equation.outvars), None
        called = program.called_program(equation)
        if called is not None:
            above, self.caller = self.caller, self._place(equation)
            results, moving = self.frame(called, operands, active, key, candidates)
            self.caller = above
            return results, moving, None
        name = str(equation.primitive.name)
        loops = {"scan": self._scan, "while": self._while, "cond": self._cond}
        if name in loops:
            results = loops[name](equation, operands, active, key, candidates)
            return results, [_is_float(r) for r in results], None
        if name in WITHOUT_DERIVATIVE or not any(
            jnp.issubdtype(program.dtype_of(v), jnp.inexact) for v in equation.outvars
        ):
            return list(program.evaluate(equation, operands)), [False] * len(equation.outvars), None
        return self._operation(
            equation, name, operands, active, key, candidates, plain, uses, edge_of
        )

    def _operation(
        self,
        equation: Any,
        name: str,
        operands: list[Any],
        active: list[bool],
        key: tuple[Any, ...],
        candidates: list[Candidate],
        plain: dict[Any, Candidate],
        uses: dict[Any, int],
        edge_of: dict[Any, int],
    ) -> tuple[list[Any], list[bool], int | None]:
        """An operation as its value plus one tangent for each operand, each with its switches."""
        place = self._place(equation)
        fixed = [hold(v) if _is_float(v) else v for v in operands]
        total = [hold(r) if _is_float(r) else r for r in program.evaluate(equation, fixed)]
        movers = [k for k, a in enumerate(active) if a and _is_float(operands[k])]
        edge: int | None = None
        for k in movers:
            atom = equation.invars[k]
            edge = edge_of.get(atom) if uses.get(atom) == 1 else None
            value = operands[k]
            if edge is None:
                edge, value = self.scale((*key, k), place, value)
            elif place not in self.edited.edges[edge].places:
                self.edited.edges[edge].places.append(place)
            if name == "mul" and self.switches.recording:
                self.edited.edges[edge].products.append(key)
            linearised = self._exchanged(equation, name, place, k, fixed, key, candidates, plain)
            tangents = _tangents(equation, linearised, k, value)
            if self.edited.small and len(total) == 1 and not self.switches.paths_only:
                tangents = [self._altered(equation, name, place, k, fixed, key, value, tangents[0])]
            total = [t + u if _is_float(t) else t for t, u in zip(total, tangents, strict=True)]
        return total, [_is_float(t) for t in total], edge if len(movers) == 1 else None

    def _altered(
        self, equation: Any, name: str, place: Place, k: int, fixed: list[Any], key: Any,
        value: Any, tangent: Any,
    ) -> Any:  # fmt: skip
        """The tangent of a result, or what is often written in place of it."""
        moving = carrier(value)
        others = alternatives(equation, name, fixed, k, moving, tangent)
        if others:
            options = [Option(a.kind, a.text) for a in others]
            values = [tangent, *(a.tangent for a in others)]
            tangent = self.choose((*key, k, "derivative"), place, options, values)
        if name not in ELEMENTWISE or np.shape(fixed[k]) != np.shape(tangent) or self.looped:
            return tangent
        number = (*key, k, "local")

        if self.switches.recording:
            right, made = multipliers(equation, name, fixed, k)
            options = [Option(kind, text) for kind, text, _ in made]
            self.put(number, place, right, lambda: (options, [m for _, _, m in made]))
            return tangent
        choice = self.edited._choice_keys.get(number)
        if choice in self.switches.arrays:
            moved = self.switches.chosen[choice] > 0
            return jnp.where(moved, self.switches.arrays[choice] * moving, tangent)
        return tangent

    def _exchanged(
        self,
        equation: Any,
        name: str,
        place: Place,
        k: int,
        fixed: list[Any],
        key: tuple[Any, ...],
        candidates: list[Candidate],
        plain: dict[Any, Candidate],
    ) -> list[Any]:
        """The values that operand k's tangent is propagated at, each with its switch."""
        result = list(fixed)
        if not self.edited.small or name in LINEAR or self.switches.paths_only:
            return result
        bilinear = name in ("mul", "dot_general", "conv_general_dilated")
        for j, value in enumerate(fixed):
            if (bilinear and j == k) or (name == "select_n" and j != 0):
                continue
            if name == "div" and k == 0 and j == 0:
                continue
            atom = equation.invars[j]
            own = None if program.is_literal(atom) else plain.get(atom)
            number = (*key, k, j)

            def found(
                j: int = j, value: Any = value, own: Candidate | None = own
            ) -> tuple[list[Option], list[Any]]:
                return _replacements(equation, name, j, value, own, candidates, fixed)

            if self.looped:
                options, values = found()
                if options:
                    result[j] = self.choose(number, place, options, [value, *values])
            else:
                result[j] = self.put(number, place, value, found)
        return result

    def _scan(
        self, equation: Any, operands: list[Any], active: list[bool], key: Any,
        candidates: list[Candidate],
    ) -> list[Any]:  # fmt: skip
        parts = program.scan_parts(equation)
        first = parts.constants + parts.carries
        place = place_of(equation)
        names = (
            ["the constant of the loop"] * parts.constants
            + ["the state before the step"] * parts.carries
            + ["the slice of this step"] * (len(operands) - first)
        )
        outside = [c for c in candidates if np.ndim(c.value) <= 3]

        def body(carry: Any, slices: Any) -> Any:
            carried = self._carried(key, place, carry)
            given = [*operands[: parts.constants], *carried, *slices]
            moving = [_is_float(v) for v in given]
            results, _ = self._within(parts.body, given, moving, key, outside, names)
            kept = [r.astype(c.dtype) for r, c in zip(results, carry, strict=False)]
            return kept, results[parts.carries :]

        carry, stacked = jax.lax.scan(
            body, operands[parts.constants : first], operands[first:],
            length=parts.length, reverse=parts.reverse,
        )  # fmt: skip
        del active
        return [*carry, *stacked]

    def _carried(self, key: Any, place: Place, carry: Sequence[Any]) -> list[Any]:
        """Carried values, each with a switch that cuts the path through earlier steps."""
        result = []
        state = Place("the earlier steps of the loop", "", place.line, place.where, 5)
        outer, self.looped = self.looped, True
        for k, v in enumerate(carry):
            result.append(self.scale((*key, "carry", k), state, v)[1] if _is_float(v) else v)
        self.looped = outer
        return result

    def _within(
        self, inner: Program, given: list[Any], moving: list[bool], key: Any,
        candidates: list[Candidate], names: Sequence[str],
    ) -> tuple[list[Any], list[bool]]:  # fmt: skip
        outer, self.looped = self.looped, True
        made = self.frame(inner, given, moving, (*key, "body"), candidates, names)
        self.looped = outer
        return made

    def _while(
        self, equation: Any, operands: list[Any], active: list[bool], key: Any,
        candidates: list[Candidate],
    ) -> list[Any]:  # fmt: skip
        condition, skip, body, constants = program.while_parts(equation)
        tested, held = operands[:skip], operands[skip : skip + constants]
        start = operands[skip + constants :]
        place = place_of(equation)
        names = ["the constant of the loop"] * constants
        names += ["the state before the step"] * len(start)

        def step(carry: Any) -> Any:
            given = [*held, *self._carried(key, place, carry)]
            moving = [_is_float(v) for v in given]
            results, _ = self._within(body, given, moving, key, candidates, names)
            return [
                r.astype(c.dtype) if _is_float(c) else r
                for r, c in zip(results, carry, strict=True)
            ]

        del active
        return list(
            jax.lax.while_loop(lambda c: run(condition, [*tested, *c])[0], step, list(start))
        )

    def _cond(
        self, equation: Any, operands: list[Any], active: list[bool], key: Any,
        candidates: list[Candidate],
    ) -> list[Any]:  # fmt: skip
        inside = program.branches(equation)
        if self.switches.recording and not self.looped:
            self.edited._taken[key] = int(np.clip(int(operands[0]), 0, len(inside) - 1))
        if key in self.edited._taken:
            # outside loops the branch is known, and is part of the program
            taken = self.edited._taken[key]
            return self.frame(inside[taken], operands[1:], active[1:], (*key, taken), candidates)[0]
        branches: list[Callable[..., Any]] = []
        for number, inner in enumerate(inside):

            def branch(*given: Any, inner: Program = inner, number: int = number) -> Any:
                return self.frame(inner, list(given), active[1:], (*key, number), candidates)[0]

            branches.append(branch)
        return list(jax.lax.switch(operands[0], branches, *operands[1:]))


def _tangents(equation: Any, linearised: list[Any], k: int, value: Any) -> list[Any]:
    """Zero outputs with the tangents that operand k contributes, linearised at given values."""
    # the value of the switch, with the tangent of the operand
    mover = hold(linearised[k]) + carrier(value).astype(linearised[k].dtype)
    given = [mover if j == k else v for j, v in enumerate(linearised)]
    if equation.primitive.name == "custom_linear_solve":
        # its JVP rule asks for tangents of all operands, be they 0
        nothing = 0.0 * jnp.sum(carrier(value))
        given = [
            v if j == k or not _is_float(v) else v + nothing.astype(v.dtype)
            for j, v in enumerate(given)
        ]
    return [carrier(r) if _is_float(r) else r for r in program.evaluate(equation, given)]
