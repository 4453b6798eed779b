"""Every allowance of a verdict from both sides: a little less is right, a little more is wrong."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.check import allowances, kinks
from jacobians.check.allowances import DOUBLE, SINGLE, Grounds, Precision
from jacobians.check.compare import JUMP, leaps
from jacobians.check.entries import Entries
from jacobians.check.trial import Trial

HALF, BRAIN = (
    Precision(float(jnp.finfo(jnp.float16).eps)),
    Precision(float(jnp.finfo(jnp.bfloat16).eps)),
)
TINY, SINGLE_TINY = float(np.finfo(float).tiny), float(np.finfo(np.float32).tiny)
LITTLE = 1e-6


def grounds(precision=DOUBLE, size=0.0, unit=0.0, bar=None, confirmed=False, **moves):
    """One entry; `moves` are what rounding moves it by."""
    return Grounds(
        precision,
        size=np.array([size]),
        unit=np.array([unit]),
        bar=None if bar is None else np.array([bar]),
        confirmed=confirmed,
        **{name: lambda left, move=move: np.full(len(left), move) for name, move in moves.items()},
    )


def accepts(known, error):
    """Whether an entry that is off by so much is right."""
    error = np.array([error])
    tolerance = allowances.at_once(known)
    explained = allowances.measured(known, error, tolerance, error > tolerance)
    return bool((error <= tolerance + explained).all())


# what is allowed of one entry, by the allowance that decides
ALLOWED = {
    "a share of itself": (grounds(size=2.0), 2e-5),
    "a share of itself in single precision": (grounds(SINGLE, size=2.0), 2e-5),
    "eight roundings of itself in float16": (grounds(HALF, size=2.0), 16 * HALF.eps),
    "eight roundings of itself in bfloat16": (grounds(BRAIN, size=2.0), 16 * BRAIN.eps),
    "underflow": (grounds(), 1e4 * TINY),
    "underflow in single precision": (grounds(SINGLE), 1e4 * SINGLE_TINY),
    "underflow in half precision": (grounds(HALF), 1e4 * SINGLE_TINY),
    "the bar of differences": (grounds(unit=3.0, bar=1e-15), 1e-15 + 48 * DOUBLE.eps),
    "rounding of the derivative": (grounds(of_derivative=1e-9), 1e-8),
    "rounding of the derivative in half precision": (grounds(HALF, of_derivative=0.1), 0.4),
    "rounding of the rule": (grounds(of_rule=1e-9), 1e-8),
    "rounding of the rule in half precision": (grounds(HALF, of_rule=0.1), 0.4),
    "the larger rounding": (grounds(of_derivative=1e-9, of_rule=3e-9), 3e-8),
    "the larger rounding, of the derivative": (grounds(of_derivative=3e-9, of_rule=1e-9), 3e-8),
    "imitated rounding of a rule known to be right": (
        grounds(SINGLE, size=1.0, imitated=0.5, confirmed=True), 5.0 + 1e-5,
    ),
    "imitated rounding": (grounds(SINGLE, size=1.0, imitated=1e-3), 1e-2 + 1e-5),
    "no more than a tenth of imitated rounding": (
        grounds(SINGLE, size=1.0, imitated=0.5), 0.1 + 1e-5,
    ),
    "no imitated rounding in double precision": (
        grounds(size=1.0, imitated=0.5, confirmed=True), 1e-5,
    ),
    "no imitated rounding in half precision": (
        grounds(HALF, size=1.0, imitated=0.5, confirmed=True), 8 * HALF.eps,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_an_entry_may_be_off_by_what_is_allowed_and_by_no_more(name):
    known, allowed = ALLOWED[name]
    assert accepts(known, (1 - LITTLE) * allowed)
    assert not accepts(known, (1 + LITTLE) * allowed)


def test_a_large_neighbour_excuses_nothing():
    known = Grounds(DOUBLE, size=np.array([1e30, 0.0]), unit=np.ones(2))
    allowed = allowances.at_once(known)
    assert allowed[0] == 1e25
    assert allowed[1] < 1e-300


def test_rounding_is_measured_only_where_what_comes_before_explains_nothing():
    looked = []

    def moves(name, moved):
        def by(left):
            looked.append((name, left.tolist()))
            return np.array(moved)

        return by

    known = Grounds(
        SINGLE,
        size=np.zeros(4),
        unit=np.zeros(4),
        of_derivative=moves("derivative", [1.0, 0.0, 0.0, 0.0]),
        of_rule=moves("rule", [9.0, 1.0, 0.0, 9.0]),
        imitated=moves("imitated", [9.0, 9.0, 9.0, 9.0]),
    )
    error, wrong = np.array([5.0, 5.0, 5.0, np.inf]), np.ones(4, bool)
    explained = allowances.measured(known, error, np.zeros(4), wrong)
    assert looked == [
        ("derivative", [True, True, True, False]),
        ("rule", [False, True, True, False]),
        ("imitated", [False, False, True, False]),
    ]
    # what a rule not known to be right imitates is a share of the entry, which is 0
    assert explained.tolist() == [10.0, 10.0, 0.0, 0.0]


def test_what_is_right_is_not_measured():
    def never(left):
        raise AssertionError("measured")

    known = Grounds(DOUBLE, size=np.ones(2), unit=np.ones(2), of_derivative=never, of_rule=never)
    none = np.zeros(2)
    assert not allowances.measured(known, none, none, np.zeros(2, bool)).any()


def test_both_roundings_count_where_neither_side_is_the_truth():
    known = grounds(SINGLE, of_derivative=1e-3, of_rule=2e-3)
    assert allowances.rounding_of_both(known, np.ones(1, bool)) == pytest.approx(3e-2)


@pytest.mark.parametrize(
    ("rtol", "atol", "allowed"), [(0.1, None, 0.2), (None, 0.3, 0.3), (0.1, 0.3, 0.5)]
)
def test_the_callers_tolerance_takes_the_place_of_all_others(rtol, atol, allowed):
    for share, wrong in ((1 - LITTLE, False), (1 + LITTLE, True)):
        found = trial([2.0], [2.0 + share * allowed], noise=9.0).comparison(rtol, atol)
        assert found.wrong.tolist() == [wrong]
        assert found.source == "as given by rtol and atol"


def test_a_share_of_an_infinite_derivative_allows_nothing():
    size = trial([np.inf, 1.0], [0.0, 1.0]).entries.size
    assert allowances.asked_for(size, 0.1, None).tolist() == [0.0, 0.1]
    assert allowances.asked_for(size, None, None) is None


@pytest.mark.parametrize(
    ("precision", "name", "double", "coarse"),
    [
        (DOUBLE, "float64", True, False),
        (SINGLE, "float32", False, False),
        (HALF, "float16", False, True),
        (BRAIN, "bfloat16", False, True),
    ],
)
def test_every_format_is_double_single_or_coarse(precision, name, double, coarse):
    assert (precision.name, precision.is_double, precision.is_coarse) == (name, double, coarse)
    assert precision.tiny == (TINY if double else SINGLE_TINY)


def trial(expected, actual, noise=0.0, leap=0.0):
    """A block of one row in double precision; the derivative of all entries is moved by noise."""
    n = len(expected)
    no, zeros = np.zeros(n, bool), np.zeros(n)
    oracle = SimpleNamespace(
        call=SimpleNamespace(selected=(0,), inputs=[SimpleNamespace(size=n)]),
        how="forward mode",
        wide=[zeros],
        plain=None,
        compiled=None,
        noise=lambda *_: [np.full(1, noise)],
    )
    sides = SimpleNamespace(column_colours=lambda _: None, rule_noise=lambda *_: zeros)
    entries = Entries(
        output=0, input=0, place=0, count=n, inside=~no, rows=np.zeros(n, int),
        columns=np.arange(n), expected=np.array(expected), bar=None, leap=np.full(n, leap),
        wide=np.array(actual), narrow=np.array(actual), wide_eps=DOUBLE.eps, narrow_eps=DOUBLE.eps,
        unit=zeros, nowhere=no, lost=no, backward=None,
    )  # fmt: skip
    return Trial(entries, oracle, sides, np.array(actual), DOUBLE, "float64")


def test_a_comparison_says_which_entries_are_wrong_and_what_their_tolerance_is():
    exact, near, off = 1.0, 1.0 + 0.9e-5, 1.0 + 1.1e-5
    result = trial([1.0, 1.0, 1.0], [exact, near, off]).comparison(None, None)
    assert result.wrong.tolist() == [False, False, True]
    assert result.source == "float64 rounding of the entry itself"
    result = trial([1.0, 1.0, 1.0], [exact, near, off], noise=1e-6).comparison(None, None)
    assert not result.wrong.any()
    assert result.source.endswith("and what rounding moves it by, measured")
    assert result.tolerance.tolist() == pytest.approx([1e-5, 1e-5, 2e-5])


KINK = np.repeat([0.0, 1.0], 5)[:, None]


def judged(value, samples=KINK, expected=0.0, tolerance=1e-3, slope=0.0, nowhere=False):
    """The verdict on one value beside samples of the derivative."""
    return kinks.judge(
        np.array([value]),
        samples,
        np.array([slope]),
        np.array([expected]),
        np.array([tolerance]),
        np.array([nowhere]),
    )


def test_between_one_sided_derivatives_and_a_little_beyond_is_right():
    allowed = 1e-3 + 1e-5
    for value in (0.0, 0.5, -(1 - LITTLE) * allowed, 1 + (1 - LITTLE) * allowed):
        assert not judged(value).wrong.any()
    for value in (-(1 + LITTLE) * allowed, 1 + (1 + LITTLE) * allowed, np.nan):
        found = judged(value)
        assert found.wrong.all()
        assert found.kink.all() == np.isfinite(value)


def test_beside_a_place_without_a_value_all_that_derivatives_spread_over_is_right():
    allowed = 1.0 + 1e-3 + 1e-5
    assert not judged(1 + (1 - LITTLE) * allowed, nowhere=True, expected=np.nan).wrong.any()
    assert judged(1 + (1 + LITTLE) * allowed, nowhere=True, expected=np.nan).wrong.all()


@pytest.mark.parametrize(
    ("slope", "jumps"), [(2e5 * (1 - LITTLE), False), (2e5 * (1 + LITTLE), True)]
)
def test_nan_is_right_where_the_function_jumps(slope, jumps):
    flat = np.full((10, 1), 1e3)
    found = judged(np.nan, flat, expected=np.nan, slope=slope, tolerance=1e-3)
    assert found.undefined.tolist() == [jumps]


def limits(left, right, bar=0.0, reached=0.0):
    """The limits of one entry's quotients."""
    return kinks.Limits(*(np.array([v]) for v in (left, right, bar, reached, 1.0)))


def by_limits(value, there, expected=np.nan, settled=False):
    """The verdict of limits on one value that looks wrong."""
    no = np.zeros(1, bool)
    first = kinks.Verdicts(~no, no, no, no, np.ones(1), np.array([expected]))
    return kinks.by_limits(
        first, np.array([value]), there, np.array([expected]), np.array([1e-3]), np.array([settled])
    )


def test_limits_are_known_to_their_bar_and_to_a_share():
    allowed = 1e-3 + 1e-2 + 2e-4
    there = limits(1.0, 2.0, bar=1e-2)
    assert not by_limits(2 + (1 - LITTLE) * allowed, there).wrong.any()
    assert by_limits(2 + (1 + LITTLE) * allowed, there).wrong.all()
    # JAX's derivatives there and beside being finite, quotients are not asked
    assert by_limits(1.5, there, expected=1.0, settled=True).wrong.all()


def test_any_number_is_right_where_quotients_grow_to_one_infinity_and_no_other():
    for value, wrong in ((7.0, False), (np.inf, False), (-np.inf, True), (np.nan, True)):
        found = by_limits(value, limits(np.inf, np.inf, reached=1e6))
        assert found.wrong.tolist() == [wrong]
        assert found.singular.tolist() == [not wrong]


@pytest.mark.parametrize(("expected", "wrong"), [(0.49e6, False), (0.5e6, True)])
def test_a_steep_place_whose_derivative_quotients_reach_is_not_singular(expected, wrong):
    found = by_limits(7.0, limits(np.inf, np.inf, reached=1e6), expected=expected)
    assert found.wrong.tolist() == [wrong]


def test_what_jax_says_too_is_wrong_only_far_from_what_quotients_leave():
    tolerance, bar = 1e-3, 1e-4
    size = 2.1
    there = limits(1.0, 2.0, bar=bar)
    doubt = tolerance + 10 * bar
    # the value itself is the largest, and 1e-3 of it counts
    edge = (2.0 + doubt) / (1 - 1e-3)
    assert edge < size
    for value, wrong in ((edge - LITTLE, False), (edge + LITTLE, True)):
        found, nearest = kinks.disproved(np.array([value]), there, np.array([tolerance]))
        assert found.tolist() == [wrong]
        assert nearest == pytest.approx(2.0)
    # quotients that are known to less than a thousandth disprove nothing
    coarse = limits(1.0, 2.0, bar=1.01e-2)
    assert not kinks.disproved(np.array([9.0]), coarse, np.array([tolerance]))[0].any()


@pytest.mark.parametrize(("beside", "wrong"), [(1 - 0.99e-2, False), (1 - 1.01e-2, True)])
def test_derivatives_beside_the_point_have_to_disprove_jax_as_well(monkeypatch, beside, wrong):
    samples = kinks.Samples([np.full((1, 10, 1), beside)], [np.zeros((1, 1))], np.ones(1))
    monkeypatch.setattr(kinks, "one_sided", lambda *_: samples)
    monkeypatch.setattr(
        kinks, "limits", lambda *_: [SimpleNamespace(at=lambda *_: limits(0.5, 0.5))]
    )
    found = trial([1.0], [1.0], leap=1.0).comparison(0.0, None)
    assert found.wrong.tolist() == [wrong]
    assert found.nearest.tolist() == [0.5 if wrong else 1.0]


def test_only_the_last_number_before_infinity_may_overflow():
    largest = 65504.0
    expected = np.array([0.9991, 0.9989, -0.9991, -0.9991, 2.0, np.nan]) * largest
    actual = np.array([np.inf, np.inf, -np.inf, np.inf, largest, np.inf])
    found = allowances.overflow(expected, actual, largest)
    assert found.tolist() == [True, False, True, False, False, False]


def test_a_derivative_leaps_that_changes_beside_the_point_by_a_thousandth():
    expected = np.array([1.0, 1.0, 0.0, np.inf, np.nan])
    beside = np.array([1 - 1.01 * JUMP, 1 - 0.99 * JUMP, 1e-30, 1.0, np.nan])
    assert leaps(expected, beside).tolist() == pytest.approx([1.01e-3, 0.0, 1e-30, np.inf, 0.0])
