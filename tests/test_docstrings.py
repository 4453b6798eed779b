"""Examples in docstrings: what is written with a prompt is run, and its output compared.

Code without a prompt is a sketch: names in it stand for what a reader has.
"""

import doctest
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacobians

ROOT = Path(__file__).resolve().parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FEWEST = 15

NAMES: dict[str, Any] = {
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "jacobians": jacobians,
    **{name: getattr(jacobians, name) for name in jacobians.__all__},
}
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "jacobians").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


def test_there_are_examples():
    assert len(MODULES) >= FEWEST


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, globs={**NAMES, **vars(module)}, optionflags=FLAGS)
    assert result.attempted
    assert not result.failed
