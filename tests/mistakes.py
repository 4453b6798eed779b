"""A bank of planted mistakes: functions with a right VJP and with wrong ones, by kind of mistake.

An entry is three lines: the decorator with the kinds of diagnosis that count as right, and a rule.

    @wrong("softmax", "missing-term")
    def without_the_sum(c, x):
        return (softmax(x) * c,)

`FUNCTIONS` and `MISTAKES` hold them all; `as_custom` makes a `jax.custom_vjp` function of a rule,
which is what `jax.test_util.check_grads` takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Rule = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Function:
    """A function, its right VJP, and how its inputs are drawn; special ones are not scaled."""

    name: str
    f: Callable[..., Any]
    rule: Rule
    draw: Callable[[np.random.Generator], tuple[Any, ...]]
    special: bool = False


@dataclass(frozen=True)
class Mistake:
    """A wrong VJP; `forward` is what its forward pass returns where that is the mistake."""

    function: str
    name: str
    kinds: tuple[str, ...]
    rule: Rule
    forward: Callable[..., Any] | None = None


FUNCTIONS: dict[str, Function] = {}
MISTAKES: list[Mistake] = []


def right(f: Callable[..., Any], *shapes: tuple[int, ...], draw: Any = None) -> Any:
    """Registers the right VJP of a function; inputs are normal arrays of these shapes, or drawn."""

    def normal(generator: np.random.Generator) -> tuple[Any, ...]:
        return tuple(generator.normal(size=s).astype(np.float32) for s in shapes)

    def register(rule: Rule) -> Rule:
        special = draw is not None
        FUNCTIONS[f.__name__] = Function(f.__name__, f, rule, draw or normal, special)
        return rule

    return register


def wrong(function: str, *kinds: str, forward: Any = None) -> Any:
    """Registers a wrong VJP of a function and the kinds of diagnosis that tell its mistake."""

    def register(rule: Rule) -> Rule:
        MISTAKES.append(Mistake(function, rule.__name__, kinds, rule, forward))
        return rule

    return register


def as_custom(function: Function, rule: Rule, forward: Any = None) -> Callable[..., Any]:
    """The function as a `jax.custom_vjp` with that rule; integer arguments get no cotangent."""

    @jax.custom_vjp
    def custom(*args: Any) -> Any:
        return function.f(*args)

    def bwd(args: Any, c: Any) -> Any:
        return tuple(rule(c, *args))

    custom.defvjp(lambda *args: ((forward or function.f)(*args), args), bwd)
    return custom


SCALES = (1.0, 1e-3, 30.0)


def inputs(function: Function, seed: int) -> tuple[Any, ...]:
    """The inputs of a function by number: every fourth at kinks, the others at several scales.

    Number 0 is drawn plainly. At kinks some entries are 0 or equal to another. A scale multiplies
    each float argument by itself, except where the function asks for inputs of its own kind.
    """
    generator = np.random.default_rng(seed)
    args = function.draw(generator)
    if seed == 0:
        return args
    made = []
    for a in args:
        x = np.asarray(a)
        if x.dtype.kind == "f" and seed % 4 == 1 and x.size > 1:
            x = np.where(generator.random(x.shape) < 0.4, np.float32(0), np.round(x))
        elif x.dtype.kind == "f" and not function.special:
            x = x * np.float32(generator.choice(SCALES))
            x = x * np.float32(10.0) ** generator.integers(-2, 2, x.shape).astype(np.float32)
        made.append(a if x.dtype.kind == "i" else jnp.asarray(x))
    return args if function.special else tuple(made)


# elementwise


def leaky_relu(x):
    return jnp.where(x > 0, x, 0.1 * x)


@right(leaky_relu, (7,))
def _(c, x):
    return (jnp.where(x > 0, c, 0.1 * c),)


@wrong("leaky_relu", "sign")
def leaky_sign(c, x):
    return (-jnp.where(x > 0, c, 0.1 * c),)


@wrong("leaky_relu", "mask-inverted")
def leaky_inverted(c, x):
    return (jnp.where(x < 0, c, 0.1 * c),)


@wrong("leaky_relu", "missing-term", "region")
def leaky_zero_below(c, x):
    return (jnp.where(x > 0, c, 0.0),)


@wrong("leaky_relu", "nonlinear")
def leaky_squared(c, x):
    return (jnp.where(x > 0, c * c, 0.1 * c),)


@wrong("leaky_relu", "region")
def leaky_last_block(c, x):
    return (jnp.where(x > 0, c, 0.1 * c).at[4:].multiply(0.5),)


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


@right(gelu, (6,))
def _(c, x):
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return (c * 0.5 * (1 + t + x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)),)


@wrong("gelu", "factor", "local-derivative")
def gelu_factor_3_missing(c, x):
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return (c * 0.5 * (1 + t + x * (1 - t * t) * 0.7978845608 * (1 + 0.044715 * x * x)),)


@wrong("gelu", "missing-term")
def gelu_direct_term_missing(c, x):
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return (c * 0.5 * (x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x)),)


@wrong("gelu", "local-derivative")
def gelu_tanh_not_squared(c, x):
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return (c * 0.5 * (1 + t + x * (1 - t) * 0.7978845608 * (1 + 0.134145 * x * x)),)


@wrong("gelu", "low-precision")
def gelu_bfloat16(c, x):
    t = jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))
    d = 0.5 * (1 + t + x * (1 - t * t) * 0.7978845608 * (1 + 0.134145 * x * x))
    return ((c * d).astype(jnp.bfloat16).astype(x.dtype),)


def tanh_scaled(x, scale):
    return scale * jnp.tanh(x)


@right(tanh_scaled, (5,), ())
def _(c, x, scale):
    t = jnp.tanh(x)
    return c * scale * (1 - t * t), jnp.sum(c * t)


@wrong("tanh_scaled", "stale-residual", "local-derivative")
def tanh_of_input(c, x, scale):
    return c * scale * (1 - x * x), jnp.sum(c * jnp.tanh(x))


@wrong("tanh_scaled", "factor")
def tanh_scale_missing(c, x, scale):
    return c * (1 - jnp.tanh(x) ** 2), jnp.sum(c * jnp.tanh(x))


@wrong("tanh_scaled", "mean-for-sum")
def tanh_scale_mean(c, x, scale):
    return c * scale * (1 - jnp.tanh(x) ** 2), jnp.mean(c * jnp.tanh(x))


@wrong("tanh_scaled", "zero")
def tanh_scale_zero(c, x, scale):
    return c * scale * (1 - jnp.tanh(x) ** 2), jnp.zeros_like(scale)


@wrong("tanh_scaled", "region")
def tanh_saturated(c, x, scale):
    return c * scale * jnp.where(jnp.abs(x) > 0.5, 0, 1 - jnp.tanh(x) ** 2), jnp.sum(
        c * jnp.tanh(x)
    )


# broadcasting


def affine(x, w, b):
    return x * w + b


@right(affine, (4, 3), (3,), (3,))
def _(c, x, w, b):
    return c * w, jnp.sum(c * x, 0), jnp.sum(c, 0)


@wrong("affine", "missing-sum")
def affine_no_sum(c, x, w, b):
    return c * w, jnp.sum(c * x, 0), c


@wrong("affine", "mean-for-sum")
def affine_mean(c, x, w, b):
    return c * w, jnp.sum(c * x, 0), jnp.mean(c, 0)


@wrong("affine", "swapped")
def affine_swapped(c, x, w, b):
    return c * w, jnp.sum(c, 0), jnp.sum(c * x, 0)


@wrong("affine", "missing-sum")
def affine_first_row(c, x, w, b):
    return c * w, jnp.sum(c * x, 0), c[0]


@wrong("affine", "ignores-cotangent")
def affine_ignores(c, x, w, b):
    return c * w, jnp.sum(x, 0), jnp.sum(c, 0)


# matmul


def matmul(a, b):
    return a @ b


@right(matmul, (3, 3), (3, 3))
def _(c, a, b):
    return c @ b.T, a.T @ c


@wrong("matmul", "transposed")
def matmul_not_transposed(c, a, b):
    return c @ b, a.T @ c


@wrong("matmul", "transposed")
def matmul_result_transposed(c, a, b):
    return c @ b.T, c.T @ a


@wrong("matmul", "swapped")
def matmul_swapped(c, a, b):
    return a.T @ c, c @ b.T


@wrong("matmul", "low-precision")
def matmul_bfloat16(c, a, b):
    low = jnp.bfloat16
    return (c.astype(low) @ b.T.astype(low)).astype(a.dtype), a.T @ c


@wrong("matmul", "factor")
def matmul_one_per_cent(c, a, b):
    return 1.001 * c @ b.T, a.T @ c


# norms


def norm(x):
    return jnp.sqrt(jnp.sum(x * x))


@right(norm, (5,))
def _(c, x):
    return (c * x / norm(x),)


@wrong("norm", "factor")
def norm_twice(c, x):
    return (2 * c * x / norm(x),)


@wrong("norm", "factor", "local-derivative")
def norm_not_divided(c, x):
    return (c * x,)


@wrong("norm", "factor", "local-derivative", "stale-residual")
def norm_divided_twice(c, x):
    return (c * x / norm(x) ** 2,)


def rms_norm(x, g):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * g


@right(rms_norm, (3, 4), (4,))
def _(c, x, g):
    r = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    cg = c * g
    return r * cg - x * r**3 * jnp.mean(cg * x, -1, keepdims=True), jnp.sum(c * x * r, 0)


@wrong("rms_norm", "missing-term")
def rms_detached(c, x, g):
    r = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return r * c * g, jnp.sum(c * x * r, 0)


@wrong("rms_norm", "factor")
def rms_sum_for_mean(c, x, g):
    r = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    cg = c * g
    return r * cg - x * r**3 * jnp.sum(cg * x, -1, keepdims=True), jnp.sum(c * x * r, 0)


@wrong("rms_norm", "sign")
def rms_plus(c, x, g):
    r = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    cg = c * g
    return r * cg + x * r**3 * jnp.mean(cg * x, -1, keepdims=True), jnp.sum(c * x * r, 0)


@wrong("rms_norm", "stale-residual", "factor")
def rms_gain_from_input(c, x, g):
    r = 1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    cg = c * g
    return r * cg - x * r**3 * jnp.mean(cg * x, -1, keepdims=True), jnp.sum(c * x, 0)


# softmax and losses


def softmax(x):
    e = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e / jnp.sum(e, -1, keepdims=True)


@right(softmax, (2, 4))
def _(c, x):
    y = softmax(x)
    return (y * (c - jnp.sum(c * y, -1, keepdims=True)),)


@wrong("softmax", "missing-term")
def softmax_no_sum(c, x):
    return (softmax(x) * c,)


@wrong("softmax", "factor", "mean-for-sum")
def softmax_mean(c, x):
    y = softmax(x)
    return (y * (c - jnp.mean(c * y, -1, keepdims=True)),)


@wrong("softmax", "sign")
def softmax_plus(c, x):
    y = softmax(x)
    return (y * (c + jnp.sum(c * y, -1, keepdims=True)),)


@wrong("softmax", "wrong-axis")
def softmax_other_axis(c, x):
    y = softmax(x)
    return (y * (c - jnp.sum(c * y, 0, keepdims=True)),)


@wrong("softmax", "non-finite")
def softmax_nan(c, x):
    y = softmax(x)
    return (y * (c - jnp.sum(c * y, -1, keepdims=True)) + 0 * jnp.log(x - jnp.max(x)),)


@wrong("softmax", "nondeterministic")
def softmax_random(c, x):
    y = softmax(x) * (1 + 1e-3 * np.random.default_rng().normal())
    return (y * (c - jnp.sum(c * y, -1, keepdims=True)),)


@wrong("softmax", "primal", forward=lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x)))
def softmax_forward(c, x):
    y = softmax(x)
    return (y * (c - jnp.sum(c * y, -1, keepdims=True)),)


def cross_entropy(logits, labels):
    rows = jnp.arange(logits.shape[0])
    return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[rows, labels])


def _labelled(generator):
    return (
        generator.normal(size=(4, 3)).astype(np.float32),
        jnp.asarray(generator.integers(0, 3, 4).astype(np.int32)),
    )


@right(cross_entropy, draw=_labelled)
def _(c, logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return c * (jax.nn.softmax(logits) - hot) / logits.shape[0], None


@wrong("cross_entropy", "factor")
def cross_entropy_not_averaged(c, logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return c * (jax.nn.softmax(logits) - hot), None


@wrong("cross_entropy", "factor")
def cross_entropy_averaged_twice(c, logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return c * (jax.nn.softmax(logits) - hot) / logits.shape[0] ** 2, None


@wrong("cross_entropy", "missing-term")
def cross_entropy_no_labels(c, logits, labels):
    return c * jax.nn.softmax(logits) / logits.shape[0], None


@wrong("cross_entropy", "sign")
def cross_entropy_sign(c, logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return c * (hot - jax.nn.softmax(logits)) / logits.shape[0], None


# layer norm and attention


def layer_norm(x, g):
    mu = x.mean(-1, keepdims=True)
    var = ((x - mu) ** 2).mean(-1, keepdims=True)
    return (x - mu) / jnp.sqrt(var + 1e-5) * g


def _layer_norm(c, x, g, mean=1.0, var=1.0):
    mu = x.mean(-1, keepdims=True)
    s = jnp.sqrt(((x - mu) ** 2).mean(-1, keepdims=True) + 1e-5)
    h, cg = (x - mu) / s, c * g
    dx = cg - mean * cg.mean(-1, keepdims=True) - var * h * (cg * h).mean(-1, keepdims=True)
    return dx / s, jnp.sum(c * h, 0)


@right(layer_norm, (3, 4), (4,))
def _(c, x, g):
    return _layer_norm(c, x, g)


@wrong("layer_norm", "missing-term")
def layer_norm_no_mean(c, x, g):
    return _layer_norm(c, x, g, mean=0.0)


@wrong("layer_norm", "missing-term")
def layer_norm_no_variance(c, x, g):
    return _layer_norm(c, x, g, var=0.0)


@wrong("layer_norm", "missing-term")
def layer_norm_detached(c, x, g):
    return _layer_norm(c, x, g, mean=0.0, var=0.0)


@wrong("layer_norm", "double-term", "factor")
def layer_norm_variance_twice(c, x, g):
    return _layer_norm(c, x, g, var=2.0)


@wrong("layer_norm", "factor")
def layer_norm_no_gain(c, x, g):
    return _layer_norm(c, x, jnp.ones_like(g))[0], _layer_norm(c, x, g)[1]


def attention(q, k, v):
    p = jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1]), -1)
    return p @ v


def _attention(c, q, k, v, scale=1.0, diagonal=1.0):
    root = jnp.sqrt(q.shape[-1])
    p = jax.nn.softmax(q @ k.T / root, -1)
    dp = c @ v.T
    ds = p * (dp - diagonal * jnp.sum(dp * p, -1, keepdims=True)) / root * scale
    return ds @ k, ds.T @ q, p.T @ c


@right(attention, (3, 4), (3, 4), (3, 4))
def _(c, q, k, v):
    return _attention(c, q, k, v)


@wrong("attention", "factor")
def attention_no_scale(c, q, k, v):
    return _attention(c, q, k, v, scale=jnp.sqrt(q.shape[-1]))


@wrong("attention", "missing-term")
def attention_no_row_sum(c, q, k, v):
    return _attention(c, q, k, v, diagonal=0.0)


@wrong("attention", "swapped")
def attention_swapped(c, q, k, v):
    dq, dk, dv = _attention(c, q, k, v)
    return dk, dq, dv


@wrong("attention", "transposed")
def attention_not_transposed(c, q, k, v):
    dq, dk, _ = _attention(c, q, k, v)
    return dq, dk, jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1]), -1) @ c


@wrong("attention", "region")
def attention_last_block(c, q, k, v):
    dq, dk, dv = _attention(c, q, k, v)
    return dq, dk.at[2:].set(0.0), dv


# gather, scatter, convolution


def embed(table, tokens):
    return table[tokens]


def _tokens(generator):
    return generator.normal(size=(4, 3)).astype(np.float32), jnp.array([2, 0, 2, 1, 2], jnp.int32)


@right(embed, draw=_tokens)
def _(c, table, tokens):
    return jnp.zeros_like(table).at[tokens].add(c), None


@wrong("embed", "missing-sum")
def embed_overwrites(c, table, tokens):
    return jnp.zeros_like(table).at[tokens].set(c), None


@wrong("embed", "shifted")
def embed_off_by_one(c, table, tokens):
    return jnp.zeros_like(table).at[(tokens + 1) % 4].add(c), None


@wrong("embed", "factor")
def embed_doubled(c, table, tokens):
    return jnp.zeros_like(table).at[tokens].add(2 * c), None


def conv(x, w):
    return jnp.convolve(x, w, mode="same")


@right(conv, (6,), (3,))
def _(c, x, w):
    padded = jnp.pad(x, 1)
    return jnp.convolve(c, w[::-1], mode="same"), jnp.array(
        [jnp.sum(c * padded[2 - k : 8 - k]) for k in range(3)]
    )


@wrong("conv", "transposed", "flipped")
def conv_not_flipped(c, x, w):
    padded = jnp.pad(x, 1)
    return jnp.convolve(c, w, mode="same"), jnp.array(
        [jnp.sum(c * padded[2 - k : 8 - k]) for k in range(3)]
    )


@wrong("conv", "flipped")
def conv_kernel_reversed(c, x, w):
    padded = jnp.pad(x, 1)
    return jnp.convolve(c, w[::-1], mode="same"), jnp.array(
        [jnp.sum(c * padded[k : 6 + k]) for k in range(3)]
    )


@wrong("conv", "region")
def conv_last_output(c, x, w):
    padded = jnp.pad(x, 1)
    return jnp.convolve(c.at[-1].set(0), w[::-1], mode="same"), jnp.array(
        [jnp.sum(c * padded[2 - k : 8 - k]) for k in range(3)]
    )


# scan, solve, fixed point


def recurrence(a, x):
    def step(h, xt):
        h = jnp.tanh(a * h + xt)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(a), x)[1]


def _recurrence(c, a, x, previous=1.0, stale=False):
    h = recurrence(a, x)
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])

    def step(carry, each):
        ct, ht, bt = each
        g = (ct + carry) * (1 - ht * ht)
        return previous * g * a, (g, g * (ht if stale else bt))

    gx, ga = jax.lax.scan(step, jnp.zeros_like(a), (c, h, before), reverse=True)[1]
    return jnp.sum(ga, 0), gx


@right(recurrence, (2,), (4, 2))
def _(c, a, x):
    return _recurrence(c, a, x)


@wrong("recurrence", "missing-term")
def recurrence_truncated(c, a, x):
    return _recurrence(c, a, x, previous=0.0)


@wrong("recurrence", "stale-residual")
def recurrence_after_update(c, a, x):
    return _recurrence(c, a, x, stale=True)[0], _recurrence(c, a, x)[1]


@wrong("recurrence", "sign")
def recurrence_sign(c, a, x):
    return _recurrence(c, a, x)[0], -_recurrence(c, a, x)[1]


def solve(a, b):
    return jnp.linalg.solve(a, b)


def _matrix(generator):
    a = generator.normal(size=(3, 3)).astype(np.float32) + 3 * np.eye(3, dtype=np.float32)
    return a, generator.normal(size=3).astype(np.float32)


@right(solve, draw=_matrix)
def _(c, a, b):
    y = jnp.linalg.solve(a.T, c)
    return -jnp.outer(y, jnp.linalg.solve(a, b)), y


@wrong("solve", "transposed")
def solve_not_transposed(c, a, b):
    y = jnp.linalg.solve(a.T, c)
    return -jnp.outer(y, jnp.linalg.solve(a, b)), jnp.linalg.solve(a, c)


@wrong("solve", "sign")
def solve_sign(c, a, b):
    y = jnp.linalg.solve(a.T, c)
    return jnp.outer(y, jnp.linalg.solve(a, b)), y


@wrong("solve", "stale-residual")
def solve_right_hand_side(c, a, b):
    y = jnp.linalg.solve(a.T, c)
    return -jnp.outer(y, b), y


@wrong("solve", "transposed")
def solve_outer_transposed(c, a, b):
    y = jnp.linalg.solve(a.T, c)
    return -jnp.outer(jnp.linalg.solve(a, b), y), y


def fixed_point(w, b):
    return jax.lax.fori_loop(0, 60, lambda _, x: jnp.tanh(w @ x + b), jnp.zeros_like(b))


def _fixed_point(c, w, b, identity=1.0, transpose=True):
    x = fixed_point(w, b)
    d = 1 - x * x
    j = d[:, None] * w
    m = jnp.eye(len(b), dtype=b.dtype) - identity * j
    u = d * jnp.linalg.solve(m.T if transpose else m, c)
    return jnp.outer(u, x), u


def _contraction(generator):
    w = generator.normal(size=(3, 3)).astype(np.float32)
    w *= 0.5 / np.linalg.norm(w, 2)
    return w, generator.normal(size=3).astype(np.float32)


@right(fixed_point, draw=_contraction)
def _(c, w, b):
    return _fixed_point(c, w, b)


@wrong("fixed_point", "missing-term")
def fixed_point_one_step(c, w, b):
    return _fixed_point(c, w, b, identity=0.0)


@wrong("fixed_point", "transposed")
def fixed_point_not_transposed(c, w, b):
    return _fixed_point(c, w, b)[0], _fixed_point(c, w, b, transpose=False)[1]


@wrong("fixed_point", "sign")
def fixed_point_sign(c, w, b):
    return _fixed_point(c, w, b, identity=-1.0)


def clip(x):
    return jnp.clip(x, -1.0, 1.0)


@right(clip, (8,))
def _(c, x):
    return (c * (jnp.abs(x) <= 1),)


@wrong("clip", "mask-missing", "passed-through")
def clip_straight_through(c, x):
    return (c,)


@wrong("clip", "mask-missing", "region")
def clip_upper_ignored(c, x):
    return (c * (x >= -1),)


@wrong("clip", "nonlinear")
def clip_cotangent(c, x):
    return (jnp.clip(c, -1, 1) * (jnp.abs(x) <= 1),)


def huber(x):
    return jnp.where(jnp.abs(x) <= 1, 0.5 * x * x, jnp.abs(x) - 0.5)


@right(huber, (16,))
def _(c, x):
    return (c * jnp.clip(x, -1, 1),)


@wrong("huber", "region")
def huber_square_everywhere(c, x):
    return (c * x,)


@wrong("huber", "sign")
def huber_sign_lost(c, x):
    return (c * jnp.where(jnp.abs(x) <= 1, x, 1),)


@wrong("huber", "factor")
def huber_half_below(c, x):
    return (c * jnp.where(jnp.abs(x) <= 1, 0.5 * x, jnp.sign(x)),)


def log_cosh(x):
    return jnp.abs(x) + jax.nn.softplus(-2 * jnp.abs(x))


@right(log_cosh, (6,))
def _(c, x):
    return (c * jnp.tanh(x),)


@wrong("log_cosh", "sign")
def log_cosh_sign(c, x):
    return (-c * jnp.tanh(x),)


def running_product(x):
    return jnp.cumprod(x)


@right(running_product, (5,))
def _(c, x):
    n = len(x)
    rows = [jnp.cumprod(x.at[k].set(1.0)) * (jnp.arange(n) >= k) for k in range(n)]
    return (jnp.stack(rows) @ c,)


@wrong("running_product", "transposed")
def running_product_forwards(c, x):
    return (jnp.cumsum(c * jnp.cumprod(x)) / x,)


def quantile(p, t):
    return jnp.mean(jnp.maximum(0.9 * (t - p), -0.1 * (t - p)))


def _quantile(c, p, t, above):
    g = c * jnp.where(above, 0.9, -0.1) / p.size
    return -g, g


@right(quantile, (6,), (6,))
def _(c, p, t):
    return _quantile(c, p, t, t > p)


@wrong("quantile", "mask-inverted")
def quantile_inverted(c, p, t):
    return _quantile(c, p, t, t < p)


def contrastive(z, w):
    s = 2.0 * z @ w.T
    return jnp.mean(jax.nn.logsumexp(s, -1) - jnp.diagonal(s))


def _contrastive(c, z, w, positive=1.0):
    d = jax.nn.softmax(2.0 * z @ w.T, -1) - positive * jnp.eye(len(z), dtype=z.dtype)
    d = 2.0 * c / len(z) * d
    return d @ w, d.T @ z


@right(contrastive, (4, 3), (4, 3))
def _(c, z, w):
    return _contrastive(c, z, w)


@wrong("contrastive", "missing-term")
def contrastive_no_positive(c, z, w):
    return _contrastive(c, z, w, positive=0.0)


def hinge(x):
    return jnp.maximum(0.0, 1.0 - x)


def _at_the_hinge(generator):
    x = generator.normal(size=6).astype(np.float32)
    x[1:3] = 1.0, 1.5
    return (x,)


@right(hinge, draw=_at_the_hinge)
def _(c, x):
    return (-c * (x < 1),)


@wrong("hinge", "boundary")
def hinge_counted_twice(c, x):
    return (-c * ((x < 1) + 2.0 * (x == 1)),)


@wrong("hinge", "mask-inverted")
def hinge_inverted(c, x):
    return (-c * (x > 1),)


@wrong("hinge", "region")
def hinge_threshold(c, x):
    return (-c * (x < 0),)


def modulus(z):
    return jnp.sum(jnp.abs(z) ** 2)


def _complex(generator):
    z = generator.normal(size=(2, 3)).astype(np.float32)
    return ((z[0] + 1j * z[1]).astype(np.complex64),)


@right(modulus, draw=_complex)
def _(c, z):
    return (2 * c * jnp.conj(z),)


@wrong("modulus", "conjugate")
def modulus_not_conjugated(c, z):
    return (2 * c * z,)


@wrong("modulus", "factor")
def modulus_half(c, z):
    return (c * jnp.conj(z),)
