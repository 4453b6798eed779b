"""Benchmarks, by name: `python scripts/bench.py check`; each has a module `bench_<name>.py`."""

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Runs the benchmark that the first argument names."""
    here = Path(__file__).resolve().parent
    names = sorted(p.stem.removeprefix("bench_") for p in here.glob("bench_*.py"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: python scripts/bench.py {{{','.join(names)}}} [option ...]", file=sys.stderr)
        return 2
    sys.path.insert(0, str(here))
    status: int = importlib.import_module(f"bench_{sys.argv[1]}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
