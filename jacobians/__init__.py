"""See, prove and test the Jacobian of a JAX function.

    import jacobians
    print(jacobians.explain(jax.nn.softmax, jnp.ones((4, 8))))     # what is it made of?
    jacobians.check_vjp(my_relu, x).raise_if_wrong()               # is my derivative right?
    print(jacobians.backprop(f, x, y, z))                          # how do its gradients flow?
    print(jacobians.audit(model, params, x))                       # all those in my model?
    jacobians.jacobian(f)(x)                                       # its numbers, sparse and cheap

The package is houses with an order; imports run only down it, which `tests/test_layout.py` holds:
cli, report, sparse, networks, graph, testing, check, structure, notation, derive, gates, program,
errors. What a newcomer touches to add

- a rule for a primitive: its family's file in `derive/rules/`, and its row in
  `program/primitives.py` (one in `notation/operation.py` where it is called otherwise than it is
  named);
- a structure kind: `structure/kinds.py` (its name), `structure/proved.py` (its proof),
  `structure/observed.py` (how it looks in numbers), and `tests/words.py` (its oracle);
- a diagnosis: `check/diagnose/alternatives.py` or `blocks.py` (the hypothesis),
  `check/diagnose/words.py` (its sentence), and `tests/mistakes.py` (a planted one);
- an output format: one file in `report/`, registered with a function of `notation/show.py`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jacobians import (
    gates,
    report,  # noqa: F401  registers how results are shown
)
from jacobians.check.audit.audit import audit
from jacobians.check.audit.result import Audit, RuleAudit
from jacobians.check.check import check_vjp
from jacobians.check.result import VJPCheck
from jacobians.errors import ArgumentError, JacobiansError, SpecError, WrongDerivativeError
from jacobians.gates import Gate
from jacobians.graph.backprop import Backprop, backprop
from jacobians.program.dense import dense_jacobian
from jacobians.sparse.cache import clear_cache
from jacobians.sparse.jacobian import hessian, jacobian, value_and_jacobian
from jacobians.sparse.plan import Plan, plan
from jacobians.structure.explain import explain
from jacobians.structure.explanation import Block, Explanation
from jacobians.structure.kinds import Structure

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
