"""Sparse Jacobians and Hessians against jax.jacfwd, jax.jacrev, asdex and sparsejac.

Every row is one function at one size. `first` is the first call of the function under `jax.jit`,
from the function to numbers: `colour`, `derive` (all else before compilation, tracing included),
`compile`, and the first evaluation. `again` is a repeated call of the compiled function, the best
of several. `compressed` is this package with its closed forms turned off. asdex and sparsejac are
measured when they can be imported; the explicit Jacobians while they fit. Nothing is warmed up
between the ways but JAX itself.
"""

import argparse
import gc
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from memory import peak_megabytes

DENSE_LIMIT = 1 << 26
LONGEST = 120
WAYS = ("jacobians", "compressed", "asdex", "jacfwd", "jacrev", "sparsejac")


@dataclass(frozen=True)
class Case:
    """One function to differentiate.

    Attributes:
        name: what it is.
        f: the function.
        args: its arguments.
        hessian: whether the Hessian is taken.
        quick: whether it is among the small ones.
    """

    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    hessian: bool = False
    quick: bool = True


def _normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def heat(u: Any) -> Any:
    """The heat equation on a line, ends held."""
    return jnp.concatenate([jnp.zeros(1), u[2:] - 2 * u[1:-1] + u[:-2], jnp.zeros(1)])


def brusselator(y: Any) -> Any:
    """The right-hand side of the 2-D Brusselator, periodic; the state flat, of 2·n·n."""
    n = int((y.size // 2) ** 0.5)
    u, v = y.reshape(2, n, n)

    def laplacian(w: Any) -> Any:
        around = jnp.roll(w, 1, 0) + jnp.roll(w, -1, 0) + jnp.roll(w, 1, 1) + jnp.roll(w, -1, 1)
        return (around - 4 * w) * (n * n * 0.02)

    reaction = u * u * v
    du = 1 + reaction - 4.4 * u + laplacian(u)
    return jnp.stack([du, 3.4 * u - reaction + laplacian(v)]).reshape(-1)


def _mlp(x: Any) -> Any:
    first, second = _normal(64, 256, seed=1), _normal(256, 10, seed=2)
    return jax.nn.relu(x @ first) @ second


def _convolutions(x: Any) -> Any:
    for seed, channels in ((1, (1, 4)), (2, (4, 1))):
        kernel = _normal(3, 3, *channels, seed=seed)
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.tanh(x)
    return x


def _graph_laplacian(nodes: int, edges: int) -> Callable[[Any], Any]:
    generator = np.random.default_rng(0)
    tails, heads = generator.integers(0, nodes, (2, edges))

    def laplacian(x: Any) -> Any:
        flow = jnp.tanh(x[heads] - x[tails])
        return jnp.zeros_like(x).at[tails].add(flow).at[heads].add(-flow)

    return laplacian


def _layer_norm(x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def _attention(q: Any) -> Any:
    k, v = _normal(*q.shape, seed=1), _normal(*q.shape, seed=2)
    return jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v


def _ode(x: Any) -> Any:
    def step(u: Any, _: None) -> Any:
        return u + 0.1 * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)) + 0.01 * u * u, None

    return jax.lax.scan(step, x, None, length=4)[0]


def rosenbrock(x: Any) -> Any:
    """The chained Rosenbrock function."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _log_density(x: Any) -> Any:
    """A random walk with a shared scale and Student observations: an arrow and a band."""
    scale, path = x[0], x[1:]
    seen = _normal(path.shape[0], seed=3)
    walk = -0.5 * jnp.sum(jnp.diff(path) ** 2) * jnp.exp(-scale) - path.shape[0] * scale
    return walk - 2.5 * jnp.sum(jnp.log1p((seen - path) ** 2 / 4)) - 0.5 * scale**2


def cases() -> list[Case]:
    """Every function of the benchmark."""
    found = [
        Case("ReLU 4096", lambda x: jnp.maximum(x, 0), (_normal(4096),)),
        Case("ReLU 10⁶", lambda x: jnp.maximum(x, 0), (_normal(10**6),), quick=False),
        Case("batch MLP 64→256→10, 32 rows", _mlp, (_normal(32, 64),)),
        Case("heat equation 10⁴", heat, (_normal(10**4),)),
    ]
    found += [
        Case(f"Brusselator {n}×{n}", brusselator, (_normal(2 * n * n),), quick=n <= 64)
        for n in (32, 64, 128, 256, 512)
    ]
    found += [
        Case("conv net 32×32", _convolutions, (_normal(1, 32, 32, 1),)),
        Case("graph Laplacian 1000/4000", _graph_laplacian(1000, 4000), (_normal(1000),)),
        Case("layer norm 64×32", _layer_norm, (_normal(64, 32),)),
        Case("attention 4×16×8", _attention, (_normal(4, 16, 8),)),
        Case("ODE by scan 1000", _ode, (_normal(1000),)),
        Case("Hessian of Rosenbrock 1000", rosenbrock, (_normal(1000),), hessian=True),
        Case("Hessian of a log-density 300", _log_density, (_normal(300),), hessian=True),
    ]
    return found


# ---- measuring; each (case, way) in a process of its own, for memory and a cold start


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table, one process per measurement."""
    parser = argparse.ArgumentParser(
        prog="bench.py jacobian", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--ways", default=",".join(WAYS[:5]), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--pair", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        _child(*arguments.child)
        return 0
    if arguments.pair:
        _pair(*arguments.pair)
        return 0
    ways = [w for w in arguments.ways.split(",") if w]
    chosen = [
        c
        for c in cases()
        if arguments.only in c.name and (c.quick or not arguments.quick or arguments.only)
    ]
    device = jax.devices()[0]
    machine = f"{os.cpu_count()}-core CPU" if device.platform == "cpu" else device.device_kind
    print(f"{machine}, JAX {jax.__version__}, Python {platform.python_version()}, float32")
    print(f"memory bandwidth measured: {bandwidth():.1f} GB/s (read and write of 256 MB)")
    print(
        "first: the first call under jax.jit, from the function to numbers, the sum of the four\n"
        "before it; again: a repeated call, the best of many; in ms. colours: JVPs and VJPs\n"
        "computed, bound: that compression needs at least; closed forms take none. MB: peak\n"
        "memory of the first call beyond a started JAX. per JVP: again / (colours × one JVP), for\n"
        "closed forms with the bound. traffic: bytes moved at least / again / bandwidth. ÷ ours:\n"
        "a repeated call against ours, in turns in one process, the median of 15\n"
    )
    print("".join(f"{title:>{width}}" for title, _, width, _ in (("", "", 13, 0), *COLUMNS)))
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for case in chosen:
        for k, way in enumerate(ways):
            found = _in_process(case.name, way)
            if found is None:
                continue
            if k and "error" not in found and ways[0] == "jacobians":
                found.update(_in_process(case.name, way, "--pair") or {})
            results[case.name, way] = found
            if k == 0:
                print(case.name)
            print(_row(way, found), flush=True)
    _ratios(chosen, ways, results)
    return 0


# heading, key of the result, width, digits after the point
COLUMNS = (
    ("colour", "colour", 8, 1),
    ("derive", "derive", 9, 1),
    ("compile", "compile", 9, 1),
    ("evaluate", "evaluate", 9, 1),
    ("first", "first", 9, 1),
    ("again", "again", 9, 3),
    ("colours", "colours", 8, 0),
    ("bound", "bound", 6, 0),
    ("MB", "memory", 6, 0),
    ("per JVP", "per_jvp", 8, 2),
    ("traffic", "traffic", 8, 2),
    ("÷ ours", "slower", 9, 2),
)


def _row(way: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"  {way:<11}{found['error'][:90]}"
    cells = []
    for _, key, width, digits in COLUMNS:
        value = found.get(key)
        cells.append(f"{'–':>{width}}" if value is None else f"{value:>{width}.{digits}f}")
    return f"  {way:<11}{''.join(cells)}"


def _ratios(chosen: list[Case], ways: list[str], results: dict[tuple[str, str], Any]) -> None:
    """Prints how the other ways compare with ours over all cases."""
    print()
    for way in ways[1:]:
        first, again, colours = [], [], []
        for case in chosen:
            ours, theirs = results.get((case.name, "jacobians")), results.get((case.name, way))
            if not ours or not theirs or "error" in ours or "error" in theirs:
                continue
            first.append(theirs["first"] / ours["first"])
            if theirs.get("slower") is not None:
                again.append(theirs["slower"])
            if theirs.get("colours") is not None and ours.get("swept"):
                colours.append(ours["colours"] - theirs["colours"])
        if first:
            print(
                f"{way}: first call {np.median(first):.1f} times as long at the median (least "
                f"{min(first):.2f}); again {np.median(again):.2f} times (least {min(again):.2f}), "
                f"in turns in one process; over {len(first)} cases"
            )
        if colours:
            print(f"{way}: colours ours − theirs, where we colour: {sorted(colours)}")
    shares = [
        found["per_jvp"]
        for (_, way), found in results.items()
        if way == "jacobians" and found.get("per_jvp") is not None
    ]
    if shares:
        print(f"again / (colours × one JVP): median {np.median(shares):.2f}")


def _in_process(name: str, way: str, task: str = "--child") -> dict[str, Any] | None:
    command = [sys.executable, str(sys.argv[0]), "jacobian", task, name, way]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {LONGEST} s"}
    if made.returncode == 3:
        return None
    if made.returncode:
        return {"error": (made.stderr.strip().split("\n") or ["failed"])[-1]}
    values: dict[str, Any] = {}
    for line in made.stdout.strip().split("\n"):
        key, _, value = line.partition(" ")
        values[key] = float(value)
    return values


def _child(name: str, way: str) -> None:
    """Prints the times and counts of one case done one way; exits with 3 where it cannot be."""
    case = next(c for c in cases() if c.name == name)
    size = sum(int(np.prod(a.shape)) for a in case.args)
    if way in ("asdex", "sparsejac") and importlib.util.find_spec(way) is None:
        sys.exit(3)
    if way in ("jacfwd", "jacrev") and size * size > DENSE_LIMIT:
        sys.exit(3)
    # JAX's own start is not part of anybody's first call
    jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) + 1)(jnp.ones(3)))
    jax.block_until_ready(case.args)
    importlib.import_module("jacobians")
    if way in ("asdex", "sparsejac"):
        importlib.import_module(way)
    given = [GIVEN[way](case)] if way in GIVEN else []
    idle = peak_megabytes()
    start = time.perf_counter()
    function, more = PREPARE[way](case, *given)
    traced = jax.jit(function).trace(*case.args)
    derived = time.perf_counter()
    executable = traced.lower().compile()
    compiled_at = time.perf_counter()
    jax.block_until_ready(jax.tree.leaves(executable(*case.args)))
    first = time.perf_counter()
    memory = peak_megabytes() - idle
    more = more() if callable(more) else more
    colour = more.get("colour", 0.0)
    compiled = jax.jit(function)
    again = _best(lambda: compiled(*case.args))
    values = {
        "derive": (derived - start) * 1e3 - colour,
        "compile": (compiled_at - derived) * 1e3,
        "evaluate": (first - compiled_at) * 1e3,
        "first": (first - start) * 1e3,
        "again": again * 1e3,
        "memory": memory,
        **more,
    }
    if way == "jacobians":
        jvp = _one_jvp(case)
        colours = max(1.0, more["colours"], more["bound"])
        values["per_jvp"] = again / (colours * jvp)
        moved = 4.0 * (2 * more["entries"] + 2 * size)
        values["traffic"] = moved / again / 1e9 / bandwidth()
    for key, value in values.items():
        if value is not None:
            print(key, value)


def _pair(name: str, way: str) -> None:
    """How many times as long as ours a repeated call takes, both called in turns."""
    case = next(c for c in cases() if c.name == name)
    calls = []
    for each in ("jacobians", way):
        given = [GIVEN[each](case)] if each in GIVEN else []
        compiled = jax.jit(PREPARE[each](case, *given)[0])
        calls.append(lambda compiled=compiled: compiled(*case.args))
        jax.block_until_ready(jax.tree.leaves(calls[-1]()))
    ratios = []
    for _ in range(15):
        ours, theirs = (_best(call, 0.02) for call in calls)
        ratios.append(theirs / ours)
    print("slower", float(np.median(ratios)))


def _ours(case: Case) -> tuple[Callable[..., Any], Any]:
    """Our Jacobian or Hessian of a case, and a function of what its plan says."""
    import jacobians
    from jacobians.sparse.plan import plan

    make = jacobians.hessian if case.hessian else jacobians.jacobian
    spent = _timed_colouring()

    def more() -> dict[str, Any]:
        colour = sum(spent) * 1e3
        found = plan(case.f, *case.args, of="hessian" if case.hessian else "jacobian")
        return {
            "colours": float(found.colors),
            "bound": float(found.lower_bound),
            "entries": float(sum(b.nnz for b in found.blocks)),
            "swept": float(bool(found.sweeps)),
            "colour": colour,
        }

    return make(case.f), more


def _timed_colouring() -> list[float]:
    """A list that receives the seconds of every colouring from now on."""
    from jacobians.sparse import sweep

    spent: list[float] = []

    def timed(color: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            found = color(*args)
            spent.append(time.perf_counter() - start)
            return found

        return call

    sweep.color_columns = timed(sweep.color_columns)
    sweep.color_symmetric = timed(sweep.color_symmetric)
    return spent


def _compressed(case: Case) -> tuple[Callable[..., Any], Any]:
    """Ours by coloured sweeps alone, for cases that have a closed form."""
    from jacobians.sparse.bind import bind_call
    from jacobians.sparse.forms import formats
    from jacobians.sparse.jacobian import gradient
    from jacobians.sparse.plan import plan
    from jacobians.sparse.prepare import prepare

    f = gradient(case.f, 0, False) if case.hessian else case.f
    if plan(case.f, *case.args, of="hessian" if case.hessian else "jacobian").sweeps:
        # the plan has no closed form to turn off
        sys.exit(3)

    def entries(*args: Any) -> Any:
        bound = bind_call(f, (0,), False, args, {})
        prepared = prepare(bound.plain, None, case.hessian, closed=False)
        colours.append(sum(p.sweep.coloring.count for p in prepared.sweeps))
        data = prepared.evaluate(bound.runtime, prepared.tables, False)[1]
        return [formats.bcoo(prepared, {}, True, k, d) for k, d in enumerate(data)]

    colours: list[int] = []
    spent = _timed_colouring()
    return entries, lambda: {"colours": float(colours[0]), "colour": sum(spent) * 1e3}


def _asdex(case: Case) -> tuple[Callable[..., Any], Any]:
    import asdex

    kind = "hessian" if case.hessian else "jacobian"
    sparsity = getattr(asdex, f"{kind}_sparsity")(case.f, *case.args)
    start = time.perf_counter()
    coloring = getattr(asdex, f"{kind}_coloring_from_sparsity")(sparsity)
    more = {"colour": (time.perf_counter() - start) * 1e3, "colours": float(coloring.num_colors)}
    return getattr(asdex, f"{kind}_from_coloring")(case.f, coloring), more


def _flat(case: Case) -> Callable[..., Any]:
    """The function, or its gradient, of a vector to a vector: all that sparsejac takes."""
    f, shape = jax.grad(case.f) if case.hessian else case.f, case.args[0].shape
    return lambda x: f(x.reshape(shape)).reshape(-1)


def _pattern(case: Case) -> Any:
    """What sparsejac has to be told: the pattern; ours is given, and not counted as its time."""
    import jacobians

    return jacobians.jacobian(_flat(case))(case.args[0].reshape(-1))


def _sparsejac(case: Case, pattern: Any) -> tuple[Callable[..., Any], Any]:
    import sparsejac

    compute = sparsejac.jacfwd(_flat(case), pattern)
    return lambda x: compute(x.reshape(-1)), {}


def _explicit(transform: Callable[..., Any]) -> Callable[[Case], Any]:
    def prepare(case: Case) -> tuple[Callable[..., Any], Any]:
        return transform(jax.grad(case.f) if case.hessian else case.f), {}

    return prepare


GIVEN: dict[str, Callable[[Case], Any]] = {"sparsejac": _pattern}
PREPARE: dict[str, Callable[..., Any]] = {
    "jacobians": _ours,
    "compressed": _compressed,
    "asdex": _asdex,
    "jacfwd": _explicit(jax.jacfwd),
    "jacrev": _explicit(jax.jacrev),
    "sparsejac": _sparsejac,
}


def _one_jvp(case: Case) -> float:
    f = jax.grad(case.f) if case.hessian else case.f
    compiled = jax.jit(lambda args, tangents: jax.jvp(f, args, tangents)[1])
    return _best(lambda: compiled(case.args, case.args))


def _best(call: Callable[[], Any], seconds: float = 1.0) -> float:
    """The least time of a call, among as many as fit in about so many seconds."""
    jax.block_until_ready(jax.tree.leaves(call()))
    gc.collect()
    best, spent, count = float("inf"), 0.0, 0
    while spent < seconds or count < 5:
        start = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(call()))
        took = time.perf_counter() - start
        best, spent, count = min(best, took), spent + took, count + 1
        if count >= 2000:
            break
    return best


def bandwidth() -> float:
    """Bytes per second, in GB/s, of adding one to 256 MB."""
    x = jnp.zeros(1 << 26, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    seconds = _best(lambda: add(x), 0.3)
    return 2 * x.nbytes / seconds / 1e9
