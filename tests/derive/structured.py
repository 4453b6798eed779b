"""Programs that a wrong word about structure would be said of.

Constant matrices of every structure with one odd entry, row, diagonal or block, first, last or
anywhere; and masks with −∞, ∞, NaN and 0, whole rows of them included.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import lax

from tests.choices import Choices
from tests.derive.programs import MAKERS, Maker, RandomProgram, Step

LARGEST_MATRIX = 200

SQUARE = (
    "full", "diagonal", "identity", "scaled identity", "permutation", "circulant", "toeplitz",
    "banded", "lower", "upper", "symmetric", "outer", "diagonal and rank one", "blocks",
    "equal blocks", "kronecker", "sparse",
)  # fmt: skip


def numbers(choose: Choices, *shape: int) -> np.ndarray:
    """Random entries: small whole numbers, half of the time, or any."""
    generator = np.random.default_rng(choose.integer(0, 999))
    if choose.flag():
        return generator.integers(-2, 3, shape).astype(float)
    return generator.normal(size=shape)


def matrix(choose: Choices, n: int, kinds: tuple[str, ...] = SQUARE) -> tuple[str, np.ndarray]:
    """An n×n matrix of a structure, with its name."""
    kind = choose.among(kinds)
    full = numbers(choose, n, n)
    count = choose.among([d for d in range(1, n + 1) if n % d == 0])
    size = n // count
    if kind in ("blocks", "equal blocks", "kronecker") and 1 in (count, size):
        kind = "full"
    if kind == "blocks":
        inner = choose.among([k for k in SQUARE if "block" not in k and k != "kronecker"])
        parts = [matrix(choose, size, (inner,))[1] for _ in range(min(count, 4))]
        return f"blocks, each {inner}", scipy.linalg.block_diag(
            *(parts[k % 4 % len(parts)] for k in range(count))
        )
    if kind == "equal blocks":
        inner, part = matrix(choose, size, tuple(k for k in SQUARE if "block" not in k))
        return f"equal blocks, each {inner}", np.kron(np.eye(count), part)
    if kind == "kronecker":
        sides = [
            np.eye(count) if choose.flag() else numbers(choose, count, count),
            numbers(choose, size, size),
        ]
        return kind, np.kron(*sides)
    width = choose.integer(0, max(0, n // 2))
    options: dict[str, Callable[[], np.ndarray]] = {
        "full": lambda: full,
        "diagonal": lambda: np.diag(np.diag(full)),
        "identity": lambda: np.eye(n),
        "scaled identity": lambda: 2.5 * np.eye(n),
        "permutation": lambda: np.eye(n)[choose.order(n)],
        "circulant": lambda: scipy.linalg.circulant(full[0]),
        "toeplitz": lambda: scipy.linalg.toeplitz(full[0], full[-1]),
        "banded": lambda: np.triu(np.tril(full, width), -1),
        "lower": lambda: np.tril(full),
        "upper": lambda: np.triu(full),
        "symmetric": lambda: full + full.T,
        "outer": lambda: np.outer(full[0], full[-1]),
        "diagonal and rank one": lambda: np.diag(full[0]) + np.outer(full[0], full[-1]),
        "sparse": lambda: full * (np.abs(full) > 1),
    }
    return kind, options[kind]()


def with_odd_part(choose: Choices, given: np.ndarray) -> tuple[str, np.ndarray]:
    """The matrix with one entry, row, column, diagonal or block changed, and what was changed."""
    n, what = len(given), choose.among(["nothing", "entry", "row", "column", "diagonal", "block"])
    where = choose.among(["first", "last", "random"])

    def place(size: int) -> int:
        return {"first": 0, "last": size - 1}.get(where, choose.integer(0, size - 1))

    made = np.array(given)
    change = choose.among([lambda part: part + 1, lambda part: 0 * part, lambda part: 1.001 * part])
    if what == "entry":
        window: Any = place(n), place(n)
    elif what == "row":
        window = place(n), slice(None)
    elif what == "column":
        window = slice(None), place(n)
    elif what == "diagonal":
        offset = place(2 * n - 1) - n + 1
        window = np.nonzero(np.eye(n, k=offset))
    elif what == "block":
        size = choose.among([d for d in range(1, n + 1) if n % d == 0])
        k = place(n // size)
        window = slice(k * size, (k + 1) * size), slice(k * size, (k + 1) * size)
    else:
        return "", made
    made[window] = change(made[window])
    return f" with the {where} {what} changed", made


def constant_matrix(choose: Choices, pool: list, first: int) -> Step | None:
    """A product with a structured constant, in one of the ways that programs write it."""
    n = prod(pool[first])
    if n < 2:
        return None
    kind, plain = matrix(choose, n)
    odd, A = with_odd_part(choose, plain)
    ways: dict[str, Callable[[Any], Any]] = {
        "A @ x": lambda x: A @ x.reshape(-1),
        "x @ A": lambda x: x.reshape(-1) @ A,
        "A @ x reshaped": lambda x: (A @ x.reshape(-1)).reshape(x.shape),
        "tanh(A @ x)": lambda x: jnp.tanh(A @ x.reshape(-1)),
        "A @ tanh(x)": lambda x: A @ jnp.tanh(x.reshape(-1)),
        "A @ x + x": lambda x: A @ x.reshape(-1) + x.reshape(-1),
        "A @ x - x": lambda x: A @ x.reshape(-1) - x.reshape(-1),
        "sum of A * x": lambda x: jnp.sum(A * x.reshape(-1), axis=1),
        "where A": lambda x: jnp.where(A != 0, jnp.sin(x.reshape(-1)), 0.0).sum(1),
        "-A @ x / 3": lambda x: -(A @ x.reshape(-1)) / 3,
        "A @ (A @ x)": lambda x: A @ (A @ x.reshape(-1)),
        "A @ x - A.T @ x": lambda x: A @ x.reshape(-1) - A.T @ x.reshape(-1),
        "0 * (A @ x)": lambda x: 0.0 * (A @ x.reshape(-1)),
    }
    way = choose.among(sorted(ways))
    return f"{way} with A {n}×{n} {kind}{odd}", ways[way], (first,)


def stack_of_blocks(choose: Choices, pool: list, first: int) -> Step | None:
    """Products of each row with a matrix of its own, one of them odd."""
    n = prod(pool[first])
    size = choose.among([d for d in range(1, n + 1) if n % d == 0])
    if size in (1, n):
        return None
    count, (kind, part) = n // size, matrix(choose, size, SQUARE[:13])
    odd, changed = with_odd_part(choose, part)
    k = choose.among([0, count - 1, choose.integer(0, count - 1)])
    B = np.array([changed if b == k else part for b in range(count)])
    ways: dict[str, Callable[[Any], Any]] = {
        "einsum": lambda x: jnp.einsum("bij,bj->bi", B, x.reshape(count, size)),
        "vmap": lambda x: jax.vmap(lambda M, v: M @ jnp.sin(v))(B, x.reshape(count, size)),
        "block by block": lambda x: jnp.concatenate(
            [B[b] @ v for b, v in enumerate(x.reshape(count, size))]
        ),
        "scaled": lambda x: jnp.arange(float(count))[:, None] * (x.reshape(count, size) @ part),
    }
    way = choose.among(["einsum", "vmap", "scaled", *(["block by block"] if count < 6 else [])])
    return f"{way}, {count} blocks {size}×{size} {kind}, block {k}{odd}", ways[way], (first,)


def infinite(choose: Choices, pool: list, first: int) -> Step | None:
    """Masks with infinities, NaN and zeros, and what programs do with them."""
    shape = pool[first]
    if not shape:
        return None
    generator = np.random.default_rng(choose.integer(0, 99))
    masks = []
    for _ in range(2):
        mask = generator.uniform(size=shape) < 0.6
        if choose.flag():
            mask[choose.integer(0, shape[0] - 1)] = False
        masks.append(mask)
    a, b = masks
    second = choose.among([k for k, s in enumerate(pool) if s == shape])
    low = choose.among([-jnp.inf, jnp.inf])
    W = np.where(
        generator.uniform(size=(shape[-1], 2)) < 0.5, generator.normal(size=(shape[-1], 2)), 0.0
    )
    one: dict[str, Callable[[Any], Any]] = {
        "softmax": lambda x: jax.nn.softmax(jnp.where(a, x, -jnp.inf), -1),
        "softmax where": lambda x: jax.nn.softmax(x, -1, where=a),
        "log_softmax": lambda x: jax.nn.log_softmax(jnp.where(a, x, -jnp.inf), -1),
        "logsumexp": lambda x: jax.nn.logsumexp(jnp.where(a, x, -jnp.inf), -1),
        "exp less max": lambda x: jnp.exp(
            jnp.where(a, x, low) - jnp.where(a, x, low).max(-1, keepdims=True)
        ),
        "fill": lambda x: jnp.where(a, x, low),
        "fill with NaN": lambda x: jnp.where(a, x, jnp.nan),
        "tanh": lambda x: jnp.tanh(jnp.where(a, x, low)),
        "reciprocal": lambda x: 1 / jnp.where(a, 2 + x * x, low),
        "gauss": lambda x: jnp.exp(-(jnp.where(a, x, low) ** 2)),
        "sin": lambda x: jnp.sin(jnp.where(a, x, low)),
        "log of 0": lambda x: jnp.log(jnp.where(a, 1 + x * x, 0.0)),
        "root of 0": lambda x: jnp.sqrt(jnp.where(a, 1 + x * x, 0.0)),
        "by 0": lambda x: x / a.astype(x.dtype),
        "0 by": lambda x: jnp.where(a, x, 0.0) / (1 + x * x),
        "times infinity": lambda x: x * jnp.where(a, 1.0, low),
        "0 times log": lambda x: a * jnp.log(jnp.where(b, 1 + x * x, 0.0)),
        "largest": lambda x: jnp.where(a, x, -jnp.inf).max(-1),
        "smallest": lambda x: jnp.where(a, x, jnp.inf).min(-1),
        "sum": lambda x: jnp.where(a, x, low).sum(-1),
        "cumsum": lambda x: jnp.cumsum(jnp.where(a, x, low), -1),
        "cummax": lambda x: lax.cummax(jnp.where(a, x, -jnp.inf), x.ndim - 1),
        "dot": lambda x: jnp.where(a, x, low) @ W,
        "clip": lambda x: jnp.clip(x, -jnp.inf, jnp.where(a, 0.3, jnp.inf)),
        "nan_to_num": lambda x: jnp.nan_to_num(jnp.where(a, x, jnp.nan)),
        "finite": lambda x: jnp.where(jnp.isfinite(jnp.where(a, x, low)), jnp.sin(x), 0.0),
        "set": lambda x: jnp.exp(x.at[0].set(low) - x.at[0].set(low)),
        "pad": lambda x: jnp.exp(jnp.pad(x, 1, constant_values=-jnp.inf)),
        "safe log": lambda x: jnp.where(a, jnp.log(jnp.where(a, 1 + x * x, 1.0)), 0.0),
        "log1p of exp": lambda x: jnp.log1p(jnp.exp(jnp.where(a, x, -jnp.inf))),
    }
    two: dict[str, Callable[[Any, Any], Any]] = {
        "exp of difference": lambda x, y: jnp.exp(jnp.where(a, x, low) - jnp.where(b, y, low)),
        "difference": lambda x, y: jnp.where(a, x, low) - jnp.where(b, y, low),
        "0 times infinity": lambda x, y: jnp.where(a, x, low) * jnp.where(b, y, 0.0),
        "0 by 0": lambda x, y: jnp.where(a, x, 0.0) / jnp.where(b, y, 0.0),
        "infinity by infinity": lambda x, y: jnp.where(a, x, low) / jnp.where(b, y, low),
        "max": lambda x, y: jnp.maximum(jnp.where(a, x, low), jnp.where(b, y, low)),
        "mask times": lambda x, y: a * jnp.exp(jnp.where(b, y, low)) * x,
        "attention": lambda x, y: jax.nn.softmax(jnp.where(a, x, -jnp.inf), -1) * y,
    }
    name = choose.among(sorted({**one, **two}))
    if name in two:
        return f"{name} (−∞: {low < 0})", two[name], (first, second)
    return f"{name} (−∞: {low < 0})", one[name], (first,)


def alone(choose: Choices) -> RandomProgram:
    """One product with a structured matrix of up to 200 rows: more than 64 blocks among them."""
    n = choose.among([3, 4, 6, 8, 9, 12, 16, 36, 64, 70, 128, 130, 140, 160, 195, LARGEST_MATRIX])
    shape = choose.among(
        [(n,), *([(n // 2, 2)] if n % 2 == 0 else []), *([(3, n // 3)] if n % 3 == 0 else [])]
    )
    maker = choose.among([constant_matrix, stack_of_blocks])
    step = maker(choose, [shape], 0) or constant_matrix(choose, [shape], 0)
    assert step is not None
    return RandomProgram((shape,), [step])


ODD: dict[str, Maker] = {
    **MAKERS,
    "constant matrix": constant_matrix,
    "constant matrix again": constant_matrix,
    "infinite": infinite,
    "infinite again": infinite,
    "stack of blocks": stack_of_blocks,
}

INFINITE: dict[str, Maker] = {
    "infinite": infinite,
    "infinite again": infinite,
    "unary": MAKERS["unary"],
    "move": MAKERS["move"],
    "reduce": MAKERS["reduce"],
    "binary": MAKERS["binary"],
}
