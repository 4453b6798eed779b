"""Numbers for terms: coefficients looked up on the tape and put where the relation says.

`matrices = term_values(derivation, values)`
`matrices[0, 1]`: ∂output 0/∂input 1 as an m×n array
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacobians.derive.algebra import coefficient as coefficients
from jacobians.derive.algebra.block import Terms
from jacobians.derive.algebra.coefficient import Product
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import Term, relation_variables
from jacobians.derive.call import CallDerivation
from jacobians.derive.tape import Tape, evaluate_tape

MAX_VISITS = 1 << 22
MAX_ENTRIES = 1 << 24


def term_values(
    derivation: CallDerivation, values: Sequence[Any]
) -> Mapping[tuple[int, int], NDArray[Any]]:
    """The matrix of every block that has a formula, at values of the inputs.

    Args:
        derivation: the derivation of a call.
        values: one value per input leaf of the call.

    Returns:
        By (output position, input position); blocks with an opaque coefficient or too many index
        vectors are absent.
    """
    call = derivation.call
    chosen: dict[tuple[int, int], Terms] = {}
    for o, leaf in enumerate(call.outputs):
        for k in call.selected:
            terms = derivation.terms(o, k)
            small = leaf.size * call.inputs[k].size <= MAX_ENTRIES
            if small and leaf.differentiable and computable(terms):
                chosen[o, k] = terms
    wanted = sorted({v for terms in chosen.values() for t in terms for v in tape_values(t)})
    given = {derivation.number(k): np.asarray(values[k]) for k in derivation.traced}
    arrays = evaluate_tape(derivation.tape, given, wanted)
    return {
        (o, k): block_matrix(
            terms, call.outputs[o].shape, call.inputs[k].shape, arrays, derivation.tape
        )
        for (o, k), terms in chosen.items()
    }


def computable(terms: Terms) -> bool:
    """Whether every coefficient has a formula and there are not too many index vectors."""
    return all(
        t.coefficient.products is not None
        and sum(_visits(t, p) for p in t.coefficient.products) <= MAX_VISITS
        for t in terms
    )


def tape_values(term: Term) -> set[int]:
    """Numbers of the tape values in a term's coefficient."""
    return {f.value for p in term.coefficient.products or () for f in p.factors}


def block_matrix(
    terms: Terms,
    out_shape: tuple[int, ...],
    in_shape: tuple[int, ...],
    arrays: Mapping[int, NDArray[Any]],
    tape: Tape,
) -> NDArray[Any]:
    """The m×n matrix of terms whose coefficients all have a formula."""
    matrix = np.zeros((prod(out_shape), prod(in_shape)))
    for t in terms:
        for p in t.coefficient.products or ():
            found = points(t, _own(t, p))
            values = np.full(found.count, p.scale)
            off = np.zeros(found.count, dtype=bool)
            for f in p.factors:
                part = np.asarray(arrays[f.value])[tuple(found.value(e) for e in f.at)]
                function = tape.values[f.value].function
                if function is not None and function.selects:
                    # what is not selected does not count, be it infinite
                    off |= part == 0
                with np.errstate(all="ignore"):
                    values = values * part
            values = np.where(off, 0.0, values)
            rows, columns = found.flat(t.out, out_shape), found.flat(t.inp, in_shape)
            np.add.at(matrix, (rows, columns), values)
    return matrix


def _own(term: Term, product: Product) -> list[int]:
    """The variables that a product sums over by itself."""
    relation = set(relation_variables(term))
    single = coefficients.Coefficient((product,))
    return sorted(coefficients.variables(single) - relation)


def _visits(term: Term, product: Product) -> int:
    return grid_size(term) * prod(term.sizes[v] for v in _own(term, product))
