"""Fuzzer of verdicts: the right Jacobian re-bracketed is right, one with a planted error is wrong.

A random program f is scaled, g(y) = r·f(s·y), by powers of two between 1e-30 and 1e30 for every row
and every column, so that entries of all sizes stand side by side. The right Jacobian is put
together from the steps' own Jacobians by eliminating the values between in a random order, sums in
a random order too: the same terms in other brackets. It must be accepted; with one entry off by a
thousandth of itself it must not. Several draws share a program, which is compiled once.

Both go through the comparison itself, without a rule to trace: a rule's own rounding excuses
nothing here. The first draw of every fifth program goes through the whole of `check_vjp`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import check_vjp, program
from jacobians.check.compare import Compared, leaps
from jacobians.check.entries import Entries
from jacobians.check.implied import _coarsest
from jacobians.check.oracle import NUDGE
from jacobians.check.sides import Sides
from jacobians.check.summands import DOUBLE, Terms
from jacobians.check.verdict import verdicts
from tests.choices import Seeded
from tests.derive.programs import RandomProgram, random_program

# so many consecutive numbers share a program
DRAWS = 20
# the first draw of every so many programs goes through the whole of check_vjp
WHOLE_EVERY = 5
ERROR = 1e-3
# powers of two up to about 1e30
LARGEST_POWER = 100
# an error is planted in entries that other brackets leave as they are to this many digits
KNOWN = 1e-9


@dataclass(eq=False)
class Scaled:
    """A random program between scalings of its first input and of its output, at a point."""

    inner: RandomProgram
    values: list[Any]

    def __call__(self, y: Any, rows: Any, columns: Any) -> Any:
        result = self.inner(columns * y, *self.values[1:])
        return rows * result.astype(rows.dtype)

    @cached_property
    def pool(self) -> list[Any]:
        """The inputs and what every step makes of them."""
        pool = list(self.values)
        for _, f, operands in self.inner.steps:
            pool.append(f(*(pool[k] for k in operands)))
        return pool

    @cached_property
    def steps(self) -> dict[tuple[int, int], np.ndarray]:
        """The Jacobian of every step, by the places of its result and of its operand."""
        found: dict[tuple[int, int], np.ndarray] = {}
        count = len(self.values)
        for k, (_, f, operands) in enumerate(self.inner.steps, start=count):
            given = [self.pool[o] for o in operands]
            made = jax.jit(jax.jacfwd(f, argnums=tuple(range(len(given)))))(*given)
            for o, block in zip(operands, made, strict=True):
                matrix = np.asarray(block, np.float64).reshape(self.pool[k].size, -1)
                found[k, o] = found.get((k, o), 0.0) + matrix
        return found

    @cached_property
    def jacobian(self) -> Any:
        """The compiled Jacobian, of the scaled input and the scalings."""
        m, n = self.pool[-1].size, self.values[0].size
        return jax.jit(lambda *given: jax.jacfwd(self)(*given).reshape(m, n))

    @cached_property
    def terms(self) -> Terms:
        """What measures rounding; its values are replaced at every draw."""
        return Terms(lambda *given: (self(*given),), [])

    @cached_property
    def eps(self) -> float:
        """The coarsest roundoff of the program."""
        ones = np.ones(self.pool[-1].shape), np.ones(self.values[0].shape)
        return max(
            DOUBLE, _coarsest(program.trace(self, [self.values[0], *map(jnp.asarray, ones)]))
        )

    def rebracketed(self, generator: Any, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The scaled Jacobian, values between eliminated in a random order."""
        first, last = -1, len(self.pool)
        edges = dict(self.steps)
        edges[0, first] = np.diag(columns)
        edges[last, last - 1] = np.diag(rows)
        for node in generator.permutation(last):
            into = {b: m for (a, b), m in edges.items() if a == node}
            out = {a: m for (a, b), m in edges.items() if b == node}
            edges = {(a, b): m for (a, b), m in edges.items() if node not in (a, b)}
            for a, left in out.items():
                for b, right in into.items():
                    order = generator.permutation(left.shape[1])
                    product = left[:, order] @ right[order]
                    edges[a, b] = edges[a, b] + product if (a, b) in edges else product
        return edges.get((last, first), np.zeros((len(rows), len(columns))))


@lru_cache(maxsize=1)
def scaled_program(number: int, steps: int) -> Scaled:
    """The program of a number at random inputs, in double precision."""
    made = random_program(Seeded(number), steps=steps)
    generator = np.random.default_rng(number)
    return Scaled(made, [jnp.asarray(generator.normal(size=shape)) for shape in made.shapes])


def findings(number: int, steps: int = 6, draws: int = DRAWS) -> list[str]:
    """Wrong verdicts of one draw, a line each."""
    with jax.enable_x64(True):
        found = _findings(number, steps, draws)
    if not found:
        return []
    described = "; ".join(scaled_program(number // draws, steps).inner.describe().splitlines())
    return [f"{line} | {described}" for line in found]


def _findings(number: int, steps: int, draws: int) -> list[str]:
    scaled = scaled_program(number // draws, steps)
    if not all(np.isfinite(m).all() for m in scaled.steps.values()):
        return []
    generator = np.random.default_rng(number)
    m, n = scaled.pool[-1].size, scaled.values[0].size
    powers = [generator.integers(-LARGEST_POWER, LARGEST_POWER + 1, size=k) for k in (m, n)]
    rows, columns = (2.0 ** p.astype(float) for p in powers)
    given = [
        jnp.asarray(np.asarray(scaled.values[0]) / columns.reshape(scaled.values[0].shape)),
        jnp.asarray(rows.reshape(scaled.pool[-1].shape)),
        jnp.asarray(columns.reshape(scaled.values[0].shape)),
    ]
    expected = np.asarray(scaled.jacobian(*given))
    if not np.isfinite(expected).all():
        return []
    right = scaled.rebracketed(generator, rows, columns)
    found = []
    if _wrong(scaled, given, expected, right).any():
        found.append("a right rule is rejected")
    other = scaled.rebracketed(generator, rows, columns)
    with np.errstate(invalid="ignore"):
        known = (np.abs(right - expected) <= KNOWN * np.abs(expected)) & (expected != 0)
        known &= np.abs(other - expected) <= KNOWN * np.abs(expected)
    places = np.argwhere(known)
    planted = right.copy()
    if len(places) and scaled.eps == DOUBLE:
        place = tuple(places[generator.integers(len(places))])
        planted[place] *= 1 + generator.choice([-ERROR, ERROR])
        if not _wrong(scaled, given, expected, planted)[place]:
            found.append(f"an error at {place} of {expected[place]:.3g} is missed")
    if number % (WHOLE_EVERY * draws) == 0:
        found += _through_check_vjp(scaled, given, right, planted)
    return found


def _wrong(scaled: Scaled, given: list[Any], expected: np.ndarray, rule: np.ndarray) -> np.ndarray:
    """Which entries of a rule's Jacobian the comparison calls wrong."""
    scaled.terms.values = given
    scaled.terms.__dict__.pop("_chosen", None)
    m, n = expected.shape
    place_rows, place_columns = np.divmod(np.arange(m * n), n)
    truth: Any = SimpleNamespace(
        call=SimpleNamespace(selected=(0,), inputs=[SimpleNamespace(size=n)]),
        how="forward mode",
        draws=False,
        wide=given[:1],
        plain=lambda y: (scaled(y, *given[1:]),),
        compiled=lambda y: (scaled(y, *given[1:]),),
        notes=[],
        noise=lambda number, columns, eps, tiny, own: scaled.terms.noise(0, columns, eps, tiny),
    )

    def no_noise(*_: Any) -> np.ndarray:
        return np.zeros(m * n)

    sides: Any = Sides(
        call=truth.call, rows=place_rows, columns=place_columns, truth=no_noise, mine=no_noise,
        rounded=no_noise, sloping=no_noise, compressed=False, gives_up=no_noise,
    )  # fmt: skip
    sides.rule_noise = no_noise
    generator = np.random.default_rng(0)
    share = NUDGE * generator.uniform(0.5, 1, given[0].shape)
    share *= generator.choice([-1, 1], given[0].shape)
    beside = [np.asarray(scaled.jacobian(given[0] * (1 + x), *given[1:])) for x in (share, -share)]
    no = np.zeros(m * n, bool)
    sizes = [np.abs(np.asarray(v)).ravel() for v in (scaled(*given), given[0])]
    units = sizes[0][place_rows] / sizes[1][place_columns]
    entries = Entries(
        output=0, input=0, place=0, count=m * n, inside=~no, rows=place_rows, columns=place_columns,
        expected=expected.ravel().copy(), bar=None,
        leap=np.max([leaps(expected.ravel(), b.ravel()) for b in beside], axis=0),
        wide=rule.ravel(), narrow=rule.ravel(), wide_eps=scaled.eps, narrow_eps=scaled.eps,
        unit=units, nowhere=no, lost=no, backward=None,
    )  # fmt: skip
    (result,) = verdicts(Compared((entries,), sides, True, DOUBLE), truth, None, None)
    return np.asarray(result.wrong.reshape(m, n))


def _through_check_vjp(
    scaled: Scaled, given: list[Any], right: np.ndarray, planted: np.ndarray
) -> list[str]:
    """The same two verdicts of `check_vjp` as a whole."""
    found = []
    for rule, good in ((right, True), (planted, bool((planted == right).all()))):

        def pull(c: Any, y: Any, rule: np.ndarray = rule) -> tuple[Any]:
            return ((c.reshape(-1) @ rule).reshape(y.shape),)

        if (
            bool(check_vjp(lambda y: scaled(y, *given[1:]), given[0], vjp=pull, diagnose=False))
            != good
        ):
            found.append(f"check_vjp {'rejects the right rule' if good else 'misses the error'}")
    return found
