"""Losses: where the backward flow starts, a scalar for a batch of scores, and the regulariser.

Scores are `(N, C)`, one row per example; labels are `(N,)` integers in 0 … C−1 and take no
derivative. The loss is the mean over the batch, and 0 for an empty batch. A label outside
0 … C−1 (a padding label of −1, say) makes the loss and its row of the gradient NaN, rather than a
number that means nothing.

    >>> jax.grad(CROSS_ENTROPY)(jnp.zeros((1, 2)), jnp.array([0]))
    Array([[-0.5,  0.5]], dtype=float32)
"""

from typing import Any

import jax
import jax.numpy as jnp

from jacobians.gates.gate import Gate, checked_constant, no_cotangent, sum_to
from jacobians.gates.vector import softmax

Cotangents = tuple[Any, ...]

MARGIN = 1.0


def cross_entropy(scores: Any, labels: Any) -> Any:
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=-jnp.inf))
    shifted = scores - largest
    right = _one_hot(scores, labels)
    losses = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - _picked(shifted, right)
    return _mean(jnp.where(_known(right), losses, jnp.nan))


def cross_entropy_vjp(cotangent: Any, scores: Any, labels: Any) -> Cotangents:
    right = _one_hot(scores, labels)
    # p − 1 of the right class is minus the sum of the others, which keeps its digits at p = 1.
    others = jnp.where(right, 0, softmax(scores))
    per_row = jnp.where(right, -jnp.sum(others, axis=-1, keepdims=True), others)
    return sum_to(_rows(cotangent, per_row, right), scores), no_cotangent(labels)


CROSS_ENTROPY = Gate(
    "cross_entropy",
    cross_entropy,
    cross_entropy_vjp,
    "(N,C),(N)->()",
    role="scales",
    why="the local gradient is (softmax(scores) − one-hot labels)/N: probability minus truth",
    group="loss",
    indices=((1, "C"),),
)


def hinge(scores: Any, labels: Any) -> Any:
    right = _one_hot(scores, labels)
    margins = scores - jnp.expand_dims(_picked(scores, right), -1) + MARGIN
    losses = jnp.sum(jnp.where(right, 0, jnp.maximum(margins, 0)), axis=-1)
    return _mean(jnp.where(_known(right), losses, jnp.nan))


def hinge_vjp(cotangent: Any, scores: Any, labels: Any) -> Cotangents:
    right = _one_hot(scores, labels)
    margins = scores - jnp.expand_dims(_picked(scores, right), -1) + MARGIN
    violated = (~right & (margins > 0)).astype(scores.dtype)
    per_row = jnp.where(right, -jnp.sum(violated, axis=-1, keepdims=True), violated)
    return sum_to(_rows(cotangent, per_row, right), scores), no_cotangent(labels)


HINGE = Gate(
    "hinge",
    hinge,
    hinge_vjp,
    "(N,C),(N)->()",
    role="scales",
    why="a class within the margin of 1 has slope 1/N; the right class has minus their number",
    group="loss",
    convention="a class exactly at the margin has gradient 0",
    indices=((1, "C"),),
)


def l2_regularisation(strength: float) -> Gate:
    """The gate λ·Σ W², without a factor ½: its gradient is 2λ·W.

    Args:
        strength: λ, a finite number; fixed in the gate, it takes no derivative.

    Returns:
        A gate from a matrix of weights to a scalar of the same dtype.

    Raises:
        ArgumentError: `strength` is no finite number.
    """
    strength = checked_constant("strength", strength)

    def penalty(W: Any) -> Any:
        return strength * jnp.sum(W * W, axis=(-2, -1))

    def penalty_vjp(cotangent: Any, W: Any) -> Cotangents:
        return (sum_to(jnp.expand_dims(cotangent, (-2, -1)) * (2 * strength * W), W),)

    return Gate(
        "l2_regularisation",
        penalty,
        penalty_vjp,
        "(m,n)->()",
        role="scales",
        why=f"the local gradient of {strength:g}·ΣW² is {2 * strength:g}·W: it pulls weights to 0",
        group="loss",
    )


def _one_hot(scores: Any, labels: Any) -> Any:
    """True at the right class of every row; a row with an unknown label has no True."""
    return jnp.expand_dims(labels, -1) == jnp.arange(jnp.shape(scores)[-1])


def _known(right: Any) -> Any:
    return jnp.any(right, axis=-1)


def _picked(scores: Any, right: Any) -> Any:
    """The score of the right class: a choice, not a product, so that no 0·∞ can arise."""
    return jnp.sum(jnp.where(right, scores, 0), axis=-1)


def _mean(losses: Any) -> Any:
    return jnp.sum(losses, axis=-1) / max(losses.shape[-1], 1)


def _rows(cotangent: Any, per_row: Any, right: Any) -> Any:
    """The gradient of the mean: each example's own, over N; NaN where the label is unknown."""
    known = jnp.expand_dims(_known(right), -1)
    per_row = jnp.where(known, per_row, jnp.nan) / max(per_row.shape[-2], 1)
    return jnp.expand_dims(cotangent, (-2, -1)) * per_row


GATES = (CROSS_ENTROPY, HINGE, l2_regularisation(0.5))
