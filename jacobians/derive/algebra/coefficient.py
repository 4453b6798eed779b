"""Coefficients: sums of products of named values of the program, indexed by affine expressions.

A factor `(value, index)` stands for one entry of an array that the program computes, an input or
an intermediate, or of the elementwise local derivative of one operation. The array itself is not
here, only its number in the tape of the walk; it can be looked up when there are numbers.

    Σ_h  2.0 · v7[i, h] · v9[h]      Product(2.0, (Factor(7, (i, h)), Factor(9, (h,))))

A coefficient whose formula has been given up is *opaque*: `products` is None. What it depends on
is always known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isfinite
from typing import NamedTuple

from jacobians.derive.algebra.affine import Affine, substitute

MAX_PRODUCTS = 6
MAX_FACTORS = 12


class Factor(NamedTuple):
    """The entry of tape value number `value` at the index `at`, one expression per axis."""

    value: int
    at: tuple[Affine, ...]


class Product(NamedTuple):
    """`scale` times the product of `factors`; whether `scale` is known up to rounding only."""

    scale: float
    factors: tuple[Factor, ...]
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A sum of products, or opaque (`products` None).

    Attributes:
        products: the summands, or None when no formula is kept.
        depends: numbers of the program's inputs that the coefficient's value depends on.
    """

    products: tuple[Product, ...] | None
    depends: frozenset[int] = frozenset()


ONE = Coefficient((Product(1.0, ()),))
OPAQUE = Coefficient(None)


def opaque(depends: frozenset[int]) -> Coefficient:
    """A coefficient without a formula."""
    return Coefficient(None, depends) if depends else OPAQUE


def multiply(a: Coefficient, b: Coefficient) -> Coefficient:
    """The product of two coefficients; opaque when either is, or when it would grow too long."""
    if a is ONE:
        return b
    if b is ONE:
        return a
    depends = a.depends | b.depends
    if a.products is None or b.products is None:
        return opaque(depends)
    if len(a.products) * len(b.products) > MAX_PRODUCTS:
        return opaque(depends)
    products = []
    for p in a.products:
        for q in b.products:
            if len(p.factors) + len(q.factors) > MAX_FACTORS:
                return opaque(depends)
            scale = p.scale * q.scale
            if scale and not TINY <= abs(scale) <= HUGE:
                return opaque(depends)
            rounded = p.rounded or q.rounded or not is_product(scale, p.scale, q.scale)
            products.append(Product(scale, tuple(sorted(p.factors + q.factors)), rounded))
    return Coefficient(tuple(products), depends)


def add(a: Coefficient, b: Coefficient, hidden: Callable[[int], bool]) -> Coefficient | None:
    """The sum of two coefficients over the same index variables.

    Args:
        a: the first summand.
        b: the second summand.
        hidden: says which variables belong to one product alone (they are summed over).

    Returns:
        The sum, or None when the summands cancel exactly.
    """
    depends = a.depends | b.depends
    if a.products is None or b.products is None:
        return opaque(depends)
    total: dict[tuple[Factor, ...], Product] = {}
    for product in a.products + b.products:
        key = _hidden_key(product.factors, hidden)
        if key in total:
            first = total[key]
            scale = first.scale + product.scale
            exact = _is_sum(scale, first.scale, product.scale)
            rounded = first.rounded or product.rounded or not exact
            total[key] = Product(scale, first.factors, rounded)
        else:
            total[key] = product
    products = tuple(p for p in total.values() if p.scale != 0.0 or p.rounded)
    if not products:
        return None
    # numbers that only round to opposite ones do not cancel; what is left of them no formula says
    if len(products) > MAX_PRODUCTS or any(p.scale == 0.0 for p in products):
        return opaque(depends)
    return Coefficient(products, depends)


def rename(c: Coefficient, replacement: Mapping[int, Affine]) -> Coefficient:
    """The coefficient with index variables replaced."""
    if c.products is None or not replacement or c is ONE:
        return c
    return Coefficient(
        tuple(
            Product(
                p.scale,
                tuple(
                    sorted(
                        Factor(f.value, tuple(substitute(e, replacement) for e in f.at))
                        for f in p.factors
                    )
                ),
                p.rounded,
            )
            for p in c.products
        ),
        c.depends,
    )


def variables(c: Coefficient) -> set[int]:
    """Every index variable that occurs in the coefficient."""
    if c.products is None:
        return set()
    return {v for p in c.products for f in p.factors for e in f.at for v, _ in e.terms}


def is_product(product: float, a: float, b: float) -> bool:
    """Whether a product of two floats is the same in every type that is computed in.

    0.1 · 3 is rounded, 0.5 · 3 is not; 2⁻¹⁰⁰ · 2⁻¹⁰⁰ is nothing in some types.
    """
    if not (isfinite(product) and isfinite(a) and isfinite(b)):
        return False
    if abs(a) in (0.0, 1.0) or abs(b) in (0.0, 1.0):
        return True
    exact = Fraction(a) * Fraction(b) == Fraction(product) and _is_no_longer(product, a, b)
    return exact and all(SMALLEST <= abs(x) <= LARGEST for x in (a, b, product))


def repeated(product: Product, times: int) -> Product:
    """The sum of so many times the same product, added in whatever order.

    3 · 0.1 may be rounded, 3 · 0.5 is not; of 0.1 + 0.1 + … every step may be.
    """
    if times == 1:
        return product
    total, scale = product.scale * times, product.scale
    added = times == 2 or _steps(scale) * times <= 1 << ADDED_BITS
    exact = isfinite(total) and added and _is_no_longer(total, scale, scale)
    return product._replace(scale=total, rounded=product.rounded or not exact)


# significant bits of the shortest floating type that numbers are computed in, bfloat16, and of the
# shortest one that sums are added up in
SHORTEST_BITS = 8
ADDED_BITS = 24
# the range of the type of the fewest exponents, float16, in which no bits are lost
SMALLEST, LARGEST = 2.0**-14, 2.0**15
# the range of single precision: what leaves it on the way is 0 or infinite there
TINY, HUGE = 2.0**-126, 2.0**127


def narrowed(c: Coefficient, bits: int, smallest: float, largest: float) -> Coefficient:
    """The coefficient after a conversion to a narrower type, which rounds what does not fit.

    x·(257/256) in eight bits is x or x·(258/256): numbers that are rounded do not cancel.

    Args:
        c: a coefficient.
        bits: significant bits of the narrower type.
        smallest: its least number with that many bits.
        largest: its greatest power of two.
    """

    def fits(p: Product) -> bool:
        size = abs(p.scale)
        whole = _steps(p.scale).bit_length() <= bits
        return not p.factors and whole and (size == 0.0 or smallest <= size <= largest)

    if c.products is None or all(p.rounded or fits(p) for p in c.products):
        return c
    return replace(
        c, products=tuple(p._replace(rounded=p.rounded or not fits(p)) for p in c.products)
    )


def _steps(x: float) -> int:
    """The size of a float in units of its last nonzero bit: 3 of 0.75."""
    numerator = abs(Fraction(x).numerator)
    return numerator // (numerator & -numerator) if numerator else 0


def _is_no_longer(result: float, a: float, b: float) -> bool:
    """Whether a result has no more significant bits than its operands or than any type has."""
    longest = max(_steps(a).bit_length(), _steps(b).bit_length(), SHORTEST_BITS)
    return _steps(result).bit_length() <= longest


def _is_sum(total: float, a: float, b: float) -> bool:
    """Whether a sum of two floats is the same in every type that holds both."""
    if not (isfinite(total) and isfinite(a) and isfinite(b)):
        return False
    if total == 0.0:
        return True
    return Fraction(a) + Fraction(b) == Fraction(total) and _is_no_longer(total, a, b)


def _hidden_key(factors: tuple[Factor, ...], hidden: Callable[[int], bool]) -> tuple[Factor, ...]:
    """The factors with their own summation variables numbered by first occurrence."""
    order: dict[int, Affine] = {}
    for f in factors:
        for e in f.at:
            for v, _ in e.terms:
                if v not in order and hidden(v):
                    order[v] = Affine(0, ((-1 - len(order), 1),))
    if not order:
        return factors
    renamed = (Factor(f.value, tuple(substitute(e, order) for e in f.at)) for f in factors)
    return tuple(sorted(renamed))
