"""See, prove and test the Jacobian of a JAX function.

>>> import jacobians
>>> print(jacobians.explain(jax.nn.softmax, jnp.ones((4, 8))))     # what is it made of?
>>> jacobians.check_vjp(my_relu, x).raise_if_wrong()               # is my derivative right?
>>> print(jacobians.backprop(f, x, y, z))                          # how do its gradients flow?
>>> print(jacobians.audit(model, params, x))                       # all those in my model?
>>> jacobians.jacobian(f)(x)                                       # its numbers, sparse and cheap
"""

import importlib
from typing import TYPE_CHECKING, Any

from jacobians import gates
from jacobians.audit import Audit, RuleAudit, audit
from jacobians.backprop import Backprop, backprop
from jacobians.check import VJPCheck, check_vjp
from jacobians.dense import dense_jacobian
from jacobians.errors import ArgumentError, JacobiansError, SpecError, WrongDerivativeError
from jacobians.explain import Block, Explanation, explain
from jacobians.gates import Gate
from jacobians.jacobian import clear_cache, hessian, jacobian, value_and_jacobian
from jacobians.plan import Plan, plan
from jacobians.structure import Structure

if TYPE_CHECKING:
    from jacobians import networks, testing

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Audit",
    "Backprop",
    "Block",
    "Explanation",
    "Gate",
    "JacobiansError",
    "Plan",
    "RuleAudit",
    "SpecError",
    "Structure",
    "VJPCheck",
    "WrongDerivativeError",
    "audit",
    "backprop",
    "check_vjp",
    "clear_cache",
    "dense_jacobian",
    "explain",
    "gates",
    "hessian",
    "jacobian",
    "networks",
    "plan",
    "testing",
    "value_and_jacobian",
]


def __getattr__(name: str) -> Any:
    # testing needs Hypothesis, which only the extra `test` installs; networks are seldom needed
    if name in ("networks", "testing"):
        return importlib.import_module(f"jacobians.{name}")
    raise AttributeError(f"module 'jacobians' has no attribute {name!r}")
