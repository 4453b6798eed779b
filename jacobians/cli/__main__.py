"""`python -m jacobians.cli`: the same as the `jacobians` command."""

import sys

from jacobians.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
