"""Fuzzer of forms: every format of a random program's Jacobian, under every transformation.

A program is drawn with one or several results, an aux, a custom rule or a look at its argument's
values; its Jacobian in two formats, eagerly or under `jit`, `vmap`, `scan` or `grad`, has the
numbers, shapes, dtypes and pytrees of `jax.jacrev`, or of `jax.jacfwd` where JAX has no other.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO

import jacobians
from jacobians.sparse.forms.operator import JacobianOperator
from tests.choices import Choices, Seeded
from tests.derive.programs import RandomProgram, random_program
from tests.derive.structured import ODD

FORMATS = ("bcoo", "dense", "scipy", "blocks", "operator")
WAYS = ("eager", "eager again", "jit", "vmap", "scan", "grad")
RESULTS = ("last", "last", "last", "two", "dict", "scalar and last")
RULES = ("none", "none", "none", "clipped", "straight-through", "looks", "looks and clips")


@jax.custom_vjp
def clipped(x: Any) -> Any:
    """The identity with a gradient that is cut off: a rule that is not linear."""
    return 1.0 * x


clipped.defvjp(lambda x: (1.0 * x, None), lambda _, g: (jnp.clip(g, -0.4, 0.4),))


@jax.custom_vjp
def straight_through(x: Any) -> Any:
    """Rounding with the identity's gradient."""
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@dataclass(frozen=True)
class Form:
    """A program with what is asked of it.

    Attributes:
        program: the program.
        result: how its values are returned.
        rule: what its first input goes through.
        argnums: what it is differentiated with respect to.
        aux: whether it returns an aux beside.
        way: the transformation.
        formats: the formats of the Jacobian.
    """

    program: RandomProgram
    result: str
    rule: str
    argnums: int | tuple[int, ...]
    aux: bool
    way: str
    formats: tuple[str, ...]

    def __call__(self, *inputs: Any) -> Any:
        """The function to differentiate."""
        first, *others = inputs
        if self.rule.startswith("looks") and float(jnp.sum(jnp.abs(first))) < -1:
            first = -first
        if self.rule.endswith(("clips", "clipped")):
            first = clipped(first)
        if self.rule == "straight-through":
            first = straight_through(first) * first
        pool = [first, *others]
        for _, f, operands in self.program.steps:
            pool.append(f(*(pool[k] for k in operands)))
        last, before = pool[-1], pool[-2]
        made = {
            "last": last,
            "two": (last, [before]),
            "dict": {"b": before, "a": last},
            "scalar and last": (jnp.sum(before), last),
        }[self.result]
        return (made, {"name": "before", "value": before}) if self.aux else made

    def text(self) -> str:
        """All of it in one line."""
        steps = "; ".join(self.program.describe().splitlines())
        asked = f"argnums {self.argnums}, {self.way}, {' and '.join(self.formats)}"
        return f"{self.result}, rule {self.rule}, aux {self.aux}, {asked} | {steps}"


def form_of(number: int) -> Form:
    """The form of a number."""
    return some_form(Seeded(number))


def some_form(choose: Choices, steps: int = 6) -> Form:
    """A random program with random questions."""
    way = choose.among(WAYS)
    # where a derivative is infinite, that of the Jacobian is 0·∞ in one order of products or other
    program = random_program(choose, steps, None if way == "grad" else ODD)
    count = len(program.shapes)
    argnums = choose.among([0, count - 1, tuple(range(count)), tuple(reversed(range(count)))])
    rule = choose.among(RULES)
    if rule.startswith("looks"):
        way = "eager"
    several = FORMATS if way.startswith("eager") else tuple(f for f in FORMATS if f != "scipy")
    chosen = choose.order(len(several))[:2]
    formats = tuple(several[k] for k in chosen)
    return Form(program, choose.among(RESULTS), rule, argnums, choose.flag(), way, formats)


def findings(number: int) -> list[str]:
    """What is not as JAX has it in the form of this number, a line each."""
    form = form_of(number)
    return [f"{line} | {form.text()}" for line in wrong(form, number)]


def wrong(form: Form, seed: int) -> list[str]:
    """What is not as JAX has it, a line each.

    Args:
        form: the program and what is asked.
        seed: of the point.
    """
    generator = np.random.default_rng(seed)
    with jax.enable_x64(True), warnings.catch_warnings():
        # a structure that cannot be derived is a finding too
        warnings.simplefilter("error", RuntimeWarning)
        point = [jnp.asarray(generator.normal(size=shape)) for shape in form.program.shapes]
        return list(_compared(form, point))


def _compared(form: Form, point: Sequence[Any]) -> list[str]:
    # such a rule has no JVP, and an operator says so when it is asked for one
    clips = form.rule.endswith(("clips", "clipped"))
    ours = {f: _ours(form, f) for f in form.formats if not (clips and f == "operator")}
    theirs = {mode: _of_jax(form, mode) for mode in ("jacrev", "jacfwd")}
    seen: dict[str, Any] = {}
    if form.rule == "none" and not form.way.startswith("eager"):
        # all of them in one program, which is compiled once
        try:
            seen = _transformed(form, ours | theirs, point)
        except Exception:
            # one of them raises: which one is found one by one
            seen = {}
    for mode, jac in theirs.items():
        if mode not in seen:
            # a rule for one mode only, or a while loop in reverse
            with suppress(TypeError, ValueError, NotImplementedError):
                seen |= _transformed(form, {mode: jac}, point, reference=True)
    modes = [seen[mode] for mode in theirs if mode in seen]
    if not modes:
        return []
    finite = jax.tree.map(lambda *a: np.all([np.isfinite(x) for x in a], axis=0), *modes)
    lines = []
    for name, jac in ours.items():
        try:
            made = seen[name] if name in seen else _transformed(form, {name: jac}, point)[name]
        except Exception as error:
            first_line = (str(error).strip() or "no message").splitlines()[0]
            lines.append(f"{name}: {type(error).__name__}: {first_line}")
            continue
        differing = _differences(made, modes[0], finite, form, name)
        lines.extend(f"{name}: {line}" for line in differing)
    return lines


def _of_jax(form: Form, mode: str) -> Callable[..., Any]:
    """The Jacobian as a mode of JAX has it."""

    def jac(*inputs: Any) -> Any:
        made = getattr(jax, mode)(form, form.argnums, has_aux=form.aux)(*inputs)
        return made[0] if form.aux else made

    return jac


def _ours(form: Form, name: str) -> Callable[..., Any]:
    jac = jacobians.jacobian(form, form.argnums, format=name, has_aux=form.aux)

    def in_full(*inputs: Any) -> Any:
        made = jac(*inputs)
        made = made[0] if form.aux else made
        if isinstance(made, JacobianOperator):
            return _of_operator(made)
        return made if name == "dense" else jax.tree.map(_full, made, is_leaf=_is_block)

    return in_full


def _transformed(
    form: Form,
    jacobians_asked: dict[str, Callable[..., Any]],
    point: Sequence[Any],
    reference: bool = False,
) -> dict[str, Any]:
    """Jacobians by name, under the transformation that the form asks for."""
    moved = [0.9 * x + 0.05 for x in point]

    def all_of(*inputs: Any) -> dict[str, Any]:
        return {name: jac(*inputs) for name, jac in jacobians_asked.items()}

    if form.way.startswith("eager"):
        if not reference or form.rule.startswith("looks"):
            return all_of(*(moved if form.way == "eager again" else point))
        return jax.jit(all_of)(*(moved if form.way == "eager again" else point))
    if form.way == "jit":
        return jax.jit(all_of)(*point)
    stacked = [jnp.stack(pair) for pair in zip(point, moved, strict=True)]
    if form.way == "vmap":
        return jax.jit(jax.vmap(all_of))(*stacked)
    if form.way == "scan":
        return jax.jit(lambda *s: lax.scan(lambda _, x: (None, all_of(*x)), None, s)[1])(*stacked)

    def totals(*inputs: Any) -> dict[str, Any]:
        made = all_of(*inputs)
        return {k: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(v)) for k, v in made.items()}

    return jax.jit(jax.jacfwd(totals))(*point)


def _differences(made: Any, expected: Any, finite: Any, form: Form, name: str) -> list[str]:
    if jax.tree.structure(made) != jax.tree.structure(expected):
        return [f"pytree {jax.tree.structure(made)} for {jax.tree.structure(expected)}"]
    rounds = "to_f32" in form.program.describe()
    tolerance = 1e-4 if rounds else 1e-6 if form.way == "grad" else 1e-8
    lines = []
    leaves = (jax.tree.leaves(tree) for tree in (made, expected, finite))
    for ours, theirs, where in zip(*leaves, strict=True):
        if name == "scipy":
            # a matrix of all outputs by all inputs
            ours = ours.reshape(theirs.shape)
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            lines.append(f"{ours.dtype}{ours.shape} for {theirs.dtype}{theirs.shape}")
            continue
        a, b = np.asarray(ours)[where], np.asarray(theirs)[where]
        limit = tolerance * max(1.0, float(np.abs(b).max(initial=0.0)))
        apart = ~(np.abs(a - b) <= limit)
        if apart.any():
            place = int(np.argmax(apart))
            lines.append(f"{a[place]} for {b[place]}, {int(apart.sum())} entries of {a.size}")
    return lines


def _is_block(x: Any) -> bool:
    return hasattr(x, "todense") or hasattr(x, "toarray")


def _full(block: Any) -> Any:
    """A block as an array."""
    if isinstance(block, BCOO):
        assert block.indices_sorted
        assert block.unique_indices
    return block.todense() if hasattr(block, "todense") else block.toarray()


def _of_operator(operator: JacobianOperator) -> Any:
    """The blocks of an operator, cut out of its product with the identity."""
    matrix = operator @ jnp.eye(operator.shape[1])
    rows, first_row = [], 0
    for out in operator.out_types:
        blocks, first = [], 0
        for inp in operator.in_types:
            part = matrix[first_row : first_row + out.size, first : first + inp.size]
            blocks.append(part.reshape(*out.shape, *inp.shape))
            first += inp.size
        rows.append(jax.tree.unflatten(operator.in_tree, blocks))
        first_row += out.size
    return jax.tree.unflatten(operator.out_tree, rows)
