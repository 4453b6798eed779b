"""What rounding explains where terms cancel, and that NaN is right where there is no derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobians
from jacobians.check.summands import Terms
from tests.fuzz_verdicts import findings

# verdicts only: the search for what a mistake is takes longer than finding it
check_vjp = functools.partial(jacobians.check_vjp, diagnose=False)

ZEROS = np.zeros((2, 5), np.float32)
LOGITS = np.array([[0.3, -1.2, 2.0, 0.7, 0.1], [3.0, 0.0, 0.0, -2.0, 1.5]], np.float32)


def kl(p, q):
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def kl_vjp(c, p, q):
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    weights, ratio = jnp.exp(log_p), log_p - log_q
    mean = jnp.sum(weights * ratio, -1, keepdims=True)
    return c[:, None] * weights * (ratio - mean), c[:, None] * (jnp.exp(log_q) - weights)


def exact_zeros(c, p, q):
    return jnp.zeros_like(p), jnp.zeros_like(q)


def noisy_zeros(c, p, q):
    third = jnp.asarray(1.0, p.dtype) / 3
    none = jnp.full_like(p, (third + third + third) - 3 * third + 0.1 * jnp.finfo(p.dtype).eps)
    return c[:, None] * none, -c[:, None] * none


def off_by(size):
    return lambda c, p, q: (kl_vjp(c, p, q)[0] + size * c[:, None], kl_vjp(c, p, q)[1])


@pytest.mark.parametrize("rule", [kl_vjp, exact_zeros, noisy_zeros], ids=lambda r: r.__name__)
@pytest.mark.parametrize("at", [ZEROS, LOGITS], ids=["zeros", "equal"])
def test_rounding_of_terms_that_cancel_to_zero_is_no_mistake(rule, at):
    check = check_vjp(kl, at, at, vjp=rule)
    assert check, str(check)
    assert check.verdict == "right"


def test_more_than_rounding_is_wrong_where_terms_cancel():
    with jax.enable_x64(True):
        # the constant would be float32 otherwise, and the rule single precision
        at = LOGITS.astype(np.float64)
        check = check_vjp(kl, at, at, vjp=off_by(1e-12))
    assert not check
    assert [b.ok for b in check.blocks] == [False, True]


def test_only_what_is_wrong_counts_beside_rounding():
    def rule(c, p, q):
        return jnp.zeros_like(p).at[0, 3].set(1e-3 * c[0]), jnp.zeros_like(q)

    check = check_vjp(kl, ZEROS, ZEROS, vjp=rule)
    assert [b.wrong for b in check.blocks] == [1, 0]
    assert check.worst.input_index == (0, 3)


@pytest.mark.parametrize("size", [1e-30, 1e-12])
def test_where_nothing_cancels_the_least_excess_over_zero_is_wrong(size):
    relu = lambda x: jnp.maximum(x, 0)  # noqa: E731
    with jax.enable_x64(True):
        x = jnp.array([-1.0, -2.0])
        assert check_vjp(relu, x, vjp=lambda c, x: (0 * c,))
        assert not check_vjp(relu, x, vjp=lambda c, x: (size * c,))


def test_a_derivative_that_is_zero_everywhere_may_be_exactly_zero():
    def f(x):
        return jnp.sum((x - x.mean()) / jnp.std(x))

    for mean in (0.0, 1e3):
        x = np.array([0.1, 0.7, -0.4, 2.0, 0.3], np.float32) + np.float32(mean)
        check = check_vjp(f, x, vjp=lambda c, x: (jnp.zeros_like(x),))
        assert check, str(check)
        assert not check_vjp(f, x, vjp=lambda c, x: (jnp.full_like(x, 1e-6) * c,))


@pytest.mark.parametrize("factor", [1.1, 0.0])
def test_a_factor_is_found_behind_terms_that_cancel(factor):
    def f(x):
        return (1e12 * x + jnp.sin(x)) - 1e12 * x

    with jax.enable_x64(True):
        x = jnp.array([0.3, 1.0])
        assert check_vjp(f, x, vjp=lambda c, x: (c * jnp.cos(x),))
        assert not check_vjp(f, x, vjp=lambda c, x: (factor * c * jnp.cos(x),))


def test_terms_are_as_large_as_what_cancels():
    def f(x):
        return 1e6 * x - 1e6 * x, jnp.maximum(x, 0.0), x[::-1]

    with jax.enable_x64(True):
        terms = Terms(f, [np.array([-1.0, -3.0])])
        cancelled, dead, reversed_ = terms.noise(0, np.array([1]), eps=1.0)
    assert cancelled[0] == 0
    assert 1e5 < cancelled[1] < 2e6
    assert (dead == 0).all()
    assert 0.1 < reversed_[0] < 2
    assert reversed_[1] == 0


def cosine(x, y):
    lengths = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
    return jnp.sum(x * y, -1) / lengths


def safe_cosine(x, y):
    square = lambda v: jnp.maximum(jnp.sum(v * v, -1), 1e-8)  # noqa: E731
    return jnp.sum(x * y, -1) / jnp.sqrt(square(x) * square(y))


def cosine_vjp(c, x, y):
    n, m = (jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y))
    s, c = jnp.sum(x * y, -1, keepdims=True) / (n * m), c[:, None]
    return c * (y / (n * m) - s * x / n**2), c * (x / (n * m) - s * y / m**2)


def guarded(c, x, y):
    return tuple(jnp.nan_to_num(v) for v in cosine_vjp(c, x, y))


X = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0], [0.3, 0.2, 0.1]], np.float32)
Y = np.array([[1.0, 0.5, -1.0], [1.0, 2.0, 3.0], [0.3, -0.2, 0.1]], np.float32)


@pytest.mark.parametrize("rule", [cosine_vjp, guarded], ids=lambda r: r.__name__)
def test_a_row_without_a_derivative_is_not_judged(rule):
    check = check_vjp(cosine, X, Y, vjp=rule)
    assert check, str(check)
    if rule is cosine_vjp:
        assert [b.undefined for b in check.blocks] == [9, 9]
        assert "9 entries not judged" in str(check)
        assert check.to_dict()["blocks"][0]["undefined"] == 9


def test_nan_is_wrong_where_the_function_is_written_safely():
    check = check_vjp(safe_cosine, X, Y, vjp=cosine_vjp)
    assert not check
    assert [p.kind for p in check.problems] == ["non-finite"]
    assert "where the derivative is finite" in check.problems[0].message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, g: g.at[0].multiply(1.01),
        lambda x, g: g.at[2].set(jnp.nan),
        lambda x, g: jnp.where(jnp.isfinite(g), g, 5.0),
        lambda x, g: jnp.full_like(g, jnp.nan),
    ],
    ids=["factor", "NaN in another row", "a number out of nothing", "NaN everywhere"],
)
def test_a_row_without_a_derivative_hides_nothing_else(spoil):
    def rule(c, x, y):
        one, other = cosine_vjp(c, x, y)
        return spoil(x, one), other

    assert not check_vjp(cosine, X, Y, vjp=rule)


def test_nan_that_jax_makes_too_is_wrong_where_there_is_a_derivative():
    def safe_root(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    def rule(c, x):
        return (c * jnp.where(x > 0, 1.0, 0.0) * 0.5 / jnp.sqrt(x),)

    assert not check_vjp(safe_root, np.array([-1.0, 4.0], np.float32), vjp=rule)


def test_the_norm_of_a_row_of_zeros_may_spread_nan_as_jax_does():
    def rule(c, x):
        return (c[:, None] * x / jnp.linalg.norm(x, axis=-1, keepdims=True),)

    lengths = lambda x: jnp.linalg.norm(x, axis=-1)  # noqa: E731
    assert check_vjp(lengths, X, vjp=rule)
    assert not check_vjp(lengths, X, vjp=lambda c, x: (2 * rule(c, x)[0],))


def test_the_root_at_zero_is_infinite_on_both_sides():
    x = np.array([0.0, 4.0, 1.0], np.float32)
    assert check_vjp(jnp.sqrt, x, vjp=lambda c, x: (0.5 * c / jnp.sqrt(x),))
    assert not check_vjp(jnp.sqrt, x, vjp=lambda c, x: (c / jnp.sqrt(x),))


def test_overflow_of_the_function_or_of_its_derivative_is_not_the_rules():
    half = jnp.array([2.0, -200.0], jnp.float16)
    check = check_vjp(lambda x: x**3, half, vjp=lambda c, x: (3 * x**2 * c,))
    assert check, str(check)
    assert any("judged in float64 only" in note for note in check.notes)
    assert not check_vjp(lambda x: x**3, half, vjp=lambda c, x: (-3 * x**2 * c,))

    single = np.array([100.0, 1.0], np.float32)
    assert check_vjp(jnp.exp, single, vjp=lambda c, x: (c * jnp.exp(x),))
    assert not check_vjp(jnp.exp, single, vjp=lambda c, x: (c * (1 + x),))

    def unit(x):
        return x / jnp.linalg.norm(x)

    def unit_vjp(c, x):
        n = jnp.linalg.norm(x)
        return ((c - x / n * jnp.sum(c * x / n)) / n,)

    # the squares overflow, and the rule divides by infinity
    large = np.array([1e25, 1.0], np.float32)
    root = lambda x, y: jnp.sqrt(x * x + y * y)  # noqa: E731
    assert check_vjp(
        root, large, large, vjp=lambda c, x, y: (c * x / root(x, y), c * y / root(x, y))
    )

    # the squares underflow in float32, and the function itself is 0/0
    assert check_vjp(unit, np.array([1e-30, 2e-30], np.float32), vjp=unit_vjp)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_overflow_of_the_rule_alone_is_its_mistake(dtype):
    def rule(c, x):
        return (c * jnp.exp(x) / (1 + jnp.exp(x)) ** 2,)

    check = check_vjp(jax.nn.sigmoid, jnp.array([100.0, 0.5], dtype), vjp=rule)
    assert [p.kind for p in check.problems] == ["non-finite"]
    assert "the inputs' own precision" in check.problems[0].message


def test_a_stable_rule_of_a_function_that_overflows_is_right():
    f = lambda x: jnp.log(jnp.sum(jnp.exp(x)))  # noqa: E731
    x = np.array([1000.0, 999.0, 0.0], np.float32)
    assert check_vjp(f, x, vjp=lambda c, x: (c * jax.nn.softmax(x),))


def test_the_angle_at_the_origin_has_no_derivative():
    def rule(c, y, x):
        return c * x / (x * x + y * y), -c * y / (x * x + y * y)

    y, x = np.array([0.0, 1.0], np.float32), np.array([0.0, 2.0], np.float32)
    assert check_vjp(jnp.arctan2, y, x, vjp=rule)
    assert not check_vjp(jnp.arctan2, y, x, vjp=lambda c, y, x: rule(c, y, x)[::-1])


def test_wrong_entries_do_not_hide_behind_a_large_one():
    factors = np.array([1.5, 1.001, 0.0, 1.0], np.float32)
    x = np.array([-25.0, -26.0, -30.0, 20.0], np.float32)
    check = check_vjp(jnp.exp, x, vjp=lambda c, x: (factors * c * jnp.exp(x),))
    assert [b.wrong for b in check.blocks] == [3]
    assert check.worst.input_index != (3,)
    assert check.blocks[0].tolerance < 1e-15


ROWS, COLUMNS = 10.0 ** np.array([30.0, -30.0, 0.0]), 10.0 ** np.array([-30.0, 0.0, 30.0])


def mixed(x):
    """Entries that cancel and entries that do not, the sum of a centred array among them."""
    y = jnp.tanh(x)
    return jnp.stack([y[0] * y[1] - y[2], jnp.sum(x - x.mean()), jax.nn.logsumexp(x)])


@pytest.mark.parametrize("double", [True, False])
def test_scaled_rows_and_columns_change_no_verdict(double):
    def f(y):
        return ROWS.astype(y.dtype) * mixed(COLUMNS.astype(y.dtype) * y)

    def vjp(c, y, wrong=1.0):
        x = COLUMNS.astype(y.dtype) * y
        t, s = jnp.tanh(x), jax.nn.softmax(x)
        d = 1 - t * t
        first = jnp.stack([t[1] * d[0], t[0] * d[1] * wrong, -d[2]])
        c = c * ROWS.astype(y.dtype)
        return ((c[0] * first + c[2] * s) * COLUMNS.astype(y.dtype),)

    dtype = np.float64 if double else np.float32
    with jax.enable_x64(double):
        y = (np.array([0.3, -0.7, 0.5]) / COLUMNS).astype(dtype)
        right = check_vjp(f, y, vjp=vjp)
        assert right, str(right)
        wrong = check_vjp(f, y, vjp=lambda c, y: vjp(c, y, 1.001))
    assert wrong.blocks[0].wrong == 1
    assert (wrong.worst.output_index, wrong.worst.input_index) == ((0,), (1,))


def test_a_sum_that_cancels_may_be_bracketed_otherwise():
    numbers = np.random.default_rng(0).normal(size=200)

    def f(x):
        return (numbers * x[0]).sum() - (numbers[::-1] * x[0]).sum() + 1e-9 * x[1]

    with jax.enable_x64(True):
        x = jnp.array([2.0, 1.0])
        assert check_vjp(f, x, vjp=lambda c, x: (c * jnp.array([1e-15, 1e-9]),))
        check = check_vjp(f, x, vjp=lambda c, x: (c * jnp.array([1e-9, 1.001e-9]),))
    assert check.blocks[0].wrong == 2


def test_kinks_that_cancel_are_none():
    def f(x):
        ways = (
            jnp.maximum(x, 0) - jnp.abs(x) / 2,
            jnp.where(x > 0, x, 0) - jnp.abs(x) / 2,
            jnp.clip(x, 0, 1) - jnp.where(x >= 0, x, -x) / 2,
        )
        return jnp.stack(ways)

    x = np.array([0.0, 0.5, -2.0], np.float32)
    assert check_vjp(f, x, vjp=lambda c, x: (0.5 * c.sum(0),))
    check = check_vjp(f, x, vjp=lambda c, x: (jnp.where(x == 0, 0.0, 0.5) * c.sum(0),))
    assert [b.wrong for b in check.blocks] == [3]
    assert (check.worst.expected, check.worst.actual) == (0.5, 0.0)


# function, point, slope elsewhere, values right at a kink, right by convention or infinite, wrong
SINGULAR = {
    "the arc sine of a clipped number": (
        lambda x: jnp.arcsin(jnp.clip(x, -1, 1)), 1.0, lambda x: 1 / jnp.sqrt(1 - x * x),
        (0.0, 1e9), (), (-1.0, -np.inf),
    ),
    "x log x": (
        lambda x: jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1.0)), 0.0), 0.0,
        lambda x: jnp.log(x) + 1, (-np.inf, -1e3), (), (0.5, np.inf),
    ),
    "a root": (
        jnp.sqrt, 0.0, lambda x: 0.5 / jnp.sqrt(x), (), (0.0, 7.0), (-np.inf, np.nan),
    ),
    "an arc cosine": (
        jnp.arccos, 1.0, lambda x: -1 / jnp.sqrt(1 - x * x), (), (0.0, 7.0), (np.inf, np.nan),
    ),
    "x log x where it ends": (
        lambda x: jax.scipy.special.xlogy(x, x), 0.0, lambda x: jnp.log(x) + 1,
        (), (-np.inf, 3.0), (np.inf,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGULAR)
def test_infinite_sides_and_points_without_a_finite_derivative(name):
    f, point, slope, kinks, conventions, wrong = SINGULAR[name]
    values = np.array([*kinks, *conventions, *wrong, 0.0], np.float32)
    x = np.full(len(values), point, np.float32)
    x[-1] = 0.3

    def rule(c, x):
        there = x == point
        return (c * jnp.where(there, values, slope(jnp.where(there, 0.3, x))),)

    (block,) = check_vjp(f, x, vjp=rule).blocks
    assert (block.kinks, block.singular, block.wrong) == (
        len(kinks), len(conventions), len(wrong),
    )  # fmt: skip


def test_a_steep_place_is_neither_singular_nor_a_kink():
    def f(x):
        return jnp.stack([jnp.sqrt(x[0] + 1e-20), x[1] * jnp.exp(-((1e12 * x[1]) ** 2))])

    with jax.enable_x64(True):
        x = jnp.zeros(2)
        right = jnp.array([5e9, 1.0])
        assert check_vjp(f, x, vjp=lambda c, x: (c * right,))
        check = check_vjp(f, x, vjp=lambda c, x: (1.01 * c * right,))
    assert (check.blocks[0].wrong, check.blocks[0].singular) == (2, 0)


def test_a_convention_is_said():
    check = check_vjp(jnp.sqrt, np.float32(0), vjp=lambda c, x: (0 * c,))
    assert check
    assert "1 entry is singular here" in str(check)
    assert check.to_dict()["blocks"][0]["singular"] == 1


def test_the_value_shown_is_the_derivative_where_jax_has_nan():
    def distance(a):
        b = jnp.maximum(a, 0.0)
        return jnp.minimum(jnp.max(a), 0.0) + jnp.sqrt(jnp.sum(b * b))

    x = np.array([-1.0, -2.0], np.float32)
    assert check_vjp(distance, x, vjp=lambda c, a: (c * jnp.array([1.0, 0.0]),))
    check = check_vjp(distance, x, vjp=lambda c, a: (c * jnp.array([5.0, 0.0]),))
    assert (check.worst.expected, check.worst.actual) == (1.0, 5.0)


def test_a_batched_rule_is_judged_in_double_precision():
    @jax.custom_jvp
    def f(x):
        return jnp.sum(jnp.exp(x) - jnp.exp(x[::-1])) + 3e-3 * x[0]

    f.defjvp(lambda p, t: (f(p[0]), 3.6e-3 * t[0][0]))
    check = check_vjp(jax.vmap(f), np.array([[7.0, 8.0, 9.0]], np.float32))
    assert check.blocks[0].precision == "float64"
    assert check.blocks[0].wrong == 1


def test_a_report_says_why_double_precision_is_left():
    x = np.array([0.3, 0.4], np.float32)

    def tied(c, x):
        if x.dtype == jnp.float64:
            raise TypeError("only float32 here")
        return (c * jnp.cos(x),)

    check = check_vjp(jnp.sin, x, vjp=tied)
    assert check
    assert any("TypeError: only float32 here" in note for note in check.notes)

    half = lambda c, x: (c * jnp.cos(x).astype(jnp.float32).astype(x.dtype),)  # noqa: E731
    check = check_vjp(jnp.sin, x, vjp=half)
    assert check
    assert any("the rule computes in float32 inside" in note for note in check.notes)


@pytest.mark.parametrize(("forward", "right"), [(0.0, False), (-np.inf, True)])
def test_an_infinite_value_has_to_be_returned_by_the_forward_rule(forward, right):
    @jax.custom_jvp
    def log(x):
        return jnp.log(x)

    log.defjvp(lambda p, t: (jnp.where(p[0] > 0, jnp.log(p[0]), forward), t[0] / p[0]))
    check = check_vjp(log, np.array([0.0, 1.0], np.float32))
    assert [p.kind for p in check.problems] == ([] if right else ["primal"])


def test_a_small_value_of_the_forward_rule_does_not_hide_behind_a_large_one():
    rule = jax.custom_vjp(jnp.exp)
    moved = lambda x: jnp.where(x < 0, 1.01, 1.0) * jnp.exp(x)  # noqa: E731
    rule.defvjp(lambda x: (moved(x), x), lambda x, c: (c * jnp.exp(x),))
    check = check_vjp(rule, np.array([-25.0, 20.0], np.float32))
    assert [p.kind for p in check.problems] == ["primal"]


@pytest.mark.parametrize("first", range(0, 300, 75))
def test_planted_errors_are_found_and_other_brackets_accepted_at_every_scale(first):
    found = [line for k in range(first, first + 75) for line in findings(k, steps=4, draws=75)]
    assert not found, "\n".join(found)


KEY = jax.random.key(0)


def drawing(x):
    return jax.random.normal(KEY, x.shape) * jax.nn.relu(x)


def drawing_vjp(c, x, factor=1.0, single=1.0):
    """Right with factors of 1; at 0 it says another number than JAX."""
    noise = jax.random.normal(KEY, x.shape)
    factor = single * factor if x.dtype == jnp.float32 else factor
    return (factor * c * noise * jnp.where(x > 0, 1.0, jnp.where(x < 0, 0.0, 0.7)),)


def drawing_vjp_in_single(c, x, factor=1.0):
    assert x.dtype == jnp.float32
    return (factor * c * jax.random.normal(KEY, x.shape) * (x > 0),)


def test_random_numbers_drawn_without_a_dtype_are_others_in_float64():
    x = np.array([0.3, 0.0, -0.4, 2.0], np.float32)
    check = check_vjp(drawing, x, vjp=drawing_vjp)
    assert check, str(check)
    assert any("judged by JAX's derivative in that precision" in n for n in check.notes)
    assert not any("rounding moves an entry" in n for n in check.notes)
    check = check_vjp(drawing, x, vjp=functools.partial(drawing_vjp, single=1.001))
    assert not check
    assert check.blocks[0].precision == "float32"
    # what is shown as right is right in that precision
    assert check.worst.actual == pytest.approx(1.001 * check.worst.expected, rel=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_rule_tied_to_single_precision_may_draw_random_numbers(factor):
    x = np.array([0.3, -0.4, 2.0], np.float32)
    rule = functools.partial(drawing_vjp_in_single, factor=factor)
    assert bool(check_vjp(drawing, x, vjp=rule)) == (factor == 1.0)


def test_a_part_of_a_complex_number_is_rounded_to_the_size_of_both():
    cosines = np.cos(2 * np.pi * np.outer(range(4), range(4)) / 4)
    x = np.array([0.3, -0.4, 2.0, 1.0], np.float32)
    real = lambda x: jnp.fft.fft(x).real  # noqa: E731
    assert 0 < np.abs(cosines).min() < 1e-15
    check = check_vjp(real, x, vjp=lambda c, x: ((c @ cosines).astype(x.dtype),))
    assert check, str(check)
    check = check_vjp(real, x, vjp=lambda c, x: ((c @ (cosines + 1e-13)).astype(x.dtype),))
    assert check.blocks[0].wrong == np.sum(np.abs(cosines) < 1e-15)
