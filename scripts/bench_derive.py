"""Time to derive a Jacobian's structure, side by side with asdex, which lists index sets.

    python scripts/bench.py derive [--limit SECONDS] [--only NAME ...]

For a dozen functions at growing sizes: the time to derive the structure from the program; the time
to derive it and list every entry; the time of `asdex.jacobian_sparsity` (if it is installed); the
ratios, the number of entries that either finds, and how derivation time grows with the arrays.
Each time is the smallest of several runs on a function that was never traced before.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jacobians.derive.call import derive_call
from jacobians.program.call import bind
from jacobians.structure.explanation import Block
from jacobians.structure.kinds import Structure

LIMIT = 20.0


def relu(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda x: jnp.maximum(x, 0), (f32(n * n),)


def mlp(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    V, W = constant(4, n), constant(n, n)
    return lambda x: jnp.maximum(x @ W.T, 0) @ V.T, (f32(n, n),)


def mlp_weights(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x, V = constant(8, n), constant(n, 4)
    return lambda W: jnp.tanh(x @ W) @ V, (f32(n, n),)


def heat(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda u: u.at[1:-1].add(0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])), (f32(n * n),)


def brusselator(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def f(state: Any) -> Any:
        u, v = state

        def laplace(a: Any) -> Any:
            shifted = (jnp.roll(a, s, axis) for axis in (0, 1) for s in (-1, 1))
            return sum(shifted) - 4 * a

        return jnp.stack(
            [1 + u * u * v - 4.4 * u + 0.1 * laplace(u), 3.4 * u - u * u * v + 0.1 * laplace(v)]
        )

    return f, (f32(2, n, n),)


def convolution(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    kernel = constant(4, 2, 3, 3)
    return (
        lambda x: jnp.tanh(lax.conv_general_dilated(x, kernel, (1, 1), "SAME")),
        (f32(1, 2, n, n),),
    )


def running_sum(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda x: jnp.cumsum(x) ** 2, (f32(8 * n),)


def softmax(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda x: jax.nn.softmax(x), (f32(n, n),)


def layer_norm(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def f(x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    return f, (f32(n, n),)


def attention(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    k, v = constant(2, n, 4), constant(2, n, 4)

    def f(q: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("hqd,hkd->hqk", q, k))
        return jnp.einsum("hqk,hkd->hqd", weights, v)

    return f, (f32(2, n, 4),)


def graph(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, n * n, (2, 3 * n * n))

    def f(x: Any) -> Any:
        flow = jnp.sin(x[a] - x[b])
        return jnp.zeros_like(x).at[a].add(-flow).at[b].add(flow)

    return f, (f32(n * n),)


def recurrent(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    W, U = constant(4, 4), constant(4, 4)

    def f(x: Any) -> Any:
        def step(h: Any, now: Any) -> tuple[Any, Any]:
            h = jnp.tanh(W @ h + U @ now)
            return h, h

        return lax.scan(step, jnp.zeros(4), x)[1]

    return f, (f32(n, 4),)


def residual(n: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def f(x: Any) -> Any:
        for _ in range(20):
            x = x + jnp.sin(x)
        return x

    return f, (f32(n * n),)


FUNCTIONS: dict[str, Callable[[int], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "ReLU": relu,
    "batch MLP": mlp,
    "MLP weights": mlp_weights,
    "heat equation": heat,
    "2-D Brusselator": brusselator,
    "conv 3×3 SAME": convolution,
    "cumsum²": running_sum,
    "softmax": softmax,
    "layer norm": layer_norm,
    "attention": attention,
    "graph flow": graph,
    "RNN by scan": recurrent,
    "20 residual layers": residual,
}
SIZES = (8, 32, 128, 256)


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def constant(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def best(measure: Callable[[], Any], runs: int, limit: float) -> tuple[float, Any]:
    """The smallest time in seconds of several runs, and a result; slow things run once."""
    times, result = [], None
    for _ in range(runs):
        start = time.perf_counter()
        result = measure()
        times.append(time.perf_counter() - start)
        if times[-1] > limit / runs:
            break
    return min(times), result


def derived(name: str, n: int, listed: bool) -> Any:
    """The derivation of a function never traced before; with `listed`, its pattern."""
    f, args = FUNCTIONS[name](n)
    call = bind(f, args)
    derivation = derive_call(call)
    if not listed:
        return derivation.terms(0, 0)
    block = Block(
        output="out",
        input="x",
        out_shape=call.outputs[0].shape,
        in_shape=call.inputs[0].shape,
        structure=Structure("dense"),
        properties=frozenset(),
        statement=None,
        terms=derivation.terms(0, 0),
        nnz=0,
    )
    return block.pattern()


def compared(name: str, n: int, limit: float, other: Any) -> dict[str, Any]:
    """The times of one function at one size."""
    derive, _ = best(lambda: derived(name, n, False), 5, limit)
    listing, pattern = best(lambda: derived(name, n, True), 3, limit)
    row = {"name": name, "n": n, "derive": derive, "list": listing}
    row |= {"entries": pattern.nnz, "shape": pattern.shape}
    if other is not None:
        zeros = [jnp.zeros(x.shape, x.dtype) for x in FUNCTIONS[name](n)[1]]

        def theirs() -> Any:
            return other.jacobian_sparsity(FUNCTIONS[name](n)[0], *zeros)

        row["asdex"], found = best(theirs, 3, limit)
        row["their entries"] = found.nnz
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(prog="bench.py derive", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds before a size is the last"
    )
    parser.add_argument(
        "--only", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS), metavar="NAME"
    )
    options = parser.parse_args(argv)
    try:
        import asdex
    except ImportError:
        asdex = None
        print("asdex is not installed: only our own times are printed")
    print(f"{platform.machine()}, {jax.devices()[0].platform}, JAX {jax.__version__}")
    head = f"{'function':<19}{'matrix':>15}{'entries':>10}{'asdex finds':>12}"
    print(head + f"{'derive':>9}{'+ list':>9}{'asdex':>10}{'÷ derive':>10}{'÷ list':>8}")
    rows = []
    for name in options.only:
        derived(name, 4, True)  # what is imported or compiled once is not the function's time
        for n in SIZES:
            row = compared(name, n, options.limit, asdex)
            rows.append(row)
            print(line(row), flush=True)
            if max(row["list"], row.get("asdex", 0.0)) > options.limit / 4:
                break
    summary(rows)
    return 0


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    m, n = row["shape"]
    text = f"{row['name']:<19}{f'{m}×{n}':>15}{row['entries']:>10}"
    text += f"{row.get('their entries', '—'):>12}{ms(row['derive']):>9}{ms(row['list']):>9}"
    if "asdex" not in row:
        return text
    ratios = row["asdex"] / row["derive"], row["asdex"] / row["list"]
    return text + f"{ms(row['asdex']):>10}{ratios[0]:>9.0f}×{ratios[1]:>7.0f}×"


def ms(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def summary(rows: Sequence[dict[str, Any]]) -> None:
    """Medians, and how much derivation slows down from the smallest to the largest size."""
    growth = []
    for name in dict.fromkeys(r["name"] for r in rows):
        own = [r for r in rows if r["name"] == name]
        growth.append(own[-1]["derive"] / own[0]["derive"])
    print(
        f"derivation time, largest ÷ smallest size: median {statistics.median(growth):.2f}, "
        f"highest {max(growth):.2f}"
    )
    both = [r for r in rows if "asdex" in r]
    if not both:
        return
    last = [
        [r for r in both if r["name"] == name][-1]
        for name in dict.fromkeys(r["name"] for r in both)
    ]
    for what, chosen in (("all rows", both), ("each function's largest size", last)):
        derive = statistics.median(r["asdex"] / r["derive"] for r in chosen)
        listing = statistics.median(r["asdex"] / r["list"] for r in chosen)
        print(
            f"median over {what}: asdex takes {derive:.0f}× the time to derive, "
            f"{listing:.0f}× the time to derive and list"
        )
    wider = [r["name"] for r in both if r["entries"] > r["their entries"]]
    print("entries more than asdex finds: " + (", ".join(dict.fromkeys(wider)) or "none"))
