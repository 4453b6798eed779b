"""See, prove and test the Jacobian of a JAX function.

>>> import jacobians
>>> print(jacobians.explain(jax.nn.softmax, jnp.ones((4, 8))))     # what is it made of?
>>> jacobians.check_vjp(my_relu, x).raise_if_wrong()               # is my derivative right?
>>> print(jacobians.audit(model, params, x))                       # all those in my model?
"""

import importlib
from typing import TYPE_CHECKING, Any

from jacobians import gates
from jacobians.audit import Audit, RuleAudit, audit
from jacobians.check import VJPCheck, check_vjp
from jacobians.dense import dense_jacobian
from jacobians.errors import ArgumentError, JacobiansError, SpecError, WrongDerivativeError
from jacobians.explain import Block, Explanation, explain
from jacobians.gates import Gate
from jacobians.structure import Structure

if TYPE_CHECKING:
    from jacobians import testing

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Audit",
    "Block",
    "Explanation",
    "Gate",
    "JacobiansError",
    "RuleAudit",
    "SpecError",
    "Structure",
    "VJPCheck",
    "WrongDerivativeError",
    "audit",
    "check_vjp",
    "dense_jacobian",
    "explain",
    "gates",
    "testing",
]


def __getattr__(name: str) -> Any:
    # testing needs Hypothesis, which only the extra `test` installs
    if name == "testing":
        return importlib.import_module("jacobians.testing")
    raise AttributeError(f"module 'jacobians' has no attribute {name!r}")
