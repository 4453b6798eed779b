"""Every way of giving a function a derivative: right is right and wrong is wrong, wherever."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacobians
from jacobians import ArgumentError

# a verdict does not need to know what the mistake is, which takes most of the time
audit = functools.partial(jacobians.audit, diagnose=False)
check_vjp = functools.partial(jacobians.check_vjp, diagnose=False)

X = jnp.array([0.5, 1.25])
W = jnp.array([[2.0, -1.0], [0.5, 3.0]])


def backward(factor):
    """The pull-back of the sine, times a factor."""
    return lambda x, c: (factor * jnp.cos(x) * c,)


def keep(x):
    return jnp.sin(x), x


def vjp_of(factor, function=jnp.sin, **options):
    rule = jax.custom_vjp(lambda x: function(x))
    rule.defvjp(keep, backward(factor), **options)
    return rule


def closed_over_array(factor):
    @jax.custom_vjp
    def rule(x):
        return jnp.sin(W @ x)

    rule.defvjp(lambda x: (rule(x), x), lambda x, c: (factor * W.T @ (jnp.cos(W @ x) * c),))
    return rule


def closed_over_array_forward(factor):
    @jax.custom_jvp
    def rule(x):
        return jnp.sin(W @ x)

    rule.defjvp(lambda p, t: (rule(p[0]), factor * jnp.cos(W @ p[0]) * (W @ t[0])))
    return rule


def symbolic_zeros(factor):
    rule = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)

    def forward(x, y):
        assert x.perturbed
        return jnp.sin(x.value) * y.value, (x.value, y.value, y.perturbed)

    def pull(kept, c):
        x, y, perturbed = kept
        return factor * jnp.cos(x) * y * c, jnp.sin(x) * c if perturbed else None

    rule.defvjp(forward, pull, symbolic_zeros=True)
    return lambda x: rule(x, 2.0)


def symbolic_zeros_forward(factor):
    rule = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)

    def push(primals, tangents):
        x, y = primals
        t, u = tangents
        out = factor * jnp.cos(x) * y * t
        if type(u) is not jax.custom_derivatives.SymbolicZero:
            out = out + jnp.sin(x) * u
        return rule(x, y), out

    rule.defjvp(push, symbolic_zeros=True)
    return lambda x: rule(x, 2.0)


def static_argument(factor):
    rule = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))(lambda f, x: f(x))
    rule.defvjp(lambda f, x: (f(x), x), lambda f, x, c: backward(factor)(x, c))
    return lambda x: rule(jnp.sin, x)


def static_argument_by_name(factor):
    def scaled(x, scale=2.0):
        return scale * jnp.sin(x)

    rule = functools.partial(jax.custom_vjp, nondiff_argnames=("scale",))(scaled)
    rule.defvjp(lambda x, s: (scaled(x, s), x), lambda s, x, c: backward(s * factor)(x, c))
    return rule


def static_argument_forward(factor):
    rule = functools.partial(jax.custom_jvp, nondiff_argnums=(1,))(lambda x, n=2: x**n)
    rule.defjvp(lambda n, p, t: (rule(p[0], n), factor * n * p[0] ** (n - 1) * t[0]))
    return rule


def with_none(factor):
    rule = jax.custom_jvp(lambda x, k: jnp.sin(x) * lax.stop_gradient(k))
    rule.defjvps(lambda t, out, x, k: factor * jnp.cos(x) * k * t, None)
    return lambda x: rule(x, x)


def of_jax_function(factor):
    rule = jax.custom_jvp(jnp.sin)
    rule.defjvps(lambda t, out, x: factor * jnp.cos(x) * t)
    return rule


def by_custom_gradient(factor):
    @jax.custom_gradient
    def rule(x):
        return jnp.sin(x), lambda c: (factor * jnp.cos(x) * c,)

    return rule


def by_custom_gradient_of_nothing(factor):
    return jax.custom_gradient(lambda x: (x, lambda c: (factor * c,)))


def closure_converted(factor):
    def model(x):
        converted, held = jax.closure_convert(lambda y: jnp.sin(y) * x, x)
        rule = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))(
            lambda f, y, *held: f(y, *held)
        )

        def forward(f, y, *held):
            return f(y, *held), (y, held)

        def pull(f, kept, c):
            y, held = kept
            _, back = jax.vjp(f, y, *held)
            mine, *others = back(c)
            return (factor * mine, *others)

        rule.defvjp(forward, pull)
        return rule(converted, x, *held)

    return model


class Scaled:
    """A layer whose rule is defined on a method, with the layer as a static argument."""

    def __init__(self, factor):
        self.factor = factor

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def apply(self, x):
        return jnp.sin(x)

    apply.defvjp(lambda self, x: keep(x), lambda self, x, c: backward(self.factor)(x, c))

    def __call__(self, x):
        return Scaled.apply(self, x)


def as_a_partial(factor):
    rule = jax.custom_vjp(lambda scale, x: scale * jnp.sin(x))
    rule.defvjp(
        lambda scale, x: (scale * jnp.sin(x), (scale, x)),
        lambda kept, c: (None, kept[0] * factor * jnp.cos(kept[1]) * c),
    )
    return functools.partial(rule, 3)


def with_custom_vmap(factor):
    sine = jax.custom_batching.custom_vmap(jnp.sin)
    sine.def_vmap(lambda size, batched, x: (jnp.sin(x), True))
    rule = jax.custom_vjp(lambda x: sine(x))
    rule.defvjp(lambda x: (sine(x), x), backward(factor))
    return rule


def with_a_state(factor):
    """A solver that returns the residual too, which nobody uses."""
    rule = jax.custom_vjp(lambda x: (jnp.sin(x), jnp.sum(x**2), jnp.arange(2)))
    rule.defvjp(
        lambda x: ((jnp.sin(x), jnp.sum(x**2), jnp.arange(2)), x),
        lambda x, c: (factor * jnp.cos(x) * c[0],),
    )
    return lambda x: rule(x)[0]


def that_refuses_a_made_array(factor):
    rule = jax.custom_jvp(lambda x, made: jnp.sin(x) * made)

    def push(primals, tangents):
        if type(tangents[1]) is not jax.custom_derivatives.SymbolicZero:
            raise NotImplementedError("no derivative with respect to made")
        x, made = primals
        return rule(x, made), factor * jnp.cos(x) * made * tangents[0]

    rule.defjvp(push, symbolic_zeros=True)
    return lambda x: rule(x, jnp.ones(2))


WAYS = {
    "custom_vjp": vjp_of,
    "optimize_remat": functools.partial(vjp_of, optimize_remat=True),
    "closed-over array": closed_over_array,
    "closed-over array, custom_jvp": closed_over_array_forward,
    "symbolic_zeros": symbolic_zeros,
    "symbolic_zeros, custom_jvp": symbolic_zeros_forward,
    "nondiff_argnums": static_argument,
    "nondiff_argnames, not given": static_argument_by_name,
    "nondiff_argnums, custom_jvp, not given": static_argument_forward,
    "defjvps with None": with_none,
    "of a function of JAX": of_jax_function,
    "custom_gradient": by_custom_gradient,
    "custom_gradient of the identity": by_custom_gradient_of_nothing,
    "closure_convert": closure_converted,
    "method": Scaled,
    "partial": as_a_partial,
    "custom_vmap inside": with_custom_vmap,
    "a result never used": with_a_state,
    "refuses a made array": that_refuses_a_made_array,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_making_a_rule_is_audited(way):
    for factor, verdict in ((1.0, "right"), (1.5, "wrong")):
        f = WAYS[way](factor)
        found = audit(lambda x, f=f: f(x) * 2.0, X)
        assert [rule.verdict for rule in found.rules] == [verdict], str(found)
        assert bool(found) == (factor == 1.0)
        assert found.library == ()


# what check_vjp calls and differentiates as it does the rules of every other test
PLAIN = {
    "custom_vjp", "optimize_remat", "closed-over array, custom_jvp", "of a function of JAX",
    "custom_gradient of the identity", "custom_vmap inside", "a result never used",
}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "factor"),
    [
        pytest.param(way, factor, marks=[pytest.mark.long] if factor == 1 or way in PLAIN else [])
        for way in WAYS
        for factor in (1.0, 1.5)
    ],
)
def test_every_way_of_making_a_rule_is_checked(way, factor):
    verdict = "right" if factor == 1.0 else "wrong"
    assert check_vjp(WAYS[way](factor), X).verdict == verdict


PLACES = {
    "jit": lambda f, x: jax.jit(lambda y: jax.jit(f)(y) * 2)(x),
    "remat": lambda f, x: jax.checkpoint(lambda y: f(y) + y)(x),
    "vmap of jit of scan": lambda f, x: jax.vmap(
        jax.jit(lambda y: lax.scan(lambda c, _: (f(c), None), y, None, length=2)[0])
    )(x[None]),
}


@pytest.mark.parametrize("place", PLACES)
def test_ways_that_need_care_are_checked_wherever_they_are_called(place):
    def model(x):
        right = PLACES[place](closed_over_array(1.0), x)
        return right + PLACES[place](by_custom_gradient(1.5), x)

    assert [rule.verdict for rule in audit(model, X).rules] == ["right", "wrong"]
    if place == "vmap of jit of scan":
        assert check_vjp(model, X).verdict == "wrong"


def test_a_rule_that_jax_has_applied_is_not_passed_over_in_silence():
    """Inside jax.grad no call of a rule is left; one whose forward pass is seen is named."""
    for way in ("custom_vjp", "custom_gradient", "nondiff_argnums"):
        found = audit(jax.grad(lambda x, way=way: WAYS[way](1.5)(x).sum()), X)
        assert not found
        assert "JAX has already applied it" in " ".join(str(found).split())
    # what is called beside it too, and JAX's own rules, need no second word
    assert audit(jax.grad(lambda x: jax.nn.relu(x).sum()), X)
    with pytest.raises(ArgumentError, match="no hand-written derivative"):
        check_vjp(jax.grad(lambda x: vjp_of(1.5)(x).sum()), X)


def test_a_value_closed_over_that_moves_is_refused_as_jax_refuses_it():
    def model(x, y):
        rule = jax.custom_vjp(lambda x: jnp.sin(x) * y)
        rule.defvjp(lambda x: (jnp.sin(x) * y, x), lambda x, c: (jnp.cos(x) * y * c,))
        return rule(x)

    # by y JAX refuses to differentiate it, by x it does not
    found = audit(model, X, X + 1)
    assert [rule.verdict for rule in found.rules] == ["right"]
    assert "not checked for y" in str(found)
    with pytest.raises(Exception):  # noqa: B017, PT011
        jax.grad(lambda x: model(x, 2 * x).sum())(X)
    found = audit(lambda x: model(x, 2 * x), X)
    assert [rule.verdict for rule in found.rules] == ["wrong"]
    assert "JAX refuses to differentiate it" in found.rules[0].diagnosis


def test_a_rule_that_forgets_a_moving_value_it_closes_over_is_wrong():
    """Of a custom_jvp JAX takes the derivative by what it closes over for zero, without a word."""

    def model(y):
        rule = jax.custom_jvp(lambda x: x * y)
        rule.defjvp(lambda p, t: (p[0] * 3.0, t[0] * 3.0))
        return rule(jnp.ones(2))

    (rule,) = audit(jax.jit(model), 3 * jnp.ones(2)).rules
    assert rule.verdict == "wrong"


@pytest.mark.parametrize("made", ["integers", "an array", "a stopped gradient"])
def test_a_rule_that_is_never_differentiated_is_no_failure(made):
    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def guard(message, x):
        return x

    @guard.defjvp
    def _(message, primals, tangents):
        raise RuntimeError(message)

    def model(x):
        given = {
            "integers": jnp.array([1, 2]),
            "an array": jnp.ones(2),
            "a stopped gradient": lax.stop_gradient(x),
        }[made]
        return x * guard("never", given)

    np.testing.assert_array_equal(jax.grad(lambda x: model(x).sum())(X), model(X) / X)
    found = audit(model, X)
    assert found
    assert [rule.verdict for rule in found.rules] == ["not differentiated here"]
    # nor where nothing is made of the result
    assert audit(lambda x: (x + lax.stop_gradient(guard("never", x)), guard("never", x) > 0)[0], X)
    # where it is differentiated it is called wrong
    assert not audit(lambda x: guard("raised", x), X)


def test_copies_of_one_array_count_together():
    def solve(f, x):
        return lax.fori_loop(0, 10, lambda _, x: x - f(x) / (3 * x**2), x)

    @jax.custom_jvp
    def root(a, b):
        """The cube root, which takes a twice and has its derivative by the first."""
        return solve(lambda x: x**3 - b, jnp.ones_like(a))

    @root.defjvp
    def _(primals, tangents):
        x = root(*primals)
        return x, tangents[0] / (3 * x**2)

    (rule,) = audit(lambda a: root(a, a), X + 1).rules
    assert rule.verdict == "right"
    assert "moved together" in " ".join(rule.notes)
    (rule,) = audit(root, X + 1, X + 1).rules
    assert rule.verdict == "wrong"


def test_a_result_that_another_rule_only_hands_on_unused_does_not_count():
    """As where a library's rule for raising errors is given a whole solution, state and all."""
    checked = jax.custom_jvp(lambda x, state: (x + 0.0, state * 1.0))

    @checked.defjvp
    def _(primals, tangents):
        return checked(*primals), tangents

    solve = jax.custom_vjp(lambda x: (jnp.sin(x), x**2))
    solve.defvjp(lambda x: (solve(x), x), lambda x, c: (jnp.cos(x) * c[0],))
    straight = jax.custom_vjp(lambda x: jnp.round(x))
    straight.defvjp(lambda x: (jnp.round(x), None), lambda _, c: (c,))
    assert audit(lambda x: checked(*solve(x))[0], X)
    assert not audit(lambda x: sum(checked(*solve(x))), X)
    # a cotangent passes through a rule whose function has no derivative
    found = audit(lambda x: straight(vjp_of(1.5)(x)), X)
    assert [rule.verdict for rule in found.rules] == ["wrong", "wrong"]


BAD = {
    "raises": (jnp.sin, lambda x, c: (jnp.ones(7) @ c,)),
    "NaN": (jnp.sin, lambda x, c: (c * jnp.nan,)),
    "another forward pass": (jnp.cos, backward(1.0)),
    "another forward pass that is infinite": (lambda x: jnp.sin(x) - jnp.inf, backward(1.0)),
}


@pytest.mark.parametrize("fault", BAD)
def test_no_declaration_excuses_a_broken_rule(fault):
    forward, pull = BAD[fault]
    rule = jax.custom_vjp(lambda x: jnp.sin(x))
    rule.defvjp(lambda x: (forward(x), x), pull)
    rule.__name__ = "rule"
    assert check_vjp(rule, X, expect="straight-through").verdict == "wrong"
    found = audit(lambda x: rule(x), X, expect={"<lambda>": "straight-through"})
    assert [r.verdict for r in found.rules] == ["wrong"]


def test_a_declared_difference_has_one_word():
    rule = vjp_of(1.5)
    assert check_vjp(rule, X, expect="meant").verdict == "differs as declared"
    (found,) = audit(rule, X, expect={"<lambda>": "meant"}).rules
    assert found.verdict == "differs as declared"
