"""What is wrong with a rule before any number is compared.

A rule that raises, that returns another structure, shape or dtype than the inputs', another value
than the function, or that is not linear in the cotangent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacobians import program
from jacobians.check.allowances import Precision
from jacobians.check.arrays import Array
from jacobians.check.compare import Compared
from jacobians.check.entries import Comparison
from jacobians.check.faults import Fault, faults
from jacobians.check.implied import SLOW, precisions, pulled, rounding, rounding_to_first_order
from jacobians.check.oracle import Oracle
from jacobians.check.result import Problem
from jacobians.check.rule import Rule
from jacobians.check.summands import drawn, largest, rounding_slopes
from jacobians.errors import RuleRaisedError, first_line
from jacobians.program.call import Call, floats_of, output_templates, rebuilt, short_type

# a rule's forward pass may compute the value in another way: it may be off by so many times what
# one rounding of every operation of the function leaves
VALUE_NOISE = 100.0
# and by this share of itself at once, in roundings; in double precision as far as an entry may
VALUE_ROUNDINGS, VALUE_SHARE = 1e3, 1e-5
# a loss of digits is worth a note from this share on, of entries of at least this share of the most
WORTH_A_NOTE = 1e-3
# for code that runs a few times only: little optimisation
QUICK = {"xla_backend_optimization_level": 0}


@contextmanager
def raised_by_the_rule() -> Iterator[None]:
    """Takes what is raised inside for the rule's doing.

    Raises:
        RuleRaisedError: something was raised.
    """
    try:
        yield
    except RuleRaisedError:
        raise
    except Exception as error:
        raise RuleRaisedError(first_line(error)) from error


def _faults(call: Call, rule: Rule, oracle: Oracle) -> tuple[Fault, ...]:
    """Faults of the rule as a linear map, in double precision where it can be evaluated there."""
    names = [call.inputs[k].name for k in call.selected]

    def tested(values: Sequence[Any]) -> tuple[Fault, ...]:
        """The faults at values of the inputs, in their precision."""
        templates = output_templates(call, values)
        floats = floats_of(call, values)
        eps = max(float(jnp.finfo(t.dtype).eps) for t in templates)
        try:
            eps = max(eps, precisions(call, rule, values)[0])
        except Exception as error:
            # what cannot be traced may still be evaluated
            oracle.gives_up("JAX cannot trace the rule: what it rounds to is not known", error)
        compiled = jax.jit(lambda given, c: pulled(call, rule, rebuilt(call, values, given), c))

        def plain(c: Sequence[Any]) -> Sequence[Any]:
            return pulled(call, rule, values, c)

        sloping, noisy = rounding_to_first_order(call, rule), rounding(call, rule)
        # traced once for all draws and cotangents: a rule that is a whole solver is slow to trace
        slopes = jax.jit(
            lambda given, c, numbers: sloping(rebuilt(call, values, given), c, eps, 0.0, numbers),
            compiler_options=QUICK,
        )

        def noise(c: Sequence[Any]) -> list[Array]:
            try:
                return largest([slopes(floats, list(c), numbers) for numbers in drawn()])
            except Exception as error:
                oracle.gives_up(
                    "JAX cannot differentiate the rule; its rounding is imitated instead", error
                )
                exact = plain(c)
                try:
                    moved = [noisy(values, c, eps, seed) for seed in range(len(drawn()))]
                except Exception as cause:
                    oracle.gives_up(
                        "the rule's rounding cannot be imitated: none is allowed", cause
                    )
                    return [np.zeros(np.shape(a)) for a in exact]
                pairs = [zip(m, exact, strict=True) for m in moved]
                return largest([[np.asarray(a) - np.asarray(b) for a, b in p] for p in pairs])

        try:
            zero = [np.zeros(t.shape, t.dtype) for t in templates]
            compiled(floats, zero)
        except Exception as error:
            oracle.gives_up(SLOW, error)
            return faults(plain, plain, templates, eps, names, noise)
        return faults(lambda c: compiled(floats, list(c)), plain, templates, eps, names, noise)

    with jax.enable_x64(True):
        try:
            return tested(oracle.wide)
        except Exception as error:
            oracle.gives_up("whether the rule is linear is tested in its own precision", error)
    with raised_by_the_rule():
        return tested([leaf.value for leaf in call.inputs])


def _symbolic_problems(call: Call, rule: Rule) -> list[Problem]:
    """Whether a rule that sees which inputs matter gives the same whichever do."""
    custom = rule.custom
    if custom is None or not getattr(custom, "symbolic_zeros", False) or len(call.selected) < 2:
        return []
    generator = np.random.default_rng(0)
    together = call.flat(call.selected, custom)
    chosen = [jnp.asarray(call.inputs[k].value) for k in call.selected]
    results, pull = jax.vjp(together, *chosen)
    cotangent = tuple(
        jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype)
        if leaf.differentiable
        else np.zeros(leaf.shape, jax.dtypes.float0)
        for leaf in call.outputs
    )
    del results
    problems = []
    for k, joint in zip(call.selected, pull(cotangent), strict=True):
        alone = jax.vjp(call.flat((k,), custom), jnp.asarray(call.inputs[k].value))[1](cotangent)[0]
        size = float(np.abs(np.asarray(joint, np.float64)).max(initial=0.0))
        eps = float(jnp.finfo(call.inputs[k].dtype).eps)
        if not np.allclose(
            np.asarray(alone, np.float64),
            np.asarray(joint, np.float64),
            rtol=1e3 * eps,
            atol=1e3 * eps * size,
        ):
            problems.append(
                Problem(
                    "symbolic-zeros",
                    f"the cotangent of {call.inputs[k].name} changes when only it is "
                    "differentiated: the rule treats inputs that are not perturbed "
                    "(symbolic_zeros=True) differently; look at its branches on .perturbed",
                    (call.inputs[k].name,),
                )
            )
    return problems


def _note_single_precision(made: Compared, results: Sequence[Comparison], notes: list[str]) -> None:
    """Says where the rule is right but loses digits in the inputs' own precision."""
    worst = 0.0
    for found, result in zip(made.blocks, results, strict=True):
        if found.wide is None or result.wrong.any() or Precision(found.narrow_eps).is_coarse:
            continue
        if result.by_own is not None:
            # other numbers, not rounding
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.abs(found.expected)
            off = np.abs(found.narrow - found.wide) / size
        off = off[np.isfinite(off) & (size > WORTH_A_NOTE * size.max(initial=0.0))]
        worst = max(worst, float(off.max(initial=0.0)))
    if worst > WORTH_A_NOTE:
        notes.append(
            f"right in float64, but in the inputs' own precision rounding moves an entry by "
            f"{100 * worst:.2g} %"
        )


def _form_problems(call: Call, rule: Rule) -> list[Problem]:
    """Faults that show without numbers: count, shapes, dtypes, exceptions."""
    try:
        shapes = jax.eval_shape(lambda: rule.raw_cotangents())
    except Exception as error:
        try:
            # what Python code cannot be traced may still be evaluated
            shapes = rule.raw_cotangents()
        except Exception:
            if _nonlinear_jvp(call, rule):
                what = (
                    "the JVP rule is not linear in the tangent, so that JAX cannot transpose it: "
                    "a JVP multiplies the tangent by the Jacobian and does nothing else with it"
                )
                return [Problem("nonlinear", what)]
            what = f"the rule raised {first_line(error)}; see that it runs by itself"
            return [Problem("raised", what)]
    miscounted = _miscounted(shapes, rule)
    if miscounted is not None:
        return [Problem("count", miscounted)]
    problems = _ill_formed(shapes, rule)
    refused = None if problems else rule.refused_by_jax()
    if refused is not None:
        problems.append(Problem("raised", f"JAX itself refuses the rule: {refused}"))
    return problems


def _miscounted(shapes: Any, rule: Rule) -> str | None:
    """A sentence where a rule does not return as many cotangents as there are arguments."""
    names = rule.argument_names
    if not isinstance(shapes, (tuple, list)):
        return (
            f"the rule returned {_kind(shapes)}; it has to return a tuple with one cotangent "
            f"for each of the {len(names)} arguments ({', '.join(names)})"
        )
    if len(shapes) != len(names):
        plural = "" if len(shapes) == 1 else "s"
        return (
            f"the rule returned {len(shapes)} cotangent{plural} for {len(names)} arguments "
            f"({', '.join(names)}); return one for each, in order"
        )
    return None


def _ill_formed(shapes: Any, rule: Rule) -> list[Problem]:
    """What is wrong with the structure, shape and dtype of each input's cotangent."""
    problems = []
    for name, expected, given in rule.expected_cotangents(shapes):
        if isinstance(given, str):
            problems.append(Problem("structure", f"the cotangent of {name} {given}"))
        elif given is None:
            continue
        elif tuple(given.shape) != expected.shape:
            problems.append(
                Problem(
                    "shape",
                    f"the cotangent of {name} has shape {list(given.shape)}, "
                    f"{name} has shape {list(expected.shape)}; they must be equal"
                    + _broadcast_hint(tuple(given.shape), expected.shape),
                )
            )
        elif given.dtype != expected.dtype and expected.differentiable:
            problems.append(
                Problem(
                    "dtype",
                    f"the cotangent of {name} is {short_type(given.shape, given.dtype)}, "
                    f"{name} is {expected.short_type}; convert it to {np.dtype(expected.dtype)}",
                )
            )
    return problems


def _nonlinear_jvp(call: Call, rule: Rule) -> bool:
    """Whether a function with custom rules is nonlinear in forward mode, where it can be seen."""
    if rule.custom is None:
        return False
    function = call.flat(call.selected, rule.custom)
    chosen = tuple(jnp.asarray(call.inputs[k].value) for k in call.selected)
    generator = np.random.default_rng(0)
    a, b = ([jnp.asarray(generator.normal(size=x.shape), x.dtype) for x in chosen] for _ in "ab")
    try:
        made = [
            np.concatenate(
                [
                    np.asarray(t, np.float64).ravel()
                    for t, leaf in zip(
                        jax.jvp(function, chosen, tuple(given))[1], call.outputs, strict=True
                    )
                    if leaf.differentiable
                ]
            )
            for given in (a, b, [2 * x - y for x, y in zip(a, b, strict=True)])
        ]
    except Exception:
        # what it raises here it has raised before, and that is reported
        return False
    size = np.abs(made[0]) + np.abs(made[1])
    return bool((np.abs(2 * made[0] - made[1] - made[2]) > 1e-3 * (size + size.max())).any())


def _broadcast_hint(given: tuple[int, ...], expected: tuple[int, ...]) -> str:
    try:
        broadcast = np.broadcast_shapes(given, expected)
    except ValueError:
        return ""
    if broadcast != given:
        return ""
    return ": sum over the axes along which it was broadcast"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    return f"an array of shape {list(shape)}" if shape is not None else f"a {type(value).__name__}"


def _primal_problems(call: Call, rule: Rule, oracle: Oracle) -> list[Problem]:
    """Whether the forward pass of the rule returns what the function returns."""
    if rule.primal is None:
        return []
    with raised_by_the_rule():
        mine = jax.tree.leaves(rule.primal())
    plain = oracle.narrow_outputs
    problems = []
    for k, (leaf, a, b) in enumerate(zip(call.outputs, mine, plain, strict=False)):
        if jnp.shape(a) != jnp.shape(b):
            problems.append(
                Problem(
                    "primal",
                    f"the forward rule returns {leaf.name} of shape {list(jnp.shape(a))}, the "
                    f"function {list(jnp.shape(b))}",
                )
            )
            continue
        if not leaf.differentiable:
            continue
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        off = _values_differ(x, y, VALUE_ROUNDINGS * float(jnp.finfo(leaf.dtype).eps))
        if (off & np.isfinite(x) & np.isfinite(y)).any():
            with np.errstate(invalid="ignore"):
                off &= ~(
                    np.abs(x - y) <= VALUE_NOISE * _value_noise(call, k, oracle).reshape(y.shape)
                )
        if (off & ~np.isfinite(y)).any():
            # what overflows in the inputs' own precision is judged where it does not
            off &= np.isfinite(y) | ~_agree_in_double(rule, oracle, k).reshape(y.shape)
        if off.any():
            where = tuple(int(k) for k in np.argwhere(off)[0])
            problems.append(
                Problem(
                    "primal",
                    f"the forward rule gives {leaf.name}{list(where) if where else ''} = "
                    f"{x[where]:.6g}, the function itself {y[where]:.6g}: the rule's "
                    "forward pass has to return what the function returns",
                )
            )
    return problems


def _values_differ(x: Array, y: Array, share: float) -> Array:
    """Where two values differ by more than a share of the second; infinite ones by anything."""
    with np.errstate(invalid="ignore"):
        close = np.isfinite(x) & np.isfinite(y) & (np.abs(x - y) <= share * np.abs(y))
    return np.asarray(~(close | (x == y) | (np.isnan(x) & np.isnan(y))))


def _value_noise(call: Call, output: int, oracle: Oracle) -> Array:
    """How far one rounding of every operation moves an output, to first order."""
    values = [leaf.value for leaf in call.inputs]
    floats = floats_of(call, values)
    places = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
    dtype = call.outputs[output].dtype
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    try:
        traced = program.trace(
            lambda *g: tuple(
                call.with_values(rebuilt(call, values, g)).flat(())()[k] for k in places
            ),
            [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in floats],
        )
        made = [rounding_slopes(traced, floats, (), eps, tiny, r) for r in drawn()]
    except Exception as error:
        oracle.gives_up(
            "what rounding moves the function's value by cannot be measured, and excuses nothing",
            error,
        )
        return np.zeros(call.outputs[output].size)
    return largest(made)[places.index(output)]


def _agree_in_double(rule: Rule, oracle: Oracle, output: int) -> Array:
    """Where the rule's forward pass and the function agree, in double precision."""
    with jax.enable_x64(True):
        try:
            primal = rule.bound(rule.call.with_values(oracle.wide)).primal
            assert primal is not None
            x = np.asarray(jax.tree.leaves(primal())[output], np.float64)
        except Exception as error:
            oracle.gives_up(
                "the rule's forward pass could not be evaluated in float64; what it returned in "
                "the inputs' own precision stands",
                error,
            )
            return np.zeros(oracle.narrow_outputs[output].shape, bool)
    y = np.asarray(oracle.outputs[output], np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    return np.asarray(finite & ~_values_differ(x, y, VALUE_SHARE))
