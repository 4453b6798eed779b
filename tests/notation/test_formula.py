"""What is printed is what is so: formulas are read back and compared with the explicit Jacobian."""

from collections import Counter
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from jax import lax

from jacobians.derive.call import derive_call
from jacobians.derive.tape import evaluate_tape
from jacobians.notation.formula import formulas
from jacobians.notation.text import bar
from jacobians.program.call import bind
from tests.derive.programs import RandomProgram, programs
from tests.notation.reading import NotReadableError, by_index, by_matrix

READ: Counter[str] = Counter()
MOST = 40_000


def read_back(f, values) -> None:
    """Compares every formula of a function with numbers."""
    with jax.enable_x64(True):
        values = [jnp.asarray(v) for v in values]
        call = bind(f, values)
        derivation = derive_call(call, double=True)
        texts = {k: formulas(derivation, 0, k) for k in call.selected}
        if not any(t.jacobian or t.vjp for t in texts.values()):
            return
        jacobian = jax.jit(jax.jacfwd(f, argnums=tuple(range(len(values)))))(*values)
        given = {derivation.number(k): np.asarray(v) for k, v in enumerate(values)}
        output = derivation.derivation.outputs[0]
        wanted = sorted({n for t in texts.values() for n in t.values.values()} | {output})
        made = evaluate_tape(derivation.tape, given, wanted)
    out_shape = call.outputs[0].shape
    generator = np.random.default_rng(1)
    cotangent = generator.normal(size=out_shape)
    for k, text in texts.items():
        tensor = np.asarray(jacobian[k])
        in_shape = call.inputs[k].shape
        if not np.isfinite(tensor).all():
            continue
        arrays = {name: made[number] for name, number in text.values.items()}
        arrays["y"] = made[output]
        arrays[bar("y")] = cotangent
        pulled = np.tensordot(cotangent, tensor, cotangent.ndim)
        scale = max(1.0, np.abs(tensor).max(initial=0.0))
        sizes = [n for a in arrays.values() for n in np.shape(a)]
        reach = max([*out_shape, *in_shape, *sizes, 1])
        try:
            if text.jacobian and text.jacobian.split(" = ", 1)[1] != "0":
                right = text.jacobian.split(" = ", 1)[1]
                letters = [*text.index[0], *text.index[1]]
                shape = (*out_shape, *in_shape)
                if "equal positions" not in right and _visits(right, shape, reach) <= MOST:
                    found = by_index(right, letters, shape, arrays, reach)
                    np.testing.assert_allclose(
                        found, tensor, 1e-5, 1e-6 * scale, err_msg=text.jacobian
                    )
                    READ["Jacobian"] += 1
            if text.vjp:
                left, right = text.vjp.split(" = ", 1)
                if left.endswith("]"):
                    letters = left[left.rindex("[") + 1 : -1].split(",")
                    if _visits(right, in_shape, reach) > MOST:
                        continue
                    found = by_index(right, letters, in_shape, arrays, reach)
                    READ["VJP by index"] += 1
                else:
                    found = by_matrix(right, in_shape, arrays)
                    READ["VJP"] += 1
                np.testing.assert_allclose(found, pulled, 1e-5, 1e-5 * scale, err_msg=text.vjp)
        except NotReadableError as unknown:
            READ[f"not read: {unknown}"] += 1


def _visits(text, shape, reach) -> int:
    most = max((part.split(" ")[0].count(",") + 1 for part in text.split("Σ_")[1:]), default=0)
    return prod(shape) * reach**most


def softmax(x):
    return jax.nn.softmax(x, -1)


def layer_norm(x, g, b):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g + b


def convolution(stride, padding, groups=1):
    return lambda x, k: lax.conv_general_dilated(
        x, k, (stride,), padding, feature_group_count=groups
    )


TABLE = {
    "the lecture": (lambda W, x: jnp.sum((W @ x) ** 2), [(3, 4), (4,)]),
    "two layers": (lambda V, W, x: V @ jnp.maximum(0, W @ x), [(2, 3), (3, 4), (4,)]),
    "a batch": (lambda V, W, x: jnp.maximum(0, x @ W.T) @ V.T, [(2, 3), (3, 4), (5, 4)]),
    "softmax": (softmax, [(3, 4)]),
    "softmax over rows": (lambda x: jax.nn.softmax(x, 0), [(3, 4)]),
    "log_softmax": (lambda x: jax.nn.log_softmax(x), [(3, 4)]),
    "layer norm": (layer_norm, [(3, 4), (4,), (4,)]),
    "a part of the output": (lambda x, y: jnp.concatenate([x, y]), [(4,), (3,)]),
    "a part of the input": (lambda x: x[:2] * 2, [(5,)]),
    "padding": (lambda x: jnp.pad(x, (0, 2)), [(3,)]),
    "differences": (lambda x: (x[1:] - x[:-1]) ** 2, [(6,)]),
    "a wheel": (lambda x: jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1), [(5,)]),
    "a lower triangle": (lambda A, x: jnp.tril(A) @ x, [(4, 4), (4,)]),
    "a running sum": (jnp.cumsum, [(5,)]),
    "convolution": (convolution(1, "SAME"), [(1, 1, 6), (1, 1, 3)]),
    "strided convolution": (convolution(2, "SAME"), [(1, 2, 5), (2, 2, 3)]),
    "grouped convolution": (convolution(1, "VALID", 2), [(1, 4, 4), (2, 2, 2)]),
    "tile and repeat": (lambda x: jnp.tile(jnp.repeat(x, 2), 2), [(3,)]),
    "reshape": (lambda x: x.reshape(3, 4) * 1.0, [(4, 3)]),
    "a branch": (
        lambda x: lax.cond(x[0] > 0, lambda v: 2 * v, lambda v: v[::-1], x),
        [(4,)],
    ),
    "names that are letters": (lambda k, i, a: k @ i + a, [(2, 3), (3, 4), (4,)]),
    "an input called y": (lambda y, x: jnp.tanh(y) * x, [(3,), (3,)]),
    "outer product": (lambda x, z: jnp.outer(x, z), [(3,), (4,)]),
    "bias": (lambda x, b: x + b, [(3, 4), (4,)]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_printed_formulas_say_what_the_jacobian_is(name):
    f, shapes = TABLE[name]
    generator = np.random.default_rng(5)
    before = READ.total()
    read_back(f, [generator.normal(size=shape) for shape in shapes])
    assert READ.total() > before


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=3))
def test_formulas_of_random_programs_are_so(program: RandomProgram):
    note(program.describe())
    generator = np.random.default_rng(0)
    read_back(program, [generator.normal(size=shape) for shape in program.shapes])


@pytest.mark.long
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=5))
def test_formulas_of_random_programs_are_so_long(program: RandomProgram):
    note(program.describe())
    generator = np.random.default_rng(0)
    read_back(program, [generator.normal(size=shape) for shape in program.shapes])
