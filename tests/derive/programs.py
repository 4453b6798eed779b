"""Random JAX programs, composed from the operations that the derivation knows.

A program is a list of steps; each takes values from a pool that starts with the inputs, and adds
one. Hypothesis draws it, so that a failing program shrinks to a short one, and `describe` prints
it as something one can read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.choices import Choices, Drawn

LARGEST = 60

Step = tuple[str, Callable[..., Any], tuple[int, ...]]


@dataclass
class RandomProgram:
    """A program as a function of its inputs, with how it was made."""

    shapes: tuple[tuple[int, ...], ...]
    steps: list[Step] = field(default_factory=list)

    def __call__(self, *inputs: Any) -> Any:
        pool = list(inputs)
        for _, f, operands in self.steps:
            pool.append(f(*(pool[k] for k in operands)))
        return pool[-1]

    def describe(self) -> str:
        """The program, one step a line."""
        lines = [f"v{k} = input {shape}" for k, shape in enumerate(self.shapes)]
        for k, (name, _, operands) in enumerate(self.steps):
            arguments = ", ".join(f"v{o}" for o in operands)
            lines.append(f"v{len(self.shapes) + k} = {name}({arguments})")
        return "\n".join(lines)


def _constant(shape: tuple[int, ...], seed: int, holes: bool = False) -> np.ndarray:
    generator = np.random.default_rng(seed)
    made = generator.normal(size=shape)
    return made * (generator.uniform(size=shape) < 0.6) if holes else made


UNARY: dict[str, Callable[[Any], Any]] = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "square": jnp.square,
    "cube": lambda x: x**3,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "exp": lambda x: jnp.exp(jnp.clip(x, -2, 2)),
    "log1p": lambda x: jnp.log1p(x * x),
    "sqrt": lambda x: jnp.sqrt(1 + x * x),
    "rsqrt": lambda x: lax.rsqrt(1 + x * x),
    "erf": jax.scipy.special.erf,
    "atan": jnp.arctan,
    "stop": lax.stop_gradient,
    "jit": jax.jit(lambda x: jnp.cos(x) + 1),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * x),
    "round": jnp.round,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "scale": lambda x: -2.5 * x,
    "to_f32": lambda x: x.astype(jnp.float32).astype(x.dtype) + x,
    "double": lambda x: x + x,
    "cancel": lambda x: jnp.sin(x) - jnp.sin(x) + x,
}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "divide": lambda a, b: a / (2 + b * b),
    "power": lambda a, b: (1.5 + a * a) ** jnp.tanh(b),
    "atan2": lambda a, b: jnp.arctan2(a, b + 3 * jnp.sign(b) + 0.5),
    "where": lambda a, b: jnp.where(a > b, a, 2 * b),
    "cond": lambda a, b: lax.cond(
        jnp.sum(a) > jnp.sum(b) + 0.1234, lambda p, q: p * q, lambda p, q: p + 1, a, b
    ),
}


@st.composite
def programs(draw: st.DrawFn, steps: int = 6) -> RandomProgram:
    """Draws a program of one or two inputs with up to `steps` steps."""
    return random_program(Drawn(draw), steps)


def random_program(
    choose: Choices, steps: int = 6, makers: "dict[str, Maker] | None" = None
) -> RandomProgram:
    """A program of one or two inputs with up to `steps` steps, of all makers or of those given."""
    count = choose.integer(1, 2)
    shapes = tuple(
        tuple(choose.integer(1, 4) for _ in range(choose.integer(0, 3))) for _ in range(count)
    )
    program = RandomProgram(shapes)
    pool = list(shapes)
    for _ in range(choose.integer(1, steps)):
        step, shape = _draw_step(choose, pool, makers or MAKERS)
        program.steps.append(step)
        pool.append(shape)
    return program


def _draw_step(
    choose: Choices, pool: list[tuple[int, ...]], makers: "dict[str, Maker]"
) -> tuple[Step, tuple[int, ...]]:
    # the latest value is the likeliest operand, so that programs are deep as well as wide
    latest = len(pool) - 1
    first = latest if choose.flag() else choose.integer(0, latest)
    kind = choose.among(sorted(makers))
    made = makers[kind](choose, pool, first)
    if made is None:
        name = choose.among(sorted(UNARY))
        made = name, UNARY[name], (first,)
    name, f, operands = made
    with jax.enable_x64(True):
        result = jax.eval_shape(f, *(jax.ShapeDtypeStruct(pool[k], jnp.float64) for k in operands))
    if prod(result.shape) > LARGEST or prod(result.shape) == 0:
        return ("sin", jnp.sin, (first,)), pool[first]
    return (name, f, operands), tuple(result.shape)


def _unary(choose: Choices, pool: list, first: int) -> Step:
    name = choose.among(sorted(UNARY))
    return name, UNARY[name], (first,)


def _binary(choose: Choices, pool: list, first: int) -> Step | None:
    partners = []
    for k, shape in enumerate(pool):
        try:
            np.broadcast_shapes(shape, pool[first])
        except ValueError:
            continue
        partners.append(k)
    second = choose.among(partners)
    name = choose.among(sorted(BINARY))
    f = BINARY[name]
    if name == "cond":
        return name, lambda a, b: f(*jnp.broadcast_arrays(a, b)), (first, second)
    return name, f, (first, second)


def _reshape(choose: Choices, pool: list, first: int) -> Step:
    size = prod(pool[first])
    shape: list[int] = []
    rest = size
    while rest > 1 and len(shape) < 3:
        d = choose.among([d for d in range(1, rest + 1) if rest % d == 0])
        shape.append(d)
        rest //= d
    shape.append(rest)
    return f"reshape{tuple(shape)}", lambda x: x.reshape(shape), (first,)


def _move(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    rank = len(shape)
    if not rank:
        return "expand", lambda x: x[None], (first,)
    axis = choose.integer(0, rank - 1)
    n = shape[axis]
    order = choose.order(rank)
    start = choose.integer(0, n - 1)
    stop = choose.integer(start + 1, n)
    stride = choose.integer(1, 2)
    low, high = choose.integer(-1, 2), choose.integer(-1, 2)
    interior = choose.integer(0, 1)
    config = [(0, 0, 0)] * rank
    config[axis] = (low, high, interior)
    window = [slice(None)] * rank
    window[axis] = slice(start, stop, stride)
    shift = choose.integer(-2, 2)
    options: dict[str, Callable[[Any], Any]] = {
        f"transpose{tuple(order)}": lambda x: x.transpose(order),
        f"flatten in order {tuple(order)}": lambda x: lax.reshape(x, (x.size,), order),
        f"flip({axis})": lambda x: jnp.flip(x, axis),
        f"slice({axis}, {start}:{stop}:{stride})": lambda x: x[tuple(window)],
        f"pad({axis}, {low}, {high}, {interior})": lambda x: lax.pad(
            x, jnp.zeros((), x.dtype), config
        ),
        f"roll({shift}, {axis})": lambda x: jnp.roll(x, shift, axis),
        f"twice({axis})": lambda x: jnp.concatenate([x, jnp.sin(x)], axis),
        f"tile({axis})": lambda x: jnp.tile(x, [2 if d == axis else 1 for d in range(rank)]),
        f"repeat({axis})": lambda x: jnp.repeat(x, 2, axis),
        f"stack({axis})": lambda x: jnp.stack([x, 2 * x], axis),
        f"expand({axis})": lambda x: jnp.expand_dims(x, axis),
        f"broadcast({axis})": lambda x: jnp.broadcast_to(x, (2, *x.shape)),
        f"diff({axis})": lambda x: jnp.diff(x, axis=axis) if n > 1 else x,
        "ravel": lambda x: x.ravel(),
    }
    if n + low + high + interior * (n - 1) < 1 or (n == 1 and low + high < 0):
        options.pop(f"pad({axis}, {low}, {high}, {interior})")
    name = choose.among(sorted(options))
    return name, options[name], (first,)


def _reduce(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    axis = choose.integer(0, len(shape) - 1)
    keep = choose.flag()
    reverse = choose.flag()
    options: dict[str, Callable[[Any], Any]] = {
        "sum": lambda x: x.sum(axis, keepdims=keep),
        "mean": lambda x: x.mean(axis, keepdims=keep),
        "max": lambda x: x.max(axis, keepdims=keep),
        "prod": lambda x: x.prod(axis, keepdims=keep),
        "var": lambda x: x.var(axis, keepdims=keep),
        "total": lambda x: x.sum(),
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis, keepdims=keep),
        "norm": lambda x: jnp.linalg.norm(x, axis=axis, keepdims=keep),
        "cumsum": lambda x: lax.cumsum(x, axis, reverse=reverse),
        "cumprod": lambda x: lax.cumprod(x, axis, reverse=reverse),
        "cummax": lambda x: lax.cummax(x, axis, reverse=reverse),
        "cumlogsumexp": lambda x: lax.cumlogsumexp(x, axis, reverse=reverse),
        "softmax": lambda x: jax.nn.softmax(x, axis),
        "sort": lambda x: jnp.sort(x, axis),
        "standardise": lambda x: (
            (x - x.mean(axis, keepdims=True)) / (1 + x.std(axis, keepdims=True))
        ),
        "associative_scan": lambda x: lax.associative_scan(
            lambda a, b: a + b, x, reverse=reverse, axis=axis
        ),
        "associative_product": lambda x: lax.associative_scan(
            jnp.multiply, x, reverse=reverse, axis=axis
        ),
        "fft": lambda x: jnp.abs(jnp.fft.fft(x + 0.1, axis=axis)),
        "top_k": lambda x: lax.top_k(x, 1)[0],
    }
    name = choose.among(sorted(options))
    return f"{name}(axis={axis})", options[name], (first,)


def _contract(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    n = shape[-1]
    seed = choose.integer(0, 99)
    width = choose.integer(1, 3)
    stride = choose.integer(1, 3)
    dilation = choose.integer(1, 2)
    lhs = choose.integer(1, 2)
    padding = (choose.integer(0, 2), choose.integer(0, 2))
    matrix = _constant((n, width), seed, holes=True)
    lower = np.tril(_constant((n, n), seed))
    kernel = _constant((1, 1, width), seed)
    others = [k for k, s in enumerate(pool) if len(s) >= 1 and s[-1] == n]
    second = choose.among(others)

    def convolved(x: Any, k: Any) -> Any:
        flat = x.reshape(-1, 1, n)
        return lax.conv_general_dilated(
            flat,
            jnp.asarray(k, x.dtype),
            (stride,),
            [padding],
            lhs_dilation=(lhs,),
            rhs_dilation=(dilation,),
        ).reshape(*shape[:-1], -1)

    room = (n - 1) * lhs + 1 + sum(padding) - (width - 1) * dilation
    options: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
        "matmul": (lambda x: x @ matrix, (first,)),
        "lower": (lambda x: x @ lower, (first,)),
        "outer": (
            lambda a, b: jnp.outer(a.reshape(-1)[:4], b.reshape(-1)[:4]),
            (first, second),
        ),
        "dot": (lambda a, b: jnp.tensordot(a, b, [[a.ndim - 1], [b.ndim - 1]]), (first, second)),
        "self": (lambda x: jnp.einsum("...i,...i->...", x, jnp.sin(x)), (first,)),
    }
    if room >= 1:
        options["conv"] = (lambda x: convolved(x, kernel), (first,))
        options["conv_both"] = (
            lambda x, w: convolved(x, jnp.resize(w, (1, 1, width))), (first, second)
        )  # fmt: skip
    if width <= n:
        options["window_sum"] = (
            lambda x: lax.reduce_window(
                x,
                0.0,
                lax.add,
                (1,) * (x.ndim - 1) + (width,),
                (1,) * (x.ndim - 1) + (stride,),
                "VALID",
            ),
            (first,),
        )
        options["window_max"] = (
            lambda x: lax.reduce_window(
                x, -jnp.inf, lax.max, (1,) * (x.ndim - 1) + (width,), (1,) * x.ndim, "SAME"
            ),
            (first,),
        )
    name = choose.among(sorted(options))
    f, operands = options[name]
    return f"{name}(w={width}, s={stride}, d={dilation}, l={lhs}, p={padding})", f, operands


def _index(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    n = shape[0]
    table = np.array([choose.integer(-n, n) for _ in range(choose.integer(1, 4))], np.int32)
    inside = np.clip(table, -n, n - 1).astype(np.int32)
    unique = np.unique(inside % n).astype(np.int32)
    size = choose.integer(1, n)
    known = choose.integer(-1, n)

    def where(x: Any) -> Any:
        return jnp.argmax(x.reshape(-1)) % n

    def unknown(x: Any) -> Any:
        return jnp.stack([where(x), (where(x) + 1) % n])

    options: dict[str, Callable[[Any], Any]] = {
        f"take{inside.tolist()}": lambda x: x[inside],
        f"fill{table.tolist()}": lambda x: x.at[table].get(mode="fill", fill_value=0.0),
        f"clip{table.tolist()}": lambda x: x.at[table].get(mode="clip"),
        "gather unknown": lambda x: x[unknown(x)],
        "index unknown": lambda x: x[where(x)],
        "sort by": lambda x: lax.sort((x, jnp.sin(x) + x[::-1]), dimension=0, num_keys=1)[1],
        "along": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 0)[:1], 0),
        f"dynamic_slice({size})": lambda x: lax.dynamic_slice_in_dim(x, where(x), size),
        f"slice at {known}({size})": lambda x: lax.dynamic_slice_in_dim(x, known, size),
        f"update({size})": lambda x: lax.dynamic_update_slice_in_dim(
            x, jnp.sin(x[:size]), where(x), 0
        ),
        f"update at {known}({size})": lambda x: lax.dynamic_update_slice_in_dim(
            x, jnp.sin(x[:size]), known, 0
        ),
        f"set{unique.tolist()}": lambda x: x.at[unique].set(2 * x[: len(unique)]),
        f"add{inside.tolist()}": lambda x: x.at[inside].add(jnp.sin(x[inside])),
        "set unknown": lambda x: x.at[where(x)].set(jnp.cos(x[0])),
        "add unknown": lambda x: x.at[unknown(x)].add(x[0]),
        f"multiply{unique.tolist()}": lambda x: x.at[unique].multiply(x[0], unique_indices=True),
        f"max{unique.tolist()}": lambda x: x.at[unique].max(x[0]),
        f"segments{n}": lambda x: jax.ops.segment_sum(x, np.arange(n) // 2, num_segments=n),
    }
    name = choose.among(sorted(options))
    return name, options[name], (first,)


def _masked(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    seed = choose.integer(0, 20)
    mask = _constant(shape, seed) > 0
    if len(shape) >= 2 and choose.flag():
        mask = np.broadcast_to(np.tri(*shape[-2:], k=seed % 3 - 1, dtype=bool), shape)
    options: dict[str, Callable[[Any], Any]] = {
        "times mask": lambda x: x * mask,
        "where mask": lambda x: jnp.where(mask, x, 0.5),
        "choose": lambda x: jnp.where(mask, jnp.sin(x), jnp.flip(x)),
        "fill": lambda x: jnp.where(mask, x, -jnp.inf).max(),
        "arange": lambda x: x * jnp.arange(shape[-1]),
        "clip": lambda x: jnp.clip(x, -0.5, 0.7),
    }
    name = choose.among(sorted(options))
    if name == "fill" and not mask.any():
        name = "clip"
    return name, options[name], (first,)


def _loop(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    length = choose.among([1, 3, 12])
    reverse = choose.flag()
    W = _constant((shape[-1], shape[-1]), 7, holes=True)

    def step(c: Any, a: Any) -> Any:
        c = jnp.tanh(c + a)
        return c, c * a

    def mixing(c: Any, a: Any) -> Any:
        h, g = c
        return (jnp.tanh(h @ W), g + a), h + g

    def long(x: Any) -> Any:
        return jnp.stack([x] * length) * jnp.arange(1.0, length + 1).reshape(-1, *[1] * x.ndim)

    options: dict[str, Callable[[Any], Any]] = {
        "scan": lambda x: lax.scan(step, jnp.zeros(x.shape[1:], x.dtype), x, reverse=reverse)[1],
        "scan final": lambda x: lax.scan(step, jnp.sin(x[0]), x, reverse=reverse)[0],
        f"long scan {length}": lambda x: lax.scan(step, x, long(x), reverse=reverse)[1][-2:],
        f"mixing scan {length}": lambda x: lax.scan(mixing, (x, x), long(x), reverse=reverse)[1][
            :2
        ],
        f"fori {length}": lambda x: lax.fori_loop(0, length, lambda i, v: jnp.sin(v) * (i + 1), x),
        "fori roll": lambda x: lax.fori_loop(0, 2, lambda i, v: jnp.roll(v, 1, 0) + x, x),
        "while": lambda x: lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ W)), (0, x)
        )[1],
        "while value": lambda x: lax.while_loop(
            lambda v: jnp.sum(v * v) > 0.5, lambda v: 0.5 * jnp.sin(v), x
        ),
        "while linear": lambda x: lax.while_loop(
            lambda v: jnp.sum(v * v) > 0.5, lambda v: 0.5 * v[::-1], x
        ),
        "fori set": lambda x: lax.fori_loop(
            0, min(length, x.shape[0]), lambda i, v: v.at[i].set(v[i] * v[0]), x
        ),
        "switch": lambda x: lax.switch(
            jnp.argmax(x.reshape(-1)) % 3, [jnp.sin, lambda v: v[::-1], lambda v: v * v], x
        ),
        "vmap": lambda x: jax.vmap(lambda v: jnp.sum(v) * v)(x),
        "map": lambda x: lax.map(lambda v: jnp.cumsum(v.reshape(-1)), x),
    }
    name = choose.among(sorted(options))
    return f"{name}{' reversed' if reverse else ''}", options[name], (first,)


def _linear_algebra(choose: Choices, pool: list, first: int) -> Step | None:
    shape = pool[first]
    if not shape:
        return None
    n = shape[-1]
    A = _constant((n, n), 3) + 4 * np.eye(n)
    lower = choose.flag()

    def spread(x: Any) -> Any:
        return x[..., :, None] * x[..., None, :] + 2 * jnp.eye(n)

    options: dict[str, Callable[[Any], Any]] = {
        "solve": lambda x: jnp.linalg.solve(jnp.broadcast_to(A, (*shape[:-1], n, n)), x[..., None])[
            ..., 0
        ],
        "solve in": lambda x: jnp.linalg.solve(spread(x), x[..., None])[..., 0],
        "inverse": lambda x: jnp.linalg.inv(spread(x)).sum(-1),
        "cholesky": lambda x: jnp.linalg.cholesky(spread(x)).sum(-2),
        "triangular": lambda x: lax.linalg.triangular_solve(
            jnp.asarray(A, x.dtype), x.reshape(-1, n).T, left_side=True, lower=lower
        ),
        "determinant": lambda x: jnp.linalg.det(spread(x)),
        "eigenvalues": lambda x: jnp.linalg.eigvalsh(spread(x) + jnp.diag(jnp.arange(1.0, n + 1))),
    }
    name = choose.among(sorted(options))
    return name, options[name], (first,)


Maker = Callable[[Choices, list, int], Step | None]

MAKERS: dict[str, Maker] = {
    "unary": _unary,
    "binary": _binary,
    "binary again": _binary,
    "contract": _contract,
    "contract again": _contract,
    "index": _index,
    "index again": _index,
    "linear algebra": _linear_algebra,
    "loop": _loop,
    "masked": _masked,
    "move": _move,
    "move again": _move,
    "move too": _move,
    "reduce": _reduce,
    "reduce again": _reduce,
    "reshape": _reshape,
}
