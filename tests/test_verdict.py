"""What rounding explains where terms cancel, and that NaN is right where there is no derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import check_vjp
from jacobians.terms import Terms

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
        cancelled, dead, reversed_ = terms.sizes(0, np.array([1]))
        assert [n.shape for n in terms.noise(0, np.array([1]))] == [(2,), (2,), (2,)]
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
