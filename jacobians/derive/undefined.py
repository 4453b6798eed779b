"""Results without a derivative, where nothing may be cut, and terms without any entry.

Where a program makes 0·∞ of its own constants the derivative is NaN, and no mask makes it 0.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from jacobians.derive.algebra import entries
from jacobians.derive.algebra.block import Terms, limited, union, wide
from jacobians.derive.algebra.normal import normal, pattern_only
from jacobians.derive.algebra.points import grid_size, points
from jacobians.derive.algebra.term import Term
from jacobians.derive.facts.certain import undefined
from jacobians.derive.facts.masks import conditions, restrict
from jacobians.derive.walk import Walk


def add_undefined(
    walk: Walk, outputs: Sequence[int], again: Callable[[Walk], Sequence[int]]
) -> None:
    """Takes back what was cut from results that have no derivative.

    Where a program makes 0·∞ or ∞ − ∞ of its own constants, the derivative is NaN, and an entry
    that a mask or a 0 has cut is not 0. There the pattern is what the operations read, uncut.

    Args:
        walk: a finished walk, whose blocks are completed.
        outputs: tape numbers of the results.
        again: makes the same walk from an empty one; the numbers of its results there.
    """
    masks = {k: undefined(walk.tape, k) for k in dict.fromkeys(outputs) if walk.has_derivative(k)}
    masks = {k: mask for k, mask in masks.items() if mask is not None}
    if not masks:
        return
    uncut = Walk(walk.inside, keep_rules=walk.keep_rules)
    uncut.tape.cutting = False
    uncut_numbers = dict(zip(outputs, again(uncut), strict=True))
    sources = [k for k, found in walk.blocks.items() if k in found]
    for number, mask in masks.items():
        shape, blocks = walk.shape(number), dict(walk.blocks.get(number, {}))
        flowing = uncut.blocks.get(uncut_numbers[number], {})
        # where nothing flows and JAX still has NaN, as in exp(∞ − ∞) of what has been overwritten
        untouched = mask & ~_reached_rows(flowing.values(), shape)
        depends = walk.tape.values[number].depends
        for source in sources:
            had, in_shape = blocks.get(source, ()), walk.shape(source)
            rows = [restricted(term, mask) for term in flowing.get(source, ())]
            own = walk.tape.values[source].depends
            if not own or own & depends:
                rows.append(restricted(wide(shape, in_shape, (), depends), untouched))
            both = limited(union([*had, *(t for t in rows if t is not None)]), shape, in_shape)
            if not _same_entries(had, both, shape, in_shape):
                blocks[source] = both
                walk.note(UNDEFINED)
        if blocks:
            walk.blocks[number] = blocks


def without_empty(terms: Terms) -> Terms:
    """Terms but for those whose conditions no index vector meets, as far as listing tells."""
    return tuple(t for t in terms if not _is_empty(t))


def _is_empty(term: Term) -> bool:
    if not term.guards and not term.zeros and len(term.bounds) < 2:
        return False
    plain = pattern_only(term)
    return grid_size(plain) <= MAX_EMPTY and points(plain).count == 0


# index vectors looked at to tell whether a term has any that meets its conditions
MAX_EMPTY = 1 << 16
UNDEFINED = (
    "where the program makes an infinite derivative or NaN of its own constants (0·∞, ∞ − ∞), "
    "nothing is proved to be zero by a mask"
)

# entries listed to tell whether two patterns are the same
MAX_COMPARED = 1 << 20


def restricted(term: Term, mask: Any) -> Term | None:
    """A term where a known mask of the output is true; None where it is nowhere."""
    extra = conditions(mask, term.out)
    return None if extra is None else normal(restrict(term, extra))


def _reached_rows(blocks: Iterable[Terms], shape: tuple[int, ...]) -> Any:
    """Which entries of a result some term of its blocks reaches, none where that is too long."""
    reached = np.zeros(prod(shape), bool)
    for term in (pattern_only(t) for terms in blocks for t in terms):
        if grid_size(term) <= MAX_COMPARED:
            reached[points(term).flat(term.out, shape)] = True
    return reached.reshape(shape)


def _same_entries(
    a: Terms, b: Terms, out_shape: tuple[int, ...], in_shape: tuple[int, ...]
) -> bool:
    """Whether two sums of terms have the same pattern; False where that takes too long to tell."""
    listed = [entries.coordinates(terms, out_shape, in_shape, MAX_COMPARED) for terms in (a, b)]
    if listed[0] is None or listed[1] is None:
        return False
    return all(np.array_equal(x, y) for x, y in zip(listed[0], listed[1], strict=True))
