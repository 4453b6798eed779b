"""check_vjp beside jax.test_util.check_grads on the bank of planted mistakes (`tests/mistakes.py`).

    python scripts/bench.py check                 every mistake, right rules at 5 inputs each
    python scripts/bench.py check --inputs 200    right rules at 200 inputs each (takes long)

For both tools it counts the mistakes caught and missed, and the right rules that were rejected,
over random inputs of very different scales, some at kinks; for check_vjp also the mistakes that
the first diagnosis names. check_grads runs in reverse mode with its own tolerances and one random
direction, as it does by default.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jacobians import check_vjp
from tests.mistakes import FUNCTIONS, MISTAKES, Function, Mistake, as_custom, inputs


def by_check_vjp(function: Function, rule: Any, forward: Any, args: Any) -> tuple[bool, str]:
    """Whether check_vjp accepts a rule, and the kind of its first diagnosis."""
    if forward is None:
        check = check_vjp(function.f, *args, vjp=rule)
    else:
        check = check_vjp(as_custom(function, rule, forward), *args)
    return bool(check), check.diagnoses[0].kind if check.diagnoses else ""


def by_check_grads(function: Function, rule: Any, forward: Any, args: Any) -> tuple[bool, str]:
    """Whether check_grads accepts a rule."""
    floats = [k for k, a in enumerate(args) if np.asarray(a).dtype.kind in "fc"]
    custom = as_custom(function, rule, forward)

    def of_floats(*given: Any) -> Any:
        everything = list(args)
        for k, value in zip(floats, given, strict=True):
            everything[k] = value
        return custom(*everything)

    try:
        check_grads(of_floats, tuple(args[k] for k in floats), order=1, modes=["rev"])
    except (AssertionError, TypeError, ValueError):
        # what its comparisons raise, and JAX of a rule that does not fit the function
        return False, ""
    return True, ""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="bench.py check", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=5, help="inputs per right rule (default 5)")
    parser.add_argument("--functions", nargs="*", default=[], help="only these functions")
    options = parser.parse_args(argv)
    chosen = [f for f in FUNCTIONS.values() if not options.functions or f.name in options.functions]
    names = {f.name for f in chosen}
    mistakes = [m for m in MISTAKES if m.function in names]
    print(f"{len(mistakes)} mistakes in {len(chosen)} functions; {options.inputs} inputs per right")
    print(f"rule; JAX {jax.__version__} on {platform.machine()}, float32\n")
    print(f"{'':14}{'caught':>8}{'missed':>8}{'named':>8}{'falsely rejected':>22}{'seconds':>9}")
    tools: tuple[tuple[str, Callable[..., tuple[bool, str]]], ...] = (
        ("check_vjp", by_check_vjp),
        ("check_grads", by_check_grads),
    )
    for name, tool in tools:
        start = time.perf_counter()
        print(_row(name, tool, chosen, mistakes, options.inputs, start), flush=True)
    return 0


def _row(
    name: str,
    tool: Callable[..., tuple[bool, str]],
    chosen: Sequence[Function],
    mistakes: Sequence[Mistake],
    count: int,
    start: float,
) -> str:
    """The line of one tool: what it caught, missed, named and falsely rejected, and how long."""
    caught = named = rejected = total = 0
    for mistake in mistakes:
        function = FUNCTIONS[mistake.function]
        args = inputs(function, 0)
        accepted, kind = tool(function, mistake.rule, mistake.forward, args)
        caught += not accepted
        named += not accepted and kind in mistake.kinds
    for function in chosen:
        for seed in range(count):
            total += 1
            rejected += not tool(function, function.rule, None, inputs(function, seed))[0]
    missed = len(mistakes) - caught
    shown = str(named) if name == "check_vjp" else "—"
    seconds = time.perf_counter() - start
    false = f"{rejected} of {total}"
    return f"{name:14}{caught:>8}{missed:>8}{shown:>8}{false:>22}{seconds:>9.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
