"""An implicit solver that stands on a sparse Jacobian: the 2-D Brusselator by backward Euler.

    python scripts/brusselator.py               # 128×128, and dense against sparse at 32×32
    python scripts/brusselator.py --size 64 --dense-size 24 --steps 5

Every step solves y − y₀ − h·f(y) = 0 by Newton's method. The sparse way takes the Jacobian from
`jacobian(residual, format="scipy")` and solves with `scipy.sparse.linalg`; the dense way takes
`jax.jacfwd` and `numpy.linalg.solve`. Both start from the same state, so that their solutions can
be compared. Each way runs in a process of its own, so that its peak memory is its own.

Source: Hairer and Wanner, *Solving Ordinary Differential Equations II*, problem BRUSS-2D.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as sparse_linalg
from memory import peak_megabytes
from numpy.typing import NDArray

import jacobians

DIFFUSION = 0.02
STEP = 0.05
TOLERANCE = 1e-10

Array = NDArray[Any]


def right_hand_side(y: Any, n: int) -> Any:
    """The Brusselator on an n×n periodic grid; the state flat, of 2·n·n."""
    u, v = y.reshape(2, n, n)

    def laplacian(w: Any) -> Any:
        around = jnp.roll(w, 1, 0) + jnp.roll(w, -1, 0) + jnp.roll(w, 1, 1) + jnp.roll(w, -1, 1)
        return (around - 4 * w) * (DIFFUSION * n * n)

    reaction = u * u * v
    du = 1 + reaction - 4.4 * u + laplacian(u)
    return jnp.stack([du, 3.4 * u - reaction + laplacian(v)]).reshape(-1)


def residual(y: Any, before: Any, n: int) -> Any:
    """What a step of backward Euler sets to zero."""
    return y - before - STEP * right_hand_side(y, n)


def initial(n: int) -> Array:
    """The start of Hairer and Wanner, smooth and not symmetric."""
    x = np.arange(n) / n
    u = 22 * x[:, None] * np.ones(n) * (1 - x[:, None]) ** 1.5
    v = 27 * x[None, :] * np.ones((n, 1)) * (1 - x[None, :]) ** 1.5
    return np.stack([u, v]).reshape(-1)


def solve(
    n: int, steps: int, newton_step: Callable[[Array, Array, Array], Array]
) -> tuple[Array, int, float]:
    """Backward Euler with Newton's method.

    Args:
        n: points per side.
        steps: time steps.
        newton_step: from state, previous state and residual to the correction.

    Returns:
        The final state, the number of Newton steps, and the seconds spent in them.
    """
    evaluate = jax.jit(partial(residual, n=n))
    y = initial(n)
    count, spent = 0, 0.0
    for _ in range(steps):
        before = y
        for _ in range(20):
            value = np.asarray(evaluate(y, before))
            if np.abs(value).max() < TOLERANCE * max(1.0, np.abs(y).max()):
                break
            start = time.perf_counter()
            y = y - newton_step(y, before, value)
            spent += time.perf_counter() - start
            count += 1
        else:
            raise RuntimeError("Newton's method did not converge in 20 steps")
    return y, count, spent


def sparse_newton(n: int) -> Callable[[Array, Array, Array], Array]:
    """Newton steps with the sparse Jacobian and a sparse LU factorisation."""
    jac = jacobians.jacobian(partial(residual, n=n), format="scipy")

    def step(y: Array, before: Array, value: Array) -> Array:
        matrix = jac(y, before).tocsc()
        made: Array = sparse_linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A").solve(value)
        return made

    return step


def dense_newton(n: int) -> Callable[[Array, Array, Array], Array]:
    """Newton steps with the explicit Jacobian and a dense LU factorisation."""
    jac = jax.jit(jax.jacfwd(partial(residual, n=n)))

    def step(y: Array, before: Array, value: Array) -> Array:
        made: Array = np.linalg.solve(np.asarray(jac(y, before)), value)
        return made

    return step


WAYS = {"sparse": sparse_newton, "dense": dense_newton}


def run(way: str, n: int, steps: int, output: str) -> None:
    """Solves one way, prints its measurements and saves its solution."""
    jax.config.update("jax_enable_x64", True)
    idle = peak_megabytes()
    start = time.perf_counter()
    y, count, spent = solve(n, steps, WAYS[way](n))
    total = time.perf_counter() - start
    memory = peak_megabytes()
    np.save(output, y)
    print(total, spent, count, memory - idle)


def in_process(way: str, n: int, steps: int, output: str) -> list[float]:
    """Runs one way in a process of its own."""
    command = [sys.executable, __file__, "--child", way, str(n), str(steps), output]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.stderr)
    return [float(word) for word in made.stdout.split()[-4:]]


def main() -> None:
    """Compares both ways where the dense one fits, then solves the large problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=128, help="points per side, sparse only")
    parser.add_argument("--dense-size", type=int, default=32, help="points per side, both ways")
    parser.add_argument("--steps", type=int, default=5, help="time steps")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, n, steps, output = arguments.child
        run(way, int(n), int(steps), output)
        return
    n = arguments.size
    shape = jax.ShapeDtypeStruct((2 * n * n,), jnp.float32)
    print(f"{os.cpu_count()}-core CPU, JAX {jax.__version__}, Python {platform.python_version()}")
    print(f"Brusselator {n}×{n}: {2 * n * n} unknowns, float64, {arguments.steps} steps\n")
    print(jacobians.plan(partial(residual, n=n), shape, shape).summary)
    print(f"\n{'':<16}{'unknowns':>10}{'total s':>10}{'Newton steps':>14}{'s each':>9}{'MB':>8}")
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        small = arguments.dense_size
        for way, size in (("dense", small), ("sparse", small), ("sparse", n)):
            path = str(Path(folder) / f"{way}{size}.npy")
            total, spent, count, memory = in_process(way, size, arguments.steps, path)
            found[way, size] = np.load(path)
            each = spent / max(1.0, count)
            print(
                f"{way + f' {size}×{size}':<16}{2 * size * size:>10}{total:>10.2f}{count:>14.0f}"
                f"{each:>9.3f}{memory:>8.0f}"
            )
    difference = np.abs(found["dense", small] - found["sparse", small]).max()
    print(f"\nlargest difference of the two solutions at {small}×{small}: {difference:.1e}")
    size = 8 * (2 * n * n) ** 2 / 2**30
    print(f"the dense Jacobian at {n}×{n} would take {size:.1f} GiB")


if __name__ == "__main__":
    main()
