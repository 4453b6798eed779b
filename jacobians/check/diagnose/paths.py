"""Hypotheses about the program: a path missing, counted twice, of wrong sign; a value exchanged.

The difference between the rule and the derivative is multiplied by a few random tangents, and so is
the difference that each edit of the program's derivative makes (`edits`). An edit explains the
mistake when the two agree, up to a number where the edit is a path: −1 means that the path is
missing, 1 that it is counted twice, −2 that its sign is wrong.

    explained(case, oracle)
    # [Diagnosis(kind='missing-term', message='the path through `mean` …', fit=1.0, inputs=('x',))]
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jacobians import program
from jacobians.check.diagnose.budget import Budget, OutOfTime
from jacobians.check.diagnose.case import LEFT, NOISE, SHARE, Case, Diagnosis, lengths, scalars
from jacobians.check.diagnose.edits import MAX_SIZE, Edited
from jacobians.check.diagnose.switches import Edge, Setting
from jacobians.check.diagnose.words import Place, ratio_text
from jacobians.program.call import Call

Array = NDArray[Any]

TANGENTS = 4
MAX_PAIRED = 60
MANY = 8
# numbers that a path's factor most likely is
LIKELY = (-1.0, 1.0, -2.0)
# kinds that explain some differences by accident
ACCIDENTAL = (
    "stale-residual",
    "factor",
    "local-derivative",
    "transposed",
    "flipped",
    "mask-source",
)
# which kind of explanation is believed first where several fit
ORDER = (
    "missing-term", "double-term", "sign", "mask-inverted", "mask-missing", "missing-sum",
    "wrong-axis", "mean-for-sum", "factor", "transposed", "flipped", "mask-source",
    "stale-residual", "local-derivative",
)  # fmt: skip


@dataclass(eq=False)
class Programs:
    """The call's program with switches, shared by all its inputs.

    Attributes:
        call: the call.
        wide: values of all its inputs in double precision, where it is taken apart.
        budget: the time that it may take.
    """

    call: Call
    wide: Sequence[Any]
    budget: Budget

    def __post_init__(self) -> None:
        call = self.call
        held = call.with_values(self.wide)
        keep = [k for k, leaf in enumerate(call.outputs) if leaf.differentiable]
        flat = held.flat(call.selected)
        self.values = [jnp.asarray(self.wide[k]) for k in call.selected]
        inner = program.trace(lambda *v: [flat(*v)[k] for k in keep], self.values)
        size = sum(v.size for v in self.values) + sum(call.outputs[k].size for k in keep)
        names = [call.inputs[k].name for k in call.selected]
        small = size <= MAX_SIZE
        self.edited = Edited(inner=inner, names=names, small=small, budget=self.budget)
        self.edited.survey(self.values)
        self.outputs = [prod(call.outputs[k].shape) for k in keep]

    def derivatives(self, settings: Sequence[Setting], number: int, tangents: Array) -> Array:
        """By setting, tangent and output entry, for tangents of one input; see `evaluate`."""
        given = [jnp.zeros((len(tangents), *v.shape), v.dtype) for v in self.values]
        shape = (len(tangents), *self.values[number].shape)
        given[number] = jnp.asarray(tangents.reshape(shape), self.values[number].dtype)
        return self.edited.evaluate(settings, self.values, given)


@dataclass(frozen=True)
class Edit:
    """An edit of the program that explains a difference, and what it means."""

    diagnosis: Diagnosis
    setting: Setting


def explained(case: Case, programs: Programs) -> tuple[list[Edit], list[Edit]]:
    """Edits of the program that explain the wrong cotangent of one input, the best first.

    Args:
        case: the wrong cotangent.
        programs: the program with its switches.

    Returns:
        Those that say most: paths, masks, sums; and exchanged values, which explain some
        differences by accident. What was found so far where the time is over.

    Raises:
        OutOfTime: there was no time to look for any.
    """
    programs.edited.budget = case.budget
    with jax.enable_x64(True):
        return _explained(case, programs)


def _explained(case: Case, programs: Programs) -> tuple[list[Edit], list[Edit]]:
    """The edits as `explained` gives them, where JAX has 64-bit types enabled."""
    number = case.call.selected.index(case.leaf)
    tangents = _tangents(case)
    edited = programs.edited
    paths_of = [Setting(), *(Setting(scales=((e, 0.0),)) for e in range(len(edited.edges)))]
    more = [
        Setting(choices=((c, p),))
        for c, choice in enumerate(edited.choices)
        for p in range(1, len(choice.options))
    ]
    looped = [e for e, edge in enumerate(edited.edges) if edge.looped]
    more += [Setting(scales=((e, s),)) for e in looped for s in (-1.0, 2.0, 0.5)]
    first = len(paths_of)
    if edited.cost < case.budget.left / 2:
        made = programs.derivatives([*paths_of, *more], number, tangents)
    else:
        # what is plain comes first: without the exchanged values it takes a part of the time
        made = programs.derivatives(paths_of, number, tangents)
        try:
            if more and len(made) == first:
                made = np.concatenate([made, programs.derivatives(more, number, tangents)])
        except OutOfTime:
            pass  # noted by the budget, and said in the report
    test = _Test(_products(case, tangents, sum(programs.outputs)), made[0], case, tangents)
    if not test.worth:
        return [], []
    paths = _edges(case, programs, test, made[:first])
    found: list[Edit] = []
    for setting, product in zip(more, made[first:], strict=False):
        fit = test.fit(product)
        if fit >= 1 - LEFT:
            found.append(_of_setting(case, programs, setting, fit))
    try:
        if not paths and all(e.diagnosis.kind in ACCIDENTAL for e in found):
            found += _together(case, programs, test, number, tangents)
        if not found and not paths:
            paths = _pairs(case, programs, test, made[1:first], number, tangents)
    except OutOfTime:
        pass  # noted by the budget, and said in the report
    # many entries do not agree with a transposed or reversed array by accident
    accidental = set(ACCIDENTAL)
    if case.wrong.sum() >= MANY:
        accidental -= {"transposed", "flipped"}
    telling = paths + [e for e in found if e.diagnosis.kind not in accidental]
    rest = [e for e in found if e.diagnosis.kind in accidental]
    for part in (telling, rest):
        part.sort(
            key=lambda e: ORDER.index(e.diagnosis.kind) if e.diagnosis.kind in ORDER else len(ORDER)
        )
    return telling, rest


def _tangents(case: Case) -> Array:
    """Random tangents of an input, zero in columns that cannot be told."""
    generator = np.random.default_rng(7)
    free = np.ones(case.input.size, bool)
    free[case.columns[~case.usable]] = False
    return np.asarray(generator.normal(size=(TANGENTS, case.input.size)) * free)


def refuted(
    edits: Sequence[Edit], programs: Programs, there: Programs, case: Case
) -> tuple[Diagnosis, ...]:
    """Which edits do not explain what the rule says at another point.

    Args:
        edits: edits that do at the given point.
        programs: the program with its switches there.
        there: the same program at the other point.
        case: the cotangent at the other point.
    """
    here = [(edit, _same(edit.setting, programs.edited, there.edited)) for edit in edits]
    known = [(edit, setting) for edit, setting in here if setting is not None]
    if not known:
        return ()
    there.edited.budget = case.budget
    tangents = _tangents(case)
    number = case.call.selected.index(case.leaf)
    with jax.enable_x64(True):
        settings = [Setting(), *(setting for _, setting in known)]
        made = there.derivatives(settings, number, tangents)
    target = _products(case, tangents, sum(there.outputs))
    size = float(np.linalg.norm(made[0]))
    test = _Test(target, made[0], case, tangents)
    return tuple(
        edit.diagnosis
        for (edit, _), product in zip(known, made[1:], strict=False)
        if not (
            test.fit(product) >= 1 - LEFT
            if test.worth
            else float(np.linalg.norm(product - target)) <= LEFT * size
        )
    )


def _same(setting: Setting, one: Edited, other: Edited) -> Setting | None:
    """The switches of another taking apart of the same program, or None where some are missing."""
    choices = []
    for choice, position in setting.choices:
        place = one.choice_at(other, choice)
        texts = [] if place is None else [(o.kind, o.text) for o in other.choices[place].options]
        option = one.choices[choice].options[position]
        if place is None or (option.kind, option.text) not in texts:
            return None
        choices.append((place, texts.index((option.kind, option.text))))
    if len(one.edges) != len(other.edges):
        return None
    return Setting(setting.scales, tuple(choices))


@dataclass(eq=False)
class _Test:
    """The rule's Jacobian times tangents, against predictions of it."""

    target: Array
    base: Array
    case: Case
    tangents: Array

    def __post_init__(self) -> None:
        self.rows = np.isfinite(self.target).all(axis=0) & np.isfinite(self.base).all(axis=0)
        self.off = np.where(self.rows, self.target - self.base, 0.0)
        self.norm = float(np.linalg.norm(self.off))
        size = float(np.linalg.norm(np.where(self.rows, self.base, 0.0)))
        self.worth = self.norm > 1e-9 * size and self.norm > 0

    def effect(self, product: Array) -> Array:
        """What an edit changes."""
        with np.errstate(invalid="ignore"):
            change = np.where(self.rows, product - self.base, 0.0)
        return np.where(np.isfinite(change), change, 0.0)

    def fit(self, product: Array) -> float:
        """How much of the difference a prediction of the rule's products explains."""
        with np.errstate(invalid="ignore"):
            left = np.where(self.rows, self.target - product, 0.0)
        if not np.isfinite(left).all():
            return 0.0
        return self.of_rest(left)

    def of_rest(self, left: Array) -> float:
        """The same for what a prediction leaves; none explains that leaves all of a small row."""
        fit = 1.0 - float(np.linalg.norm(left)) / self.norm
        if (np.abs(left) > NOISE * self.rounding + SHARE * np.abs(self.off)).any():
            return min(fit, 1.0 - 2 * LEFT)
        return fit

    @cached_property
    def rounding(self) -> Array:
        """What rounding may explain of each product."""
        return _products(self.case, np.abs(self.tangents), self.target.shape[1], tolerance=True)


def _products(case: Case, tangents: Array, rows: int, tolerance: bool = False) -> Array:
    """What the rule's Jacobian does to tangents, without columns that cannot be told.

    Or what its entries' tolerance does.
    """
    entries = case.tolerance if tolerance else case.actual
    result = np.zeros((len(tangents), rows))
    keep = case.usable
    for k, t in enumerate(tangents):
        weights = np.where(keep, entries, 0.0) * t[case.columns]
        result[k] = np.bincount(case.rows, weights=weights, minlength=rows)
    return result


def _edges(case: Case, programs: Programs, test: _Test, made: Array) -> list[Edit]:
    """Paths whose effect is a multiple of the difference."""
    edges = programs.edited.edges
    groups: list[tuple[Array, float, float, list[int]]] = []
    for e, product in enumerate(made[1:]):
        path = -test.effect(product)
        size = float(np.vdot(path, path))
        whole = float(np.linalg.norm(np.where(test.rows, test.base, 0.0)))
        if size <= (1e-12 * whole) ** 2:
            continue
        ratio = float(np.vdot(path, test.off)) / size
        fit = test.of_rest(test.off - ratio * path)
        if fit < 1 - LEFT or (edges[e].looped and abs(ratio + 1) > 1e-3):
            continue
        for known, _, _, members in groups:
            if np.allclose(known, path, rtol=1e-6, atol=1e-9 * np.abs(path).max()):
                members.append(e)
                break
        else:
            groups.append((path, ratio, fit, [e]))
    return [
        Edit(
            _of_square(case, edges[members[0]].place, fit)
            if abs(ratio + 1) < 2e-3 and _is_square([edges[e] for e in members])
            else _of_path(case, _best([p for e in members for p in edges[e].places]), ratio, fit),
            Setting(scales=((members[0], 1 + ratio),)),
        )
        for _, ratio, fit, members in groups
    ]


def _is_square(edges: Sequence[Edge]) -> bool:
    """Whether paths of equal effect enter a product by both of its factors."""
    products = [p for edge in edges for p in edge.products]
    return len(products) > len(set(products))


def _of_square(case: Case, place: Place, fit: float) -> Diagnosis:
    """One of two equal paths: the derivative of x·x is 2x."""
    text = f"in the cotangent of {case.name}, the derivative of {place}, which is a square, "
    return Diagnosis("factor", text + "is halved: a factor 2 is missing", fit, (case.name,))


def _best(places: Sequence[Place]) -> Place:
    return max(places, key=lambda p: p.rank)


def _of_path(case: Case, place: Place, ratio: float, fit: float) -> Diagnosis:
    """What it means that the rule has `ratio` times the term of a path more than is right."""
    x = case.name
    if abs(ratio + 1) < 2e-3:
        return Diagnosis(
            "missing-term",
            f"the path through {place} is missing from the cotangent of {x}, as if stop_gradient "
            "had been applied there; add its term",
            fit,
            (x,),
        )
    if abs(ratio - 1) < 2e-3:
        return Diagnosis(
            "double-term",
            f"the path through {place} is counted twice in the cotangent of {x}; drop one of them",
            fit,
            (x,),
        )
    if abs(ratio + 2) < 2e-3:
        return Diagnosis(
            "sign",
            f"the term of the path through {place} has the wrong sign in the cotangent of {x}",
            fit,
            (x,),
        )
    sizes = lengths(case)
    factor = 1.0 + ratio
    kind = "factor"
    text = f"the term of the path through {place} in the cotangent of {x} has a wrong factor: "
    if place.operation == "broadcast" or "mean" in place.name or "sum" in place.name:
        for n, _ in sizes:
            if n > 1 and abs(factor * n - 1) < 2e-4:
                kind = "mean-for-sum"
                text = f"the term of the path through {place} in the cotangent of {x} is averaged "
                text += "where it has to be summed: "
    return Diagnosis(kind, text + ratio_text(factor, sizes, scalars(case)), fit, (x,))


def _of_setting(case: Case, programs: Programs, setting: Setting, fit: float) -> Edit:
    if setting.scales:
        edge, number = setting.scales[0]
        place = programs.edited.edges[edge].place
        return Edit(_of_path(case, place, number - 1.0, fit), setting)
    choice = programs.edited.choices[setting.choices[0][0]]
    option = choice.options[setting.choices[0][1]]
    text = f"in the cotangent of {case.name}, {option.text.replace('{place}', str(choice.place))}"
    return Edit(Diagnosis(option.kind, text, fit, (case.name,)), setting)


def _together(
    case: Case, programs: Programs, test: _Test, number: int, tangents: Array
) -> list[Edit]:
    """The same exchange at several places: one wrong value that is used more than once."""
    by_text: dict[str, list[tuple[int, int]]] = {}
    for c, choice in enumerate(programs.edited.choices):
        for p, option in enumerate(choice.options[1:], 1):
            key = option.kind + option.text.replace("{place}", "")
            by_text.setdefault(key, []).append((c, p))
            by_text.setdefault(f"{key} {choice.place}", []).append((c, p))
    chosen = dict.fromkeys(tuple(v) for v in by_text.values() if len({c for c, _ in v}) > 1)
    joint = [Setting(choices=v) for v in chosen]
    if not joint:
        return []
    products = programs.derivatives(joint, number, tangents)
    found = []
    for setting, product in zip(joint, products, strict=False):
        fit = test.fit(product)
        if fit >= 1 - LEFT:
            found.append(_of_setting(case, programs, setting, fit))
    return found


def _pairs(
    case: Case, programs: Programs, test: _Test, made: Array, number: int, tangents: Array
) -> list[Edit]:
    """Two paths, each missing, counted twice or of wrong sign."""
    edges = programs.edited.edges
    paths: list[tuple[int, Array]] = []
    for e, product in enumerate(made):
        path = -test.effect(product)
        if np.linalg.norm(path) <= 1e-9 * test.norm or edges[e].looped:
            continue
        if any(np.allclose(path, q, rtol=1e-6, atol=1e-9 * np.abs(path).max()) for _, q in paths):
            continue
        paths.append((e, path))
    pairs: list[tuple[int, float, int, float]] = []
    for (e, path), (f, other) in itertools.combinations(paths[:MAX_PAIRED], 2):
        case.budget.check()
        for a, b in itertools.product(LIKELY, LIKELY):
            if float(np.linalg.norm(test.off - a * path - b * other)) <= LEFT * test.norm:
                pairs.append((e, a, f, b))
    settings = [Setting(scales=((e, 1 + a), (f, 1 + b))) for e, a, f, b in pairs[:MAX_PAIRED]]
    if not settings:
        return []
    found = []
    products = programs.derivatives(settings, number, tangents)
    for (e, a, f, b), setting, product in zip(pairs, settings, products, strict=False):
        fit = test.fit(product)
        if fit >= 1 - LEFT:
            diagnosis = _of_pair(case, edges[e].place, a, edges[f].place, b, fit)
            found.append(Edit(diagnosis, setting))
    return found


def _of_pair(case: Case, one: Place, a: float, two: Place, b: float, fit: float) -> Diagnosis:
    words = {-1.0: "is missing", 1.0: "is counted twice", -2.0: "has the wrong sign"}
    kinds = {-1.0: "missing-term", 1.0: "double-term", -2.0: "sign"}
    if a == b == -1.0:
        text = f"the paths through {one} and through {two} are both missing from the cotangent of "
        text += f"{case.name}, as if stop_gradient had been applied there; add their terms"
    else:
        text = f"in the cotangent of {case.name} the path through {one} {words[a]}, and that "
        text += f"through {two} {words[b]}"
    return Diagnosis(kinds[a], text, fit, (case.name,))


def scaled(case: Case, programs: Programs) -> list[Diagnosis]:
    """The right cotangent times, or divided by, a value that the program computes."""
    found = []
    x = case.name
    outputs = {case.call.outputs[e.output].shape for e, _ in case.parts}
    targets = [(case.input.shape, case.columns)]
    if len(outputs) == 1 and len(case.parts) == 1:
        targets.append((outputs.pop(), case.rows))
    seen: set[bytes] = set()
    for candidate in programs.edited.recorded:
        value = np.asarray(candidate.value)
        if value.dtype.kind != "f" or value.size < 2 or value.tobytes() in seen:
            continue
        seen.add(value.tobytes())
        for shape, places in targets:
            for more in range(len(shape) - value.ndim + 1):
                try:
                    spread = np.broadcast_to(value.reshape(value.shape + (1,) * more), shape)
                except ValueError:
                    continue
                by = spread.ravel()[places]
                for power, text in (
                    (1, "multiplied by {v} once too often, or a division by it is missing"),
                    (-1, "divided by {v} once too often, or a factor of it is missing"),
                    (2, "multiplied by {v} squared once too often, or a division by it is missing"),
                    (-2, "divided by {v} squared once too often, or a factor of it is missing"),
                ):
                    with np.errstate(all="ignore"):
                        fit = case.fit(case.expected * by**power)
                    if case.explains(fit):
                        words = text.replace("{v}", candidate.name)
                        found.append(
                            Diagnosis("factor", f"the cotangent of {x} is {words}", fit, (x,))
                        )
    return found[:1]
