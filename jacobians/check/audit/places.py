"""Where a rule was written and where it is called, as file and line for the reader."""

import os
from collections.abc import Sequence

from jacobians import program
from jacobians.check.audit.site import Site


def callers(sites: Sequence[Site]) -> tuple[str, ...]:
    """The lines that call a rule: the innermost frames that belong to neither JAX nor us."""
    found = []
    for site in sites:
        for file, line, _ in program.call_stack(site.equation):
            if not os.path.abspath(file).startswith((program.JAX_FOLDER, program.OWN_FOLDER)):
                found.append(place(file, line))
                break
    return tuple(dict.fromkeys(line for line in found if line is not None))


def place(file: str | None, line: int | None) -> str | None:
    """A file and line: the file relative to the working directory or to its package's place."""
    if file is None:
        return None
    path = os.path.abspath(file)
    here = os.getcwd() + os.sep
    if path.startswith(here):
        path = path[len(here) :]
    elif f"{os.sep}site-packages{os.sep}" in path:
        path = path.split(f"{os.sep}site-packages{os.sep}")[-1]
    return path if line is None else f"{path}:{line}"
