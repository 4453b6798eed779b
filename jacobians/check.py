"""Is this hand-written derivative right? Every entry of the Jacobian that it implies is compared.

A VJP says what the Jacobian is: one call per output basis vector gives it row by row. It is
compared with the derivative of the function's own program, custom rules stripped, in float64
wherever the rule can be evaluated there, so that rounding is out of the question; and once more in
the inputs' own precision. Each entry is judged by the rounding of its own terms. Where one-sided
derivatives differ (a kink, also one with an infinite side), any value between them is right; where
the function has no finite derivative (the root at 0), a number is a convention, counted and not
called wrong.

A large Jacobian is compared in compressed form, without loss: the patterns of both sides are
proved, and entries that share no row are evaluated together. One that is too large even for that is
probed with random cotangents, and the report says with what probability a mistake goes unseen.

    >>> check = check_vjp(my_relu, x)
    >>> bool(check), check.worst
    (False, WorstEntry(output='out', input='x', output_index=(3,), input_index=(3,), ...))
    >>> check.diagnoses[0].kind, check.diagnoses[0].message
    ('sign', 'the cotangent of x has the wrong sign …')
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import dense, program
from jacobians.arguments import Call, bind, function_name, short_type
from jacobians.compare import Compared, Comparison, Entries, compare
from jacobians.complex_parts import has_complex, in_real_parts
from jacobians.diagnose import Budget, Diagnosis, budget_of, diagnose_form
from jacobians.diagnose import diagnose as explanations
from jacobians.errors import ArgumentError, WrongDerivativeError
from jacobians.implied import (
    floats_of,
    output_templates,
    precisions,
    pulled,
    rebuilt,
    rounding,
    rounding_to_first_order,
)
from jacobians.linearity import Fault, faults
from jacobians.oracle import Oracle
from jacobians.probes import PROBES, Probed, probed
from jacobians.report.spy import spy
from jacobians.rule import Rule, find_rule, first_line, without_static
from jacobians.terms import drawn, largest, rounding_slopes
from jacobians.verdict import nonfinite, note_by_own, note_lost, verdicts

Array = NDArray[Any]

# a rule's forward pass may compute the value in another way: it may be off by so many times what
# one rounding of every operation of the function leaves
VALUE_NOISE = 100.0


@dataclass(frozen=True)
class WorstEntry:
    """The entry that is furthest off, relative to its tolerance.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        output_index: index into the output.
        input_index: index into the input.
        expected: the derivative of the function.
        actual: what the rule says.
    """

    output: str
    input: str
    output_index: tuple[int, ...]
    input_index: tuple[int, ...]
    expected: float
    actual: float


@dataclass(frozen=True)
class Problem:
    """A fault of the rule as a whole.

    Attributes:
        kind: count, structure, shape, dtype, raised, primal, non-finite, nonlinear,
            ignores-cotangent, nondeterministic or symbolic-zeros.
        message: what is wrong and what to do, in a sentence.
        inputs: names of the inputs concerned, where it is not all of them.
    """

    kind: str
    message: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class BlockCheck:
    """The comparison of one block.

    Attributes:
        output: name of the output leaf.
        input: name of the input leaf.
        out_shape: shape of the output leaf.
        in_shape: shape of the input leaf.
        entries: how many entries were compared.
        error: largest absolute difference (at kinks: to the nearest right value).
        tolerance: the largest difference that rounding may explain, at the worst entry.
        tolerance_source: where the tolerance comes from.
        worst: the worst entry, or None for an empty block.
        wrong: how many entries are wrong.
        kinks: how many entries differ but lie between the one-sided derivatives.
        undefined: how many entries have no derivative, so that the rule's NaN there is no mistake.
        singular: how many entries have no finite derivative, where the rule says a number that is
            then a convention, or rightly infinity.
        verdict: 'right', 'right (kinks)', 'wrong' or 'differs as declared'.
        precision: what the deciding comparison was made in.
        picture: the pattern of the wrong entries in braille, one line of the matrix each.
    """

    output: str
    input: str
    out_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    entries: int
    error: float
    tolerance: float
    tolerance_source: str
    worst: WorstEntry | None
    wrong: int
    kinks: int
    verdict: str
    precision: str = "float64"
    picture: tuple[str, ...] = ()
    undefined: int = 0
    singular: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix shape."""
        return prod(self.out_shape), prod(self.in_shape)

    @property
    def ok(self) -> bool:
        """Whether the block is right, or differs as the caller declared."""
        return self.verdict != "wrong"


@dataclass(frozen=True, eq=False)
class VJPCheck:
    """The verdict on a hand-written derivative. True when it is right.

    Attributes:
        name: the function's name.
        rule: what was checked: 'custom_vjp', 'Gate', 'vjp=' …
        blocks: one comparison per (output leaf, input leaf).
        problems: faults of the rule as a whole.
        notes: how it was compared, and what the reader should know.
        diagnoses: what the mistakes most likely are, the best explanation first.
        truth: where the right derivative comes from: 'forward mode', 'reverse mode' or 'finite
            differences'.
        declared: the reason for which the caller expects a difference, by input, from `expect`.
        excused: faults that the declaration covers.
    """

    name: str
    rule: str
    blocks: tuple[BlockCheck, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    diagnoses: tuple[Diagnosis, ...] = ()
    truth: str = "forward mode"
    declared: Mapping[str, str] = field(default_factory=dict)
    excused: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        return not self.problems and all(block.ok for block in self.blocks)

    @property
    def verdict(self) -> str:
        """'right', 'wrong' or 'differs as declared'."""
        if not self:
            return "wrong"
        declared = any(b.verdict == "differs as declared" for b in self.blocks)
        return "differs as declared" if declared or self.excused else "right"

    @property
    def worst(self) -> WorstEntry | None:
        """The worst entry of all blocks: of a wrong one if there is any."""
        blocks = [b for b in self.blocks if b.worst is not None]
        if not blocks:
            return None
        return max(blocks, key=lambda b: (not b.ok, b.error / max(b.tolerance, 1e-300))).worst

    def __str__(self) -> str:
        from jacobians.report.check_text import check_text

        return check_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        from jacobians.report.check_text import check_dict

        return check_dict(self)

    def raise_if_wrong(self) -> None:
        """Raises `WrongDerivativeError` with the report when the rule is wrong."""
        if not self:
            raise WrongDerivativeError(str(self))


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    vjp: Callable[..., Any] | None = None,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    expect: str | Mapping[str, str] | None = None,
    diagnose: bool | float | Budget = True,
) -> VJPCheck:
    """Checks a hand-written derivative, entry by entry, at the given values.

    Args:
        f: a `Gate`; a `jax.custom_vjp` or `jax.custom_jvp` function; any function that calls such
            functions inside; or, with `vjp`, any function.
        args: arrays, pytrees of arrays and Python scalars. Complex arrays are taken as their real
            and imaginary parts.
        vjp: `vjp(cotangent, *args)` returning one cotangent per argument (a tuple; a single
            cotangent for a single argument).
        argnums: the arguments to check; default all with floating-point leaves.
        rtol: tolerance relative to each expected entry, in place of the automatic one.
        atol: absolute tolerance, in place of the automatic one.
        expect: the reason why the rule is meant to differ from the derivative, such as
            `"straight-through: rounding has derivative 0"`; or reasons by input name, where only
            some are meant to. A difference then gives the verdict 'differs as declared'. Shapes,
            dtypes, exceptions, NaN and the value of the forward pass are checked all the same.
        diagnose: for how many seconds of the process's CPU time the cause of a mistake may be
            looked for; True for ten, False not to look for it. Where the time is over, the report
            says "search stopped" and has what was found so far; the verdict stays the same. (A
            `jacobians.diagnose.Budget` is shared by the checks that are given it.)

    Returns:
        The verdict; its truth value says whether the derivative is right, or differs as declared.

    Raises:
        ArgumentError: there is nothing hand-written to check, the arguments do not fit or are
            abstract, `expect` names no input or gives no reason, `diagnose` is no time, or the
            comparison would not fit in memory.
        Exception: whatever `f` itself raises. What the rule raises is a verdict.
    """
    budget = budget_of(diagnose)
    f, args, argnums = without_static(f, args, argnums)
    rule, truth = find_rule(f, vjp)
    if has_complex(truth, args):
        rule, truth, args = in_real_parts(rule, truth, args)
    call = bind(truth, args, argnums)
    for leaf in call.inputs:
        if leaf.value is None and not leaf.static:
            raise ArgumentError(
                f"{leaf.name} is only a shape ({leaf.short_type}); a check needs values"
            )
    dense.check_inputs(call)
    rule = rule.bound(call)
    declared = _declared(expect, call)
    notes = list(dense.no_derivative_notes(call))
    name = function_name(f)
    problems = _form_problems(call, rule)
    if problems:
        given = [(p.kind, p.message) for p in problems]
        found = () if budget is None else diagnose_form(call, rule, given)
        return VJPCheck(name, rule.kind, (), tuple(problems), tuple(notes), found,
                        declared=declared)  # fmt: skip
    oracle = Oracle(call)
    problems += _primal_problems(call, rule, oracle) + _symbolic_problems(call, rule)
    broken = _faults(call, rule, oracle)
    problems += [Problem(x.kind, x.message, x.inputs) for x in broken]
    made = compare(call, rule, oracle, notes)
    if made is None:
        blocks = tuple(_probe_check(call, p) for p in probed(call, rule, oracle, notes))
        results: list[Comparison] = []
    else:
        results = verdicts(made, oracle, rtol, atol)
        notes += [note for note in dict.fromkeys(oracle.notes) if note not in notes]
        note_lost(made, notes)
        note_by_own(made, results, notes)
        problems += [Problem("non-finite", text) for text in nonfinite(call, made, results)]
        blocks = tuple(_block_check(call, e, r) for e, r in zip(made.blocks, results, strict=True))
        _note_single_precision(made, results, notes)
    diagnoses: tuple[Diagnosis, ...] = ()
    if budget is not None:
        faulty = [(p.kind, p.message, p.inputs) for p in problems]
        diagnoses = explanations(call, oracle, made, results, faulty, budget, notes)
    check = VJPCheck(
        name, rule.kind, blocks, tuple(problems), tuple(notes), diagnoses, oracle.how, declared
    )
    return _acknowledged(check) if declared else check


def _declared(expect: str | Mapping[str, str] | None, call: Call) -> Mapping[str, str]:
    """Reasons by input name."""
    if expect is None:
        return {}
    names = [call.inputs[k].name for k in call.selected]
    reasons = dict.fromkeys(names, expect) if isinstance(expect, str) else dict(expect)
    for name, reason in reasons.items():
        if name not in names:
            raise ArgumentError(
                f"expect= names {name!r}, which is not among the inputs that are checked: "
                f"{', '.join(names)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ArgumentError(
                f"expect= needs the reason for the difference in words, got {reason!r}; for "
                'example expect="straight-through: rounding has derivative 0"'
            )
    return reasons


def _acknowledged(check: VJPCheck) -> VJPCheck:
    """The verdict where differences were declared."""
    blocks = tuple(
        replace(b, verdict="differs as declared")
        if b.verdict == "wrong" and b.input in check.declared
        else b
        for b in check.blocks
    )
    covers = ("nonlinear", "ignores-cotangent")
    excused = tuple(
        p for p in check.problems
        if p.kind in covers and p.inputs and set(p.inputs) <= set(check.declared)
    )  # fmt: skip
    left = tuple(p for p in check.problems if p not in excused)
    differing = {b.input for b in blocks if b.verdict == "differs as declared"}
    differing.update(name for p in excused for name in p.inputs)
    notes = list(check.notes)
    for name in check.declared:
        if name not in differing:
            notes.append(
                f"declared to differ with respect to {name}, but it does not at these inputs: "
                "check inputs where it should, or drop expect="
            )
    return replace(check, blocks=blocks, problems=left, excused=excused, notes=tuple(notes))


def _faults(call: Call, rule: Rule, oracle: Oracle) -> tuple[Fault, ...]:
    """Faults of the rule as a linear map, in double precision where it can be evaluated there."""
    names = [call.inputs[k].name for k in call.selected]

    def tested(values: Sequence[Any]) -> tuple[Fault, ...]:
        templates = output_templates(call, values)
        floats = floats_of(call, values)
        eps = max(float(jnp.finfo(t.dtype).eps) for t in templates)
        eps = max(eps, precisions(call, rule, values)[0])
        compiled = jax.jit(lambda given, c: pulled(call, rule, rebuilt(call, values, given), c))

        def plain(c: Sequence[Any]) -> Sequence[Any]:
            return pulled(call, rule, values, c)

        sloping, noisy = rounding_to_first_order(call, rule), rounding(call, rule)

        def noise(c: Sequence[Any]) -> list[Array]:
            try:
                return largest([sloping(values, c, eps, 0.0, numbers) for numbers in drawn()])
            except Exception:
                # JAX cannot differentiate the rule: its rounding is imitated instead
                exact = plain(c)
                moved = [noisy(values, c, eps, seed) for seed in range(len(drawn()))]
                pairs = [zip(m, exact, strict=True) for m in moved]
                return largest([[np.asarray(a) - np.asarray(b) for a, b in p] for p in pairs])

        try:
            zero = [jnp.zeros(t.shape, t.dtype) for t in templates]
            compiled(floats, zero)
        except Exception:
            # what cannot be compiled is called as it is
            return faults(plain, plain, templates, eps, names, noise)
        return faults(lambda c: compiled(floats, list(c)), plain, templates, eps, names, noise)

    with jax.enable_x64(True):
        try:
            return tested(oracle.wide)
        except Exception:
            pass  # the rule is tied to its own precision: tested there, just below
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
        if not np.allclose(np.asarray(alone, np.float64), np.asarray(joint, np.float64),
                           rtol=1e3 * eps, atol=1e3 * eps * size):  # fmt: skip
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
        if found.wide is None or result.wrong.any() or found.narrow_eps > 1e-4:
            continue
        if result.by_own is not None:
            # other numbers, not rounding
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.abs(found.expected)
            off = np.abs(found.narrow - found.wide) / size
        off = off[np.isfinite(off) & (size > 1e-3 * size.max(initial=0.0))]
        worst = max(worst, float(off.max(initial=0.0)))
    if worst > 1e-3:
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
    if not isinstance(shapes, (tuple, list)):
        return [
            Problem(
                "count",
                f"the rule returned {_kind(shapes)}; it has to return a tuple with one cotangent "
                f"for each of the {len(rule.argument_names)} arguments "
                f"({', '.join(rule.argument_names)})",
            )
        ]
    if len(shapes) != len(rule.argument_names):
        plural = "" if len(shapes) == 1 else "s"
        return [
            Problem(
                "count",
                f"the rule returned {len(shapes)} cotangent{plural} for "
                f"{len(rule.argument_names)} arguments ({', '.join(rule.argument_names)}); "
                "return one for each, in order",
            )
        ]
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
    refused = None if problems else rule.refused_by_jax()
    if refused is not None:
        problems.append(Problem("raised", f"JAX itself refuses the rule: {refused}"))
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
            np.concatenate([
                np.asarray(t, np.float64).ravel()
                for t, leaf in zip(jax.jvp(function, chosen, tuple(given))[1], call.outputs,
                                   strict=True)
                if leaf.differentiable
            ])
            for given in (a, b, [2 * x - y for x, y in zip(a, b, strict=True)])
        ]  # fmt: skip
    except Exception:
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
        off = _values_differ(x, y, 1e3 * float(jnp.finfo(leaf.dtype).eps))
        if (off & np.isfinite(x) & np.isfinite(y)).any():
            with np.errstate(invalid="ignore"):
                off &= ~(np.abs(x - y) <= VALUE_NOISE * _value_noise(call, k).reshape(y.shape))
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


def _value_noise(call: Call, output: int) -> Array:
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
    except Exception:
        # JAX cannot differentiate the function: nothing is excused
        return np.zeros(call.outputs[output].size)
    return largest(made)[places.index(output)]


def _agree_in_double(rule: Rule, oracle: Oracle, output: int) -> Array:
    """Where the rule's forward pass and the function agree, in double precision."""
    with jax.enable_x64(True):
        try:
            primal = rule.bound(rule.call.with_values(oracle.wide)).primal
            assert primal is not None
            x = np.asarray(jax.tree.leaves(primal())[output], np.float64)
        except Exception:
            # no double precision: what was seen stands
            return np.zeros(oracle.narrow_outputs[output].shape, bool)
    y = np.asarray(oracle.outputs[output], np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    return np.asarray(finite & ~_values_differ(x, y, 1e-5))


def _block_check(call: Call, found: Entries, result: Comparison) -> BlockCheck:
    output, input_ = call.outputs[found.output], call.inputs[found.input]
    worst, error, allowed = None, 0.0, 0.0
    at = result.at
    if at is not None:
        worst = WorstEntry(
            output.name,
            input_.name,
            _index(int(found.rows[at]), output.shape),
            _index(int(found.columns[at]), input_.shape),
            float(result.nearest[at]),
            float(result.actual[at]),
        )
        error, allowed = float(result.error[at]), float(result.tolerance[at])
    wrong = int(result.wrong.sum())
    kinks = int((result.kink & ~result.wrong).sum())
    shape = prod(output.shape), prod(input_.shape)
    picture = spy(found.rows[result.wrong], found.columns[result.wrong], shape) if wrong else []
    return BlockCheck(
        output.name, input_.name, output.shape, input_.shape, found.count, error, allowed,
        result.source, worst, wrong, kinks,
        "wrong" if wrong else "right (kinks)" if kinks else "right",
        result.precision, tuple(picture), int((result.undefined & ~result.wrong).sum()),
        int((result.singular & ~result.wrong).sum()),
    )  # fmt: skip


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(flat, shape)) if shape else ()


def _probe_check(call: Call, found: Probed) -> BlockCheck:
    """A block that was compared by random cotangents: its entries are columns."""
    output, input_ = call.outputs[found.output], call.inputs[found.input]
    error = np.abs(found.actual - found.expected)
    error = np.where(np.isfinite(error), error, np.inf)
    ratio = (error / found.tolerance).max(axis=0)
    worst, size, allowed = None, 0.0, 0.0
    if ratio.size:
        column = int(np.argmax(np.where(found.wrong, ratio, -1) if found.wrong.any() else ratio))
        probe = int(np.argmax(error[:, column] / found.tolerance[:, column]))
        worst = WorstEntry(
            output.name, input_.name, (), _index(column, input_.shape),
            float(found.expected[probe, column]), float(found.actual[probe, column]),
        )  # fmt: skip
        size, allowed = float(error[probe, column]), float(found.tolerance[probe, column])
    wrong = int(found.wrong.sum())
    return BlockCheck(
        output.name, input_.name, output.shape, input_.shape, len(ratio), size, allowed,
        f"{PROBES} random cotangents, by column of the Jacobian; the worst is a product with one",
        worst, wrong, found.kinks,
        "wrong" if wrong else "right (kinks)" if found.kinks else "right",
    )  # fmt: skip
