"""Effects of JAX: callbacks, prints, arrays changed in place, keys: an answer, or a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import jacobians
from jacobians import audit, backprop, check_vjp, explain, jacobian

FLOAT = jax.ShapeDtypeStruct((), jnp.float32)


def printing(x):
    jax.debug.print("{}", x)
    return jnp.sin(x) * x


def ordered_callback(x):
    jax.debug.callback(lambda _: None, x, ordered=True)
    return x * x


def scan_that_prints(x):
    def step(carry, y):
        jax.debug.print("{}", carry)
        return carry * y, carry

    return jax.lax.scan(step, x[0], x)[1]


def branch_that_prints(x):
    def printed(x):
        jax.debug.print("{}", x)
        return x * 2.0

    return jax.lax.cond(x[0] > 0, printed, lambda x: x, x)


def host_value(x):
    return x * io_callback(lambda: np.float32(2.0), FLOAT, ordered=True)


def pure_host_function(x):
    return x * jax.pure_callback(lambda a: np.sin(a), FLOAT, jax.lax.stop_gradient(x[0]))


def typed_key(x):
    return x * jax.random.uniform(jax.random.split(jax.random.key(0))[1], (3,))


@jax.custom_batching.custom_vmap
def batched_by_hand(x):
    return jnp.sin(x) * 2.0


@batched_by_hand.def_vmap
def _(size, batched, x):
    return jnp.sin(x) * 2.0, batched[0]


def changed_in_place(x):
    total = jax.new_ref(x)
    before = total[...]
    total[...] = before * x
    after = total[...]
    total[...] = jnp.zeros(3)
    return before * after + total[...]


def summed_in_place(x):
    total = jax.new_ref(jnp.zeros(()))

    def step(carry, y):
        total[...] = 2.0 * total[...] + carry * y
        return carry * y, None

    jax.lax.scan(step, x[0], x)
    return jnp.stack([total[...] * x[1], total[...], x[2]])


PROGRAMS = [
    printing,
    jax.jit(printing),
    jax.checkpoint(printing),
    ordered_callback,
    scan_that_prints,
    jax.jit(branch_that_prints),
    host_value,
    pure_host_function,
    typed_key,
    batched_by_hand,
    changed_in_place,
    jax.jit(summed_in_place),
]
X = jnp.array([0.5, 2.0, 3.0])


def true_jacobian(f):
    """By one `jax.jvp` an input, which arrays changed in place allow; None where JAX refuses."""
    try:
        jax.vjp(f, X)
        columns = [jax.jvp(f, (X,), (e,))[1] for e in jnp.eye(3)]
    except ValueError:
        return None
    return np.stack([np.asarray(c) for c in columns], axis=-1)


@pytest.mark.parametrize("f", PROGRAMS, ids=[getattr(f, "__name__", "vmapped") for f in PROGRAMS])
def test_effects_get_an_answer_or_a_sentence(f):
    true = true_jacobian(f)
    block = explain(f, X).blocks[0]
    pattern = block.pattern().toarray()
    jacobians.clear_cache()
    if true is None:
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            jacobian(f)(X)
    else:
        assert not ((true != 0) & ~pattern).any()
        np.testing.assert_allclose(jacobian(f, format="dense")(X), true, rtol=1e-5)
    for call in (backprop, audit):
        try:
            answer = str(call(f, X))
        except (ValueError, TypeError, NotImplementedError) as refusal:
            answer = str(refusal)
        assert len(answer.split()) > 5


def test_a_rule_around_effects_is_checked():
    def factor():
        return jax.random.key_data(jax.random.key(2))[1].astype(jnp.float32)

    @jax.custom_vjp
    def rule(x):
        jax.debug.callback(lambda _: None, x, ordered=True)
        return jax.jit(printing)(x) * factor()

    def backward(x, c):
        return (c * factor() * (jnp.cos(x) * x + jnp.sin(x)),)

    rule.defvjp(lambda x: (rule(x), x), backward)
    assert check_vjp(rule, X)
    assert audit(lambda x: rule(x) * x, X)


def test_what_the_host_returns_is_asked_at_every_call():
    count = []

    def f(x):
        def next_number():
            count.append(1)
            return np.float32(len(count))

        return x * io_callback(next_number, FLOAT, ordered=True)

    slope = jacobian(f, format="dense")
    first = float(slope(X)[0, 0])
    assert float(slope(X)[0, 0]) > first
    assert explain(f, X).blocks[0].structure.kind == "scaled-identity"


def test_arrays_changed_in_place_are_wide_and_said_so():
    explanation = explain(changed_in_place, X)
    assert explanation.blocks[0].nnz == 9
    assert any("changed in place" in note for note in explanation.notes)
