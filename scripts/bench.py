"""Benchmarks: what the package costs, side by side with what it is compared to.

    python scripts/bench.py jacobian            # sparse Jacobians, against jax.jacfwd and asdex
    python scripts/bench.py jacobian --quick    # the same at small sizes

Each subcommand is a module beside this file, `bench_<name>.py`, with `add_arguments(parser)` and
`main(arguments)`.
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    subparsers = parser.add_subparsers(dest="name", required=True)
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_")
        module = importlib.import_module(path.stem)
        own = subparsers.add_parser(name, help=module.__doc__.split("\n", 1)[0])
        module.add_arguments(own)
        own.set_defaults(run=module.main)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
