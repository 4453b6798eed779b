"""Planted mistakes are rejected, their right versions accepted, kinks recognised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jacobians
from jacobians import check_vjp, gates
from jacobians.check.implied import row_colours
from jacobians.errors import ArgumentError, WrongDerivativeError

# a verdict does not need to know what the mistake is, which takes most of the time
judged = functools.partial(check_vjp, diagnose=False)


def relu(x):
    return jnp.maximum(x, 0)


def matvec(W, x):
    return W @ x


def softmax(x):
    return jax.nn.softmax(x)


def norm(x):
    return jnp.sqrt(jnp.sum(x * x))


def bias(X, b):
    return X + b


def centred(x):
    return x - x.mean()


def softmax_vjp(c, x):
    s = softmax(x)
    return (s * (c - (c * s).sum()),)


def arrays(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return tuple(generator.normal(size=s).astype(np.float32) for s in shapes)


# name: function, shapes of its arguments, right VJP, wrong VJPs by what is wrong
BANK = {
    "relu": (
        relu,
        [(6,)],
        lambda c, x: (c * (x > 0),),
        {
            "1 % too large": lambda c, x: (1.01 * c * (x > 0),),
            "0.1 % too large": lambda c, x: (1.001 * c * (x > 0),),
            "one entry": lambda c, x: ((c * (x > 0)).at[2].add(c[2]),),
            "sign": lambda c, x: (-c * (x > 0),),
            "mask inverted": lambda c, x: (c * (x < 0),),
            "no mask": lambda c, x: (c,),
            "zero": lambda c, x: (jnp.zeros_like(x),),
            "squared cotangent": lambda c, x: (c * c * (x > 0),),
            "ignores the cotangent": lambda c, x: (1.0 * (x > 0),),
            "shifted": lambda c, x: (jnp.roll(c * (x > 0), 1),),
            "wrong dtype": lambda c, x: ((c * (x > 0)).astype(jnp.float16),),
            "None": lambda c, x: (None,),
            "too many": lambda c, x: (c * (x > 0), c),
            "raises": lambda c, x: 1 / 0,
            "NaN": lambda c, x: (c * (x > 0) * jnp.where(x < -0.1, jnp.nan, 1),),
        },
    ),
    "matvec": (
        matvec,
        [(3, 3), (3,)],
        lambda c, W, x: (jnp.outer(c, x), W.T @ c),
        {
            "transposed dW": lambda c, W, x: (jnp.outer(x, c), W.T @ c),
            "W for its transpose": lambda c, W, x: (jnp.outer(c, x), W @ c),
            "doubled": lambda c, W, x: (2 * jnp.outer(c, x), W.T @ c),
            "one missing": lambda c, W, x: (jnp.outer(c, x),),
            "swapped": lambda c, W, x: (W.T @ c, jnp.outer(c, x)),
        },
    ),
    "softmax": (
        softmax,
        [(5,)],
        softmax_vjp,
        {
            "no sum": lambda c, x: (softmax(x) * c,),
            "sigmoid's": lambda c, x: (softmax(x) * (1 - softmax(x)) * c,),
            "mean for sum": lambda c, x: (softmax(x) * (c - (c * softmax(x)).mean()),),
        },
    ),
    "norm": (
        norm,
        [(4,)],
        lambda c, x: (c * x / norm(x),),
        {"not divided": lambda c, x: (c * x,), "twice": lambda c, x: (c * x / norm(x) ** 2,)},
    ),
    "bias": (
        bias,
        [(4, 3), (3,)],
        lambda c, X, b: (c, c.sum(0)),
        {
            "no sum": lambda c, X, b: (c, c),
            "mean": lambda c, X, b: (c, c.mean(0)),
            "other axis": lambda c, X, b: (c, c[:3].sum(1)),
        },
    ),
    "centred": (
        centred,
        [(5,)],
        lambda c, x: (c - c.mean(),),
        {"detached mean": lambda c, x: (c,), "sum": lambda c, x: (c - c.sum(),)},
    ),
}
WRONG = [(name, what) for name, entry in BANK.items() for what in entry[3]]


@pytest.mark.parametrize("name", BANK)
@pytest.mark.parametrize("seed", range(3))
def test_right_rules_are_accepted(name, seed):
    f, shapes, right, _ = BANK[name]
    check = check_vjp(f, *arrays(*shapes, seed=seed), vjp=right)
    assert check, str(check)
    assert check.problems == ()
    check.raise_if_wrong()


@pytest.mark.parametrize(("name", "what"), WRONG)
def test_planted_mistakes_are_rejected(name, what):
    f, shapes, _, mistakes = BANK[name]
    # the cause of one mistake of each function; test_diagnose.py has those of every kind
    diagnose = what == next(iter(mistakes))
    check = check_vjp(f, *arrays(*shapes), vjp=mistakes[what], diagnose=diagnose)
    assert not check
    with pytest.raises(WrongDerivativeError, match="WRONG"):
        check.raise_if_wrong()
    assert max(len(line) for line in str(check).splitlines()) <= 100


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("wrong dtype", "dtype"),
        ("None", "structure"),
        ("too many", "count"),
        ("raises", "raised"),
        ("squared cotangent", "nonlinear"),
        ("NaN", "non-finite"),
    ],
)
def test_faults_of_form_are_named(what, kind):
    f, shapes, _, mistakes = BANK["relu"]
    check = judged(f, *arrays(*shapes), vjp=mistakes[what])
    assert kind in {problem.kind for problem in check.problems}


def test_a_missing_sum_over_a_broadcast_axis_is_told_by_the_shape():
    f, shapes, _, mistakes = BANK["bias"]
    (problem,) = check_vjp(f, *arrays(*shapes), vjp=mistakes["no sum"]).problems
    assert problem.kind == "shape"
    assert "sum over the axes" in problem.message


def test_the_worst_entry_is_named():
    x = np.array([1.0, 2.0, 3.0], np.float32)
    check = judged(relu, x, vjp=lambda c, x: (c.at[1].mul(1.5),))
    worst = check.worst
    assert (worst.output_index, worst.input_index) == ((1,), (1,))
    assert (worst.expected, worst.actual) == (1.0, 1.5)
    assert check.blocks[0].wrong == 1


@pytest.mark.parametrize("at_zero", [0.0, 0.3, 1.0])
def test_any_value_between_one_sided_derivatives_is_right_at_a_kink(at_zero):
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    check = check_vjp(relu, x, vjp=lambda c, x: (c * jnp.where(x == 0, at_zero, x > 0),))
    assert check, str(check)


@pytest.mark.parametrize("at_zero", [-0.1, 1.1, 2.0])
def test_a_value_outside_them_is_wrong_at_a_kink(at_zero):
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    assert not judged(relu, x, vjp=lambda c, x: (c * jnp.where(x == 0, at_zero, x > 0),))


def test_kinks_are_counted():
    x = np.zeros(3, np.float32)
    check = check_vjp(relu, x, vjp=lambda c, x: (jnp.zeros_like(c),))
    assert check.blocks[0].kinks == 3
    assert check.blocks[0].verdict == "right (kinks)"


def test_the_norm_at_zero_may_have_any_subgradient_and_no_other():
    zero = np.zeros(3, np.float32)
    assert check_vjp(norm, zero, vjp=lambda c, x: (jnp.zeros(3),))
    assert not judged(norm, zero, vjp=lambda c, x: (jnp.full(3, 2.0),))


def test_a_derivative_that_jax_makes_nan_is_judged_by_the_functions_values():
    def safe(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    def vjp(c, x):
        return (jnp.where(x > 0, c * 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0),)

    x = np.array([-1.0, 4.0], np.float32)
    assert check_vjp(safe, x, vjp=vjp)
    assert not judged(safe, x, vjp=lambda c, x: (vjp(c, x)[0] + c,))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_scale_does_not_matter(scale):
    x = (scale * np.array([1.0, -2.0, 3.0])).astype(np.float32)
    cube = lambda x: x**3  # noqa: E731
    assert check_vjp(cube, x, vjp=lambda c, x: (3 * x**2 * c,))
    assert not judged(cube, x, vjp=lambda c, x: (3.01 * x**2 * c,))


def test_rounding_of_an_ill_conditioned_derivative_is_no_mistake():
    hilbert = np.array([[1 / (i + j + 1) for j in range(5)] for i in range(5)], np.float32)

    def vjp(c, a):
        inverse = jnp.linalg.inv(a)
        return (-inverse.T @ c @ inverse.T,)

    assert check_vjp(jnp.linalg.inv, hilbert, vjp=vjp)
    assert not judged(jnp.linalg.inv, hilbert, vjp=lambda c, a: (-vjp(c, a)[0],))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_low_precision_inputs_are_judged_in_double(dtype):
    x = jnp.array([0.3, -1.2, 2.0], dtype)
    assert check_vjp(jnp.tanh, x, vjp=lambda c, x: (c * (1 - jnp.tanh(x) ** 2),))
    assert not judged(jnp.tanh, x, vjp=lambda c, x: (1.001 * c * (1 - jnp.tanh(x) ** 2),))


def test_float64_inputs():
    with jax.enable_x64(True):
        x = jnp.array([0.3, -1.2])
        assert check_vjp(jnp.sin, x, vjp=lambda c, x: (c * jnp.cos(x),))
        assert not judged(jnp.sin, x, vjp=lambda c, x: (c * jnp.sin(x),))


def test_a_large_diagonal_is_compared_without_loss():
    (x,) = arrays((4096,))
    check = check_vjp(relu, x, vjp=lambda c, x: (c * (x > 0),))
    assert check
    assert any("proved zero" in note for note in check.notes)
    where = 1234
    wrong = judged(relu, x, vjp=lambda c, x: ((c * (x > 0)).at[where].add(c[where]),))
    assert wrong.blocks[0].wrong == 1
    assert wrong.worst.output_index == (where,)


def test_a_large_rule_wrong_off_the_diagonal_is_found():
    (x,) = arrays((2048,))
    check = judged(relu, x, vjp=lambda c, x: ((c * (x > 0)).at[5].add(0.5 * c[7]),))
    assert check.worst.output_index == (7,)
    assert check.worst.input_index == (5,)


@given(st.data())
def test_rows_of_one_colour_share_no_column(data):
    m = data.draw(st.integers(1, 8))
    n = data.draw(st.integers(1, 8))
    entries = data.draw(st.sets(st.tuples(st.integers(0, m - 1), st.integers(0, n - 1))))
    rows, columns = (np.array(sorted(entries), np.int64).reshape(-1, 2)).T
    colours = row_colours(rows, columns, m, n)
    for c in range(n):
        holders = colours[rows[columns == c]]
        assert len(set(holders.tolist())) == len(holders)


@jax.custom_vjp
def scaled(x):
    return 3.0 * x


scaled.defvjp(lambda x: (3.0 * x, None), lambda _, c: (3.0 * c,))


@jax.custom_vjp
def misvalued(x):
    return 3.0 * x


misvalued.defvjp(lambda x: (3.1 * x, None), lambda _, c: (3.0 * c,))


@jax.custom_jvp
def forward_ruled(x):
    return jnp.sin(x)


forward_ruled.defjvp(lambda p, t: (jnp.sin(p[0]), t[0] * jnp.sin(p[0])))


def test_custom_vjp_functions_are_checked_alone_and_inside():
    x = jnp.array([1.0, 2.0])
    assert check_vjp(scaled, x).rule == "custom_vjp"
    assert check_vjp(scaled, x)
    assert check_vjp(lambda v: jnp.sum(scaled(v) ** 2), x)


def test_a_custom_jvp_rule_is_checked():
    assert not judged(forward_ruled, jnp.array([0.3, 0.4]))


def test_a_forward_rule_with_another_value_is_told():
    kinds = {p.kind for p in check_vjp(misvalued, jnp.array([1.0])).problems}
    assert kinds == {"primal"}


@pytest.mark.parametrize("name", gates.catalogue)
def test_every_gate_is_right_at_example_inputs(name):
    gate = gates.get(name)
    check = check_vjp(gate, *gates.example_inputs(gate))
    assert check, str(check)


def test_saturated_gates_are_right():
    assert check_vjp(gates.get("sigmoid"), jnp.array([50.0, -80.0, 1.0]))
    assert check_vjp(gates.get("sigmoid"), jnp.array(50.0))
    assert check_vjp(gates.get("softmax"), jnp.array([1e4, -1e4, 0.0]))


def test_given_tolerances_are_used():
    x = jnp.array([1.0, 2.0])
    slightly = lambda c, x: (1.001 * c * jnp.cos(x),)  # noqa: E731
    assert not judged(jnp.sin, x, vjp=slightly)
    assert check_vjp(jnp.sin, x, vjp=slightly, rtol=0.01, atol=0.0)


def test_pytrees_and_several_outputs():
    def f(p, x):
        return {"s": p["W"] @ x, "n": x.sum()}

    def vjp(c, p, x):
        return {"W": jnp.outer(c["s"], x)}, p["W"].T @ c["s"] + c["n"]

    W, x = arrays((2, 3), (3,))
    check = check_vjp(f, {"W": W}, x, vjp=vjp)
    assert check, str(check)
    assert len(check.blocks) == 4
    wrong = check_vjp(f, {"W": W}, x, vjp=lambda c, p, x: (vjp(c, p, x)[0], p["W"].T @ c["s"]))
    assert not wrong
    assert wrong.worst.output == 'out["n"]'


def test_a_dictionary_is_made_of_it():
    check = check_vjp(relu, jnp.array([1.0]), vjp=lambda c, x: (2 * c,))
    made = check.to_dict()
    assert made["right"] is False
    assert made["worst"]["actual"] == 2.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: check_vjp(jnp.sin, 1.0), "no hand-written derivative"),
        (lambda: check_vjp(jnp.sin, 1.0, vjp=3), "must be a function"),
        (
            lambda: check_vjp(scaled, jax.ShapeDtypeStruct((2,), jnp.float32)),
            "a check needs values",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused_in_a_sentence(call, says):
    with pytest.raises(ArgumentError, match=says):
        call()


def test_what_the_function_raises_is_not_a_verdict():
    def f(x):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        jacobians.check_vjp(f, 1.0, vjp=lambda c, x: (c,))


def accepted(f, *args, vjp):
    return bool(judged(f, *args, vjp=vjp))


def test_a_callback_is_checked_by_finite_differences_with_an_error_bar():
    def f(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(
            lambda v: np.sin(np.asarray(v)), shape, x, vmap_method="sequential"
        )

    (x,) = arrays((3,))
    right = check_vjp(f, x, vjp=lambda c, x: (c * jnp.cos(x),))
    assert right
    assert right.truth == "finite differences"
    assert any("error bar" in note for note in right.notes)
    assert not check_vjp(f, x, vjp=lambda c, x: (1.001 * c * jnp.cos(x),))


def test_a_loop_without_reverse_mode_is_checked_in_forward_mode():
    def root(a):
        step = lambda _, y: 0.5 * (y + a / y)  # noqa: E731
        return jax.lax.while_loop(lambda s: s[0] < 30, lambda s: (s[0] + 1, step(0, s[1])), (0, a))[
            1
        ]

    x = jnp.array([2.0, 5.0])
    assert accepted(root, x, vjp=lambda c, a: (0.5 * c / jnp.sqrt(a),))
    assert not accepted(root, x, vjp=lambda c, a: (0.5 * c / a,))


@pytest.mark.parametrize("factor", [0.5, 0.999, -1.0])
def test_strong_curvature_is_no_kink(factor):
    f = lambda x: jnp.sin(1e8 * x)  # noqa: E731
    x = jnp.array([0.3, 1.0])
    assert not accepted(f, x, vjp=lambda c, x: (factor * c * 1e8 * jnp.cos(1e8 * x),))


def test_a_mistake_in_a_tiny_entry_is_not_hidden_by_a_large_neighbour():
    square = lambda x: x * x  # noqa: E731
    x = np.array([1e-12, 1.0, 3.0], np.float32)
    assert accepted(square, x, vjp=lambda c, x: (2 * c * x,))
    assert not accepted(square, x, vjp=lambda c, x: (c * jnp.where(x < 1e-6, -2 * x, 2 * x),))


@pytest.mark.parametrize("factor", [1.01, 1.001])
def test_a_mistake_in_single_precision_only_is_found(factor):
    def vjp(c, x):
        d = c * jnp.cos(x)
        return (d * jnp.float32(factor) if x.dtype == jnp.float32 else d,)

    assert not accepted(jnp.sin, *arrays((4,)), vjp=vjp)


def test_cancellation_in_single_precision_is_no_mistake():
    x = np.array([1e-4, 3e-4, 2e-3], np.float32)
    assert accepted(lambda x: x - jnp.sin(x), x, vjp=lambda c, x: (c * (1 - jnp.cos(x)),))
    far = np.array([9.0, 12.0], np.float32)
    assert accepted(jnp.tanh, far, vjp=lambda c, x: (c * (1 - jnp.tanh(x) ** 2),))


def test_a_saturated_softmax_is_linear_in_its_cotangent():
    x = np.array([0.0, 30.0, -20.0], np.float32)
    assert accepted(softmax, x, vjp=softmax_vjp)


def test_arguments_without_derivative_are_left_out():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def scale(k, x):
        return k * x

    scale.defvjp(lambda k, x: (k * x, None), lambda k, _, c: (k * c,))
    assert check_vjp(scale, 2.0, jnp.ones(2)).rule == "custom_vjp"
    assert check_vjp(scale, 2.0, jnp.ones(2))
    with pytest.raises(ArgumentError, match="nondiff_argnums"):
        check_vjp(scale, 2.0, jnp.ones(2), argnums=0)


def test_rules_on_symbolic_zeros_are_checked_for_each_input_alone():
    def made(wrong):
        @jax.custom_vjp
        def product(x, y):
            return x * y

        def fwd(x, y):
            return x.value * y.value, (x.value, y.value, y.perturbed)

        def bwd(kept, c):
            x, y, perturbed = kept
            return c * y * (1.0 if perturbed or not wrong else 2.0), c * x

        product.defvjp(fwd, bwd, symbolic_zeros=True)
        return product

    x = jnp.array([2.0, 3.0])
    assert check_vjp(made(False), x, x + 1)
    assert [p.kind for p in check_vjp(made(True), x, x + 1).problems] == ["symbolic-zeros"]


def test_a_jvp_rule_must_be_linear_and_return_the_functions_value():
    @jax.custom_jvp
    def squared_tangent(x):
        return jnp.sin(x)

    squared_tangent.defjvp(lambda p, t: (jnp.sin(p[0]), t[0] ** 2 * jnp.cos(p[0])))
    assert [p.kind for p in check_vjp(squared_tangent, jnp.ones(2)).problems] == ["nonlinear"]

    @jax.custom_jvp
    def moved(x):
        return jnp.sin(x)

    moved.defjvp(lambda p, t: (jnp.sin(p[0]) + 1, t[0] * jnp.cos(p[0])))
    assert [p.kind for p in check_vjp(moved, jnp.ones(2)).problems] == ["primal"]


def test_complex_functions_are_checked_by_their_parts():
    z = jnp.array([0.5 + 1.0j, -0.3 + 0.2j])
    assert accepted(lambda z: z * z, z, vjp=lambda c, z: (2 * c * z,))
    check = check_vjp(lambda z: z * z, z, vjp=lambda c, z: (2 * c * jnp.conj(z),))
    assert not check
    assert check.blocks[0].input == "z.real"


def test_a_huge_dense_jacobian_is_probed_with_a_stated_probability():
    (x,) = arrays((9000,))
    right = check_vjp(softmax, x, vjp=softmax_vjp)
    assert right
    assert any("with a probability of at most" in note for note in right.notes)
    wrong = lambda c, x: (softmax_vjp(c, x)[0].at[17].multiply(1.001),)  # noqa: E731
    check = judged(softmax, x, vjp=wrong)
    assert check.blocks[0].wrong == 1
    assert check.worst.input_index == (17,)


@pytest.mark.parametrize("custom", [False, True])
def test_a_cotangent_has_none_where_the_argument_has_none(custom):
    def f(p):
        return 2 * p["a"] if p["b"] is None else p["a"]

    rule = lambda c, p: ({"a": 2 * c, "b": None},)  # noqa: E731
    given = {"a": jnp.arange(3.0), "b": None}
    if custom:
        wrapped = jax.custom_vjp(f)
        wrapped.defvjp(lambda p: (f(p), p), lambda p, c: rule(c, p))
        assert check_vjp(wrapped, given)
    else:
        assert check_vjp(f, given, vjp=rule)
        assert not judged(f, given, vjp=lambda c, p: ({"a": c, "b": None},))
