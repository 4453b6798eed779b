"""Mistakes that show in the form of a rule's result: shapes exchanged, transposed, not summed."""

from collections.abc import Sequence

import numpy as np

from jacobians.check.diagnose.case import Diagnosis
from jacobians.check.rule import Rule
from jacobians.program.call import Call


def diagnose_form(
    call: Call, rule: Rule, problems: Sequence[tuple[str, str]]
) -> tuple[Diagnosis, ...]:
    """What faults of form most likely mean.

    Args:
        call: the call.
        rule: the rule, bound to it.
        problems: kind and message of each fault.

    Returns:
        One or more diagnoses; a fault that says all there is to say is its own.
    """
    del call
    if not any(kind == "shape" for kind, _ in problems):
        return tuple(Diagnosis(kind, message) for kind, message in problems)
    made = rule.raw_cotangents()
    given: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, leaf, piece in rule.expected_cotangents(made):
        if piece is not None and not isinstance(piece, str):
            given[name] = (tuple(np.shape(piece)), leaf.shape)
    wrong = {name: pair for name, pair in given.items() if pair[0] != pair[1]}
    found: list[Diagnosis] = []
    told: set[str] = set()
    names = list(wrong)
    for k, a in enumerate(names):
        for b in names[k + 1 :]:
            if wrong[a][0] == wrong[b][1] and wrong[b][0] == wrong[a][1]:
                text = f"the cotangents of {a} and {b} are swapped: each has the other's shape; "
                found.append(
                    Diagnosis(
                        "swapped", text + "return them in the order of the arguments", 1.0, (a, b)
                    )
                )
                told.update((a, b))
    for name, (mine, right) in wrong.items():
        if name not in told:
            found.append(_one(name, mine, right))
    others = [(kind, message) for kind, message in problems if kind != "shape"]
    return tuple(found) + tuple(Diagnosis(kind, message) for kind, message in others)


def _one(name: str, mine: tuple[int, ...], right: tuple[int, ...]) -> Diagnosis:
    """What is wrong with a cotangent of one shape where another is right."""
    head = f"the cotangent of {name} has shape {list(mine)} where {name} has {list(right)}: "
    if mine == right[::-1]:
        return Diagnosis("transposed", head + "it is transposed", 1.0, (name,))
    if sorted(mine) == sorted(right):
        return Diagnosis("transposed", head + "its axes are in another order", 1.0, (name,))
    try:
        stretched = np.broadcast_shapes(mine, right) == mine
    except ValueError:
        stretched = False
    if stretched:
        ahead = len(mine) - len(right)
        axes = [*range(ahead), *(ahead + k for k, n in enumerate(right) if n != mine[ahead + k])]
        which = ", ".join(str(a) for a in axes)
        keep = ", keepdims=True" if not ahead else ""
        return Diagnosis(
            "missing-sum",
            head + f"the sum over the broadcast axes is missing; .sum(axis=({which},){keep})",
            1.0,
            (name,),
        )
    if int(np.prod(mine)) == int(np.prod(right)):
        return Diagnosis("shape", head + "reshape it", 1.0, (name,))
    return Diagnosis("shape", head + "they must be equal", 1.0, (name,))
