"""Prints the structure report of the whole gate catalogue, or of the gates named.

    python scripts/report.py [GATE ...]

Shows for every gate its role in the backward flow, its Jacobian with the structure proved and
observed, and that its hand-written VJP is right; at the end the lecture's f(W, x) = ‖W·x‖².
"""

import sys

from jacobians.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
