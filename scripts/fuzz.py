"""Fuzzers by hand: random programs by the thousand, each drawn from its own number.

Every fuzzer is a module `tests/fuzz_NAME.py` with a function `findings(number)`, which draws the
program of that number, checks it, and returns a line for everything found wrong. A finding is
printed with its number, from which it comes again; a run that was cut off goes on from the number
that it had reached. From a checkout:

    python scripts/fuzz.py structure --count 20000 --seed 0
    python scripts/fuzz.py structure --count 1 --seed 1234
"""

import argparse
import importlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

import jacobians  # noqa: E402

# compiled programs are kept by JAX for ever: forgotten after so many of ours
FORGET_EVERY = 25
REPORT_EVERY = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a fuzzer; returns 1 where anything was found."""
    names = sorted(p.stem.removeprefix("fuzz_") for p in (ROOT / "tests").glob("fuzz_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fuzzer", choices=names)
    parser.add_argument("--count", type=int, default=100, help="how many programs")
    parser.add_argument("--seed", type=int, default=0, help="number of the first program")
    parser.add_argument("--seconds", type=float, help="stop after so long and say where")
    given = parser.parse_args(arguments)
    fuzzer = importlib.import_module(f"tests.fuzz_{given.fuzzer}")
    return 1 if run(fuzzer.findings, given.seed, given.count, given.seconds) else 0


def run(
    findings: Callable[[int], Sequence[str]], first: int, count: int, seconds: float | None = None
) -> int:
    """Checks the programs of consecutive numbers and prints what is found; returns how much.

    Args:
        findings: the lines for one number.
        first: the first number.
        count: how many numbers.
        seconds: stop before the next number after so long.
    """
    start = reported = time.monotonic()
    total = done = 0
    for number in range(first, first + count):
        if seconds is not None and time.monotonic() - start > seconds:
            break
        try:
            lines = list(findings(number))
        except Exception as error:
            # whatever a program makes of ours or of JAX is a finding too, and the next one comes
            first_line = (str(error).strip() or "no message").splitlines()[0]
            lines = [f"raised {type(error).__name__}: {first_line}"]
        for line in lines:
            print(f"{number}: {line}", flush=True)
        total += len(lines)
        done += 1
        if done % FORGET_EVERY == 0:
            jax.clear_caches()
            jacobians.clear_cache()
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            print(f"… {done} of {count}, {total} found, {_memory()}", file=sys.stderr, flush=True)
    took = time.monotonic() - start
    print(
        f"{done} programs, numbers {first} to {first + done - 1}: {total} findings "
        f"({took:.0f} s, JAX {jax.__version__}, {_memory()})"
    )
    return total


def _memory() -> str:
    """The most memory held so far."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most"


if __name__ == "__main__":
    raise SystemExit(main())
