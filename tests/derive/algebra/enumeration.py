"""Terms and coefficients by brute force: every index vector, one after another.

An oracle of the algebra: it knows nothing of normal forms, and is as slow as it is plain.
"""

import itertools
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from jacobians.derive.algebra.affine import Affine, linear
from jacobians.derive.algebra.coefficient import Coefficient, Factor, Product
from jacobians.derive.algebra.term import Term, relation_variables

Arrays = Mapping[int, np.ndarray[Any, Any]]


def value(e: Affine, at: Mapping[int, int]) -> int:
    """An affine expression where every variable has a value."""
    return e.const + sum(c * at[v] for v, c in e.terms)


def product_value(product: Product, at: Mapping[int, int], arrays: Arrays) -> float:
    """A product where every variable has a value."""
    factors = (float(arrays[f.value][tuple(value(e, at) for e in f.at)]) for f in product.factors)
    return product.scale * prod(factors)


def vectors(sizes: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Every integer vector of a box."""
    for values in itertools.product(*(range(n) for n in sizes.values())):
        yield dict(zip(sizes, values, strict=True))


def satisfies(term: Term, at: Mapping[int, int]) -> bool:
    """Whether an index vector meets the conditions of a term."""
    return all(value(e, at) == 0 for e in term.zeros) and all(
        value(e, at) >= 0 for e in term.bounds
    )


def index_vectors(term: Term) -> list[dict[int, int]]:
    """The vectors of the relation's variables that meet the conditions."""
    sizes = {v: term.sizes[v] for v in relation_variables(term)}
    return [at for at in vectors(sizes) if satisfies(term, at)]


def matrix(
    term: Term | None, out_shape: tuple[int, ...], in_shape: tuple[int, ...], arrays: Arrays
) -> np.ndarray[Any, Any]:
    """What a term adds to the flattened matrix of a block.

    Each product is summed over its own variables; one that no index of it depends on counts how
    often the relation repeats an entry.
    """
    result = np.zeros((*out_shape, *in_shape))
    if term is None:
        return result.reshape(prod(out_shape), prod(in_shape))
    assert term.coefficient.products is not None
    of_relation = set(relation_variables(term))
    for at in index_vectors(term):
        place = tuple(value(e, at) for e in (*term.out, *term.inp))
        for product in term.coefficient.products:
            own = {
                v: term.sizes[v]
                for f in product.factors
                for e in f.at
                for v, _ in e.terms
                if v not in of_relation
            }
            for more in vectors(own):
                result[place] += product_value(product, {**at, **more}, arrays)
    return result.reshape(prod(out_shape), prod(in_shape))


def random_affine(
    generator: np.random.Generator, variables: list[int], largest: int = 2, terms: int = 2
) -> Affine:
    """An expression of a few of the variables."""
    chosen = generator.permutation(variables)[: generator.integers(0, terms + 1)]
    pairs = [(int(v), int(generator.integers(-largest, largest + 1))) for v in chosen]
    return linear(pairs, int(generator.integers(-largest, largest + 1)))


def random_coefficient(
    generator: np.random.Generator, sizes: Mapping[int, int], arrays: dict[int, Any]
) -> Coefficient:
    """A sum of one or two products; the arrays that it needs are added to `arrays`."""
    products = []
    for _ in range(generator.integers(1, 3)):
        factors = []
        for _ in range(generator.integers(0, 3)):
            rank = int(generator.integers(1, 3))
            axes = [int(v) for v in generator.choice(list(sizes), rank)] if sizes else []
            number = 100 + len(arrays)
            arrays[number] = generator.integers(-3, 4, [sizes[v] for v in axes]).astype(float)
            factors.append(Factor(number, tuple(linear([(v, 1)]) for v in axes)))
        scale = float(generator.integers(1, 4))
        products.append(Product(scale, tuple(sorted(factors))))
    return Coefficient(tuple(products))
