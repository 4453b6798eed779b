"""The lecture's worked example, f(W, x) = ‖W·x‖², every number computed from W and x.

`print(lecture_text())`
"""

import jax.numpy as jnp
import numpy as np

from jacobians.derive.algebra.syntax import Cotangent, Expression, Product
from jacobians.gates import vector
from jacobians.notation.text import text_of
from jacobians.report.lines import LABEL, Style, array_text, plain
from jacobians.structure.explain import explain

W = ((0.1, 0.5), (-0.3, 0.8))
X = (0.2, 0.4)


def lecture_text(style: Style = plain) -> str:
    """The example as a report: forward values, then each gradient with the shape of its input.

    Args:
        style: as in `report.explanation`.

    Returns:
        The report. The gradients come from the gates' hand-written VJPs, the formulas beside
        them from the derivation.
    """
    weights, x = jnp.array(W), jnp.array(X)
    q = vector.matvec(weights, x)
    f = vector.squared_norm(q)
    (dq,) = vector.squared_norm_vjp(jnp.ones_like(f), q)
    dweights, dx = vector.matvec_vjp(dq, weights, x)
    blocks = explain(lambda W, x: vector.squared_norm(vector.matvec(W, x)), weights, x)
    formulas = {
        b.input: "" if b.formulas.pullback is None else text_of(_of_one(b.formulas.pullback.right))
        for b in blocks.blocks
    }
    lines = [style("f(W, x) = ‖W·x‖²: the lecture's example", "title")]

    def put(label: str, value: object, note: str = "") -> None:
        array = np.asarray(value)
        shape = f"   shape {list(array.shape)}" if array.ndim else ""
        text = array_text(np.round(array.astype(np.float64), 6))
        lines.append("  " + style(label.ljust(LABEL), "label") + text + note + shape)

    put("W", weights)
    put("x", x)
    put("q = W·x", q)
    put("f = ‖q‖²", f)
    put("∂f/∂q", dq)
    put("dW", dweights, f" = {formulas['W']}")
    put("dx", dx, f" = {formulas['x']}")
    return "\n".join(lines)


def _of_one(pulled: Expression) -> Expression:
    """A product without the cotangent of a number: what it is for the cotangent 1."""
    if not isinstance(pulled, Product):
        return pulled
    factors = tuple(f for f in pulled.factors if not isinstance(f, Cotangent))
    return Product(factors, pulled.scale, pulled.over)
