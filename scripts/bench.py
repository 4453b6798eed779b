"""Benchmarks, each beside the usual tool in one run.

python scripts/bench.py derive       time to derive a structure, and asdex
"""

import sys

if __name__ == "__main__":
    from bench_derive import main

    sys.exit(main(sys.argv[2:]))
