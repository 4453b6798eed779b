"""How far off an entry of a rule may be, and why: every tolerance of a verdict, by its name.

An entry is right where it differs from the derivative by no more than it is allowed. An allowance
is one function of `Grounds`, what is known of the entries of a block: its docstring gives the
reason, its body the formula, and the constant beside it says where it comes from. None is a share
of anything but the entry itself, its own row and column: a large neighbour excuses nothing.

`AT_ONCE` lists the allowances that cost nothing; they are added up. `MEASURED` lists those for
which rounding is measured, from the least to the most doubtful; each is looked at only for entries
that are off by more than the ones before explain, and the largest counts. At kinks and at singular
points it is the right value that is not known exactly, and what is allowed for that stands last.

    >>> known = Grounds(SINGLE, size=np.array([2.0, 0.0]), unit=np.ones(2))
    >>> at_once(known)
    array([2.00000000e-05, 1.17549435e-34])
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jacobians.check.arrays import Array, Bools


@dataclass(frozen=True)
class Precision:
    """The precision of a comparison.

    Attributes:
        eps: its unit roundoff: of the inputs', or of the coarsest number inside of a program.
    """

    eps: float

    @property
    def is_double(self) -> bool:
        """Whether it is float64; no format is between that and single precision."""
        return self.eps < 1e-12

    @property
    def is_coarse(self) -> bool:
        """Whether it is one of the half precisions, of which rounding alone tells little."""
        return self.eps > 1e-4

    @property
    def tiny(self) -> float:
        """The least normal number of float64, or of float32 for all others."""
        return float(np.finfo(float if self.is_double else np.float32).tiny)

    @property
    def name(self) -> str:
        """The name of the format, 'its own' of one that NumPy does not know."""
        names = {-52: "float64", -23: "float32", -10: "float16", -7: "bfloat16"}
        return names.get(round(float(np.log2(self.eps))), "its own")


DOUBLE = Precision(float(np.finfo(np.float64).eps))
SINGLE = Precision(float(np.finfo(np.float32).eps))


def no_rounding(left: Bools) -> Array:
    """Rounding where none has been measured: it moves no entry."""
    return np.zeros(len(left))


@dataclass(frozen=True, eq=False)
class Grounds:
    """What allowances are computed from: the entries of one block, in one precision.

    Attributes:
        precision: the precision.
        size: of each entry's derivative; 0 where that is not finite.
        unit: size of the output entry divided by that of the input entry.
        bar: error bar of the derivative where it is taken by finite differences, or None.
        confirmed: whether the rule has been found right in double precision.
        of_derivative: how far one rounding per operation moves the derivative at chosen entries.
        of_rule: the same for what the rule says.
        imitated: how far the rule really moves when every operation's result is moved at random.
    """

    precision: Precision
    size: Array
    unit: Array
    bar: Array | None = None
    confirmed: bool = False
    of_derivative: Callable[[Bools], Array] = no_rounding
    of_rule: Callable[[Bools], Array] = no_rounding
    imitated: Callable[[Bools], Array] = no_rounding


Allowance = Callable[[Grounds], Array]
MeasuredAllowance = Callable[[Grounds, Bools], Array]


def asked_for(size: Array, rtol: float | None, atol: float | None) -> Array | None:
    """What the caller allows, in place of everything else here: atol + rtol·|J|; None if nothing.

    The caller knows what the rule is for.
    """
    if rtol is None and atol is None:
        return None
    return np.asarray((atol or 0.0) + (rtol or 0.0) * size)


# a rule may write its constants with six digits, 0.398942 for 1/√(2π) and the like; in single
# precision it is 84 roundings, more than the few dozen operations of a formula leave
SHARE = 1e-5
# few, because eight roundings are already 6 % of an entry in bfloat16, and 0.8 % in float16
COARSE_ROUNDINGS = 8.0


def share_of_itself(known: Grounds) -> Array:
    """Digits that no one would miss: 1e-5·|J|; in half precision 8·ε·|J|.

    A mistake in a formula is a factor, a term or an index, and moves the entry by far more.
    """
    share = COARSE_ROUNDINGS * known.precision.eps if known.precision.is_coarse else SHARE
    return np.asarray(share * known.size)


# numbers below the least normal one lose digits or vanish; a factor of 1e4 is left for what they
# are multiplied with on the way to the entry
UNDERFLOWS = 1e4


def underflow(known: Grounds) -> Array:
    """Numbers too small to be held: 1e4 times the least normal number."""
    return np.full(len(known.size), UNDERFLOWS * known.precision.tiny)


# a floor beneath the bar: sixteen roundings of the output over a move as large as the input itself.
# The steps of the differences are 5 % of it and less, so that they tell nothing finer
DIFFERENCE_ROUNDINGS = 16.0


def error_bar(known: Grounds) -> Array:
    """What finite differences cannot tell: their error bar, and 16·ε·|y|/|x|, 0 without them.

    The bar is that of Richardson's table, which a chance agreement of its entries makes too small.
    """
    if known.bar is None:
        return np.zeros(len(known.size))
    return np.asarray(known.bar + DIFFERENCE_ROUNDINGS * known.precision.eps * known.unit)


AT_ONCE: tuple[Allowance, ...] = (share_of_itself, underflow, error_bar)


def at_once(known: Grounds) -> Array:
    """The sum of all that costs nothing, by entry."""
    return np.asarray(sum(allowance(known) for allowance in AT_ONCE))


# the measure is the largest of four draws in which every operation is off by up to one rounding.
# Measured on sums of 4 to 1000 normal numbers that cancel, added one by one in 2000 random orders
# each: off by 0 to 1.3 times that in the median, by up to 9.05 times at worst; products of 3 to 30
# factors in random orders by up to 1.2 times
ROUNDINGS = 10.0
# half precision leaves so few digits that a factor or a sign would pass for ten times its rounding;
# of the sums above, those of up to 30 numbers stay below 4
COARSE_MEASURED = 4.0


def rounding_of_derivative(known: Grounds, left: Bools) -> Array:
    """What the derivative itself is rounded by where terms cancel: 10 times its rounding, or 4.

    Where 1e12·x is added and taken away, an exact zero is as right as what float64 leaves.
    """
    return np.asarray(measured_factor(known.precision) * known.of_derivative(left))


def rounding_of_rule(known: Grounds, left: Bools) -> Array:
    """What the rule's own terms are rounded by: 10 times its rounding, or 4.

    A right formula may add up larger terms than the function's derivative does: p·(r − Σ p·r)
    cancels where exp(log p)·… does not.
    """
    return np.asarray(measured_factor(known.precision) * known.of_rule(left))


# a rule not known to be right may not excuse more of an entry with its own instability
UNCONFIRMED_SHARE = 0.1


def imitated_rounding(known: Grounds, left: Bools) -> Array:
    """What a slope does not show, in single precision: 10 times the rule's real moves.

    Rounding flips a comparison, or is amplified twice. A rule that moves by itself would excuse
    any value: no more than a tenth of the entry, unless double precision has found the rule right.
    In double precision that is no excuse, and in half precision everything moves.
    """
    if known.precision.is_double or known.precision.is_coarse:
        return np.zeros(len(known.size))
    with np.errstate(over="ignore"):
        moves = ROUNDINGS * known.imitated(left)
    return moves if known.confirmed else np.minimum(moves, UNCONFIRMED_SHARE * known.size)


def measured_factor(precision: Precision) -> float:
    """How many times the measured rounding is allowed."""
    return COARSE_MEASURED if precision.is_coarse else ROUNDINGS


MEASURED: tuple[MeasuredAllowance, ...] = (
    rounding_of_derivative,
    rounding_of_rule,
    imitated_rounding,
)


def measured(known: Grounds, error: Array, tolerance: Array, wrong: Bools) -> Array:
    """The largest measured allowance, by entry; 0 where nothing is wrong.

    Args:
        known: the entries.
        error: how far off each is.
        tolerance: what is allowed at once.
        wrong: which look wrong; what is infinitely far off is not measured.
    """
    explained = np.zeros(len(error))
    left = wrong & np.isfinite(error)
    for allowance in MEASURED:
        if left.any():
            more = np.maximum(explained, allowance(known, left))
            explained = np.where(left, more, explained)
            left = left & (error > tolerance + explained)
    return np.asarray(np.where(wrong, explained, 0.0))


def rounding_of_both(known: Grounds, left: Bools) -> Array:
    """What the rule and JAX's derivative are rounded by, both in the inputs' own precision.

    Ten times the sum, neither being the truth: where random numbers are drawn without a dtype,
    double precision knows nothing of the numbers that the rule has multiplied with.
    """
    return np.asarray(ROUNDINGS * (known.of_rule(left) + known.of_derivative(left)))


# derivatives at a step of 1e-7 of the input are this close to their limit, unless the function
# bends a hundred times faster than its input changes
BESIDE_SHARE = 1e-5


def beside(size: Array) -> Array:
    """What derivatives beside a kink are off by from those at it: 1e-5 of the larger one."""
    return np.asarray(BESIDE_SHARE * size)


def blur(low: Array, high: Array, nowhere: Bools) -> Array:
    """All between the derivatives beside a point where the function itself is NaN or infinite.

    Beside 0/0 they are mostly rounding, and their spread says how much.
    """
    return np.where(nowhere, high - low, 0.0)


# quotients at steps that differ by 8 agree to about 1e-4 where roots and logarithms slow them down
LIMIT_SHARE = 1e-4


def of_limits(size: Array, bar: Array) -> Array:
    """What limits of difference quotients are off by: their bar, and 1e-4 of the larger one."""
    return np.asarray(bar + LIMIT_SHARE * size)


# to call an entry wrong although JAX says the same takes more than to doubt one
SURE_BARS, SURE_SHARE = 10.0, 1e-3
SURE_BESIDE_SHARE = 1e-2


def doubt_of_limits(size: Array, bar: Array) -> Array:
    """What limits of quotients must differ by to disprove JAX: ten bars, and 1e-3 of the entry."""
    return np.asarray(SURE_BARS * bar + SURE_SHARE * size)


def doubt_beside(size: Array) -> Array:
    """What derivatives beside the point must differ by as well to disprove JAX: 1 % of the entry.

    They are at one step only, where a function may still bend.
    """
    return np.asarray(SURE_BESIDE_SHARE * size)


# the last number before infinity is reached by rounding
LARGEST_SHARE = 0.999


def overflow(expected: Array, actual: Array, largest: float) -> Bools:
    """Which entries may be infinite: those of at least 0.999 of the largest number, of its sign."""
    with np.errstate(invalid="ignore"):
        return np.asarray(
            (np.abs(expected) >= LARGEST_SHARE * largest) & (np.sign(expected) * actual == np.inf)
        )
