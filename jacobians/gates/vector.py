"""Vector gates: their Jacobian is a matrix that is never built.

The gradient of each input has that input's shape; which products and sums bring it there is read
off the indices once and written down in the VJP next to the forward function. Axes in front of
those in the signature are loop axes, as in a NumPy generalised ufunc.

    W, x = jnp.array([[0.1, 0.5], [-0.3, 0.8]]), jnp.array([0.2, 0.4])
    dW, dx = jax.grad(SQUARED_NORM_OF_PRODUCT, argnums=(0, 1))(W, x)
    np.round(np.asarray(dW), 3).tolist(), np.round(np.asarray(dx), 3).tolist()
    # ([[0.088..., 0.176...], [0.104..., 0.208...]], [-0.112..., 0.636...])
"""

from typing import Any

import jax
import jax.numpy as jnp

from jacobians.gates import scalar
from jacobians.gates.gate import Gate, sum_to

Cotangents = tuple[Any, ...]

# An accelerator may multiply matrices in fewer digits than their dtype has, unless told not to.
_FULL = jax.lax.Precision.HIGHEST


def relu(x: Any) -> Any:
    return jnp.maximum(x, 0)


def relu_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(jnp.where(x > 0, cotangent, 0), x),)


RELU = Gate(
    "relu",
    relu,
    relu_vjp,
    "(n)->(n)",
    role="routes",
    why="the Jacobian is diagonal: 1 where x > 0, else 0, so a mask replaces the n×n matrix",
    convention="at 0 the gradient is 0",
)

ELEMENTWISE_MAXIMUM = Gate(
    "elementwise_maximum",
    scalar.maximum,
    scalar.maximum_vjp,
    "(n),(n)->(n)",
    role="routes",
    why="each element's gradient goes to the vector that holds the larger value there",
    convention=scalar.MAXIMUM.convention,
)


def matvec(W: Any, x: Any) -> Any:
    return jnp.einsum("...mn,...n->...m", W, x, precision=_FULL)


def matvec_vjp(cotangent: Any, W: Any, x: Any) -> Cotangents:
    dW = jnp.einsum("...m,...n->...mn", cotangent, x, precision=_FULL)
    dx = jnp.einsum("...mn,...m->...n", W, cotangent, precision=_FULL)
    return sum_to(dW, W), sum_to(dx, x)


MATVEC = Gate(
    "matvec",
    matvec,
    matvec_vjp,
    "(m,n),(n)->(m)",
    role="switches",
    why="∂q_k/∂W_ij = 1[k = i]·x_j: W receives q̄·xᵀ, and x receives Wᵀ·q̄",
)


def matmul(A: Any, B: Any) -> Any:
    return jnp.einsum("...mn,...np->...mp", A, B, precision=_FULL)


def matmul_vjp(cotangent: Any, A: Any, B: Any) -> Cotangents:
    dA = jnp.einsum("...mp,...np->...mn", cotangent, B, precision=_FULL)
    dB = jnp.einsum("...mn,...mp->...np", A, cotangent, precision=_FULL)
    return sum_to(dA, A), sum_to(dB, B)


MATMUL = Gate(
    "matmul",
    matmul,
    matmul_vjp,
    "(m,n),(n,p)->(m,p)",
    role="switches",
    why="each factor receives the upstream gradient times the other transposed: C̄·Bᵀ and Aᵀ·C̄",
)


def add_bias(X: Any, b: Any) -> Any:
    return X + jnp.expand_dims(b, -2)


def add_bias_vjp(cotangent: Any, X: Any, b: Any) -> Cotangents:
    return sum_to(cotangent, X), sum_to(jnp.sum(cotangent, axis=-2), b)


ADD_BIAS = Gate(
    "add_bias",
    add_bias,
    add_bias_vjp,
    "(N,n),(n)->(N,n)",
    role="distributes",
    why="every example uses the same bias, so its gradient is the sum over the batch",
)


def total(x: Any) -> Any:
    return jnp.sum(x, axis=-1)


def total_vjp(cotangent: Any, x: Any) -> Cotangents:
    return (sum_to(jnp.broadcast_to(jnp.expand_dims(cotangent, -1), jnp.shape(x)), x),)


SUM = Gate(
    "sum",
    total,
    total_vjp,
    "(n)->()",
    role="distributes",
    why="every local gradient is 1, so each element receives the upstream gradient",
)


def squared_norm(q: Any) -> Any:
    return jnp.sum(q * q, axis=-1)


def squared_norm_vjp(cotangent: Any, q: Any) -> Cotangents:
    return (sum_to(jnp.expand_dims(cotangent, -1) * (2 * q), q),)


SQUARED_NORM = Gate(
    "squared_norm",
    squared_norm,
    squared_norm_vjp,
    "(n)->()",
    role="scales",
    why="∂‖q‖²/∂q = 2q",
)


def _direction(q: Any) -> tuple[Any, Any]:
    """The norm of q, and q divided by it: zeros where the norm is 0.

    Squares overflow and underflow at half the exponent range of the numbers themselves, so q is
    divided by its largest magnitude first. That divisor cancels; it takes no derivative.
    """
    largest = jnp.max(jnp.abs(q), axis=-1, keepdims=True, initial=0)
    usable = (largest > 0) & jnp.isfinite(largest)
    divisor = jax.lax.stop_gradient(jnp.where(usable, largest, 1))
    unit = q / divisor
    squares = jnp.sum(unit * unit, axis=-1, keepdims=True)
    # The root of 0 has no derivative, not even behind a `where` that drops it afterwards.
    zero = squares == 0
    root = jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))
    return jnp.squeeze(divisor * root, -1), unit / jnp.where(zero, 1, root)


def norm(q: Any) -> Any:
    return _direction(q)[0]


def norm_vjp(cotangent: Any, q: Any) -> Cotangents:
    return (sum_to(jnp.expand_dims(cotangent, -1) * _direction(q)[1], q),)


NORM = Gate(
    "norm",
    norm,
    norm_vjp,
    "(n)->()",
    role="scales",
    why="∂‖q‖/∂q = q/‖q‖, the direction of q: the upstream gradient keeps its size",
    convention="at 0 the gradient is 0",
)


def softmax(x: Any) -> Any:
    # Subtracting the largest keeps exp in range and cancels in the quotient: no derivative.
    largest = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True, initial=-jnp.inf))
    weights = jnp.exp(x - largest)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def softmax_vjp(cotangent: Any, x: Any) -> Cotangents:
    s = softmax(x)
    # Adding a number to all of ȳ changes nothing: Σ s = 1. Where one s is close to 1, ȳ minus its
    # mean under s would cancel to rounding there, unless ȳ is measured from that element's own.
    top = s == jnp.max(s, axis=-1, keepdims=True, initial=0)
    own = jnp.sum(jnp.where(top, cotangent, 0), axis=-1, keepdims=True)
    relative = cotangent - own / jnp.maximum(jnp.sum(top, axis=-1, keepdims=True), 1).astype(
        s.dtype
    )
    mean = jnp.sum(relative * s, axis=-1, keepdims=True)
    return (sum_to(s * (relative - mean), x),)


SOFTMAX = Gate(
    "softmax",
    softmax,
    softmax_vjp,
    "(n)->(n)",
    role="mixes",
    why="the outputs share one sum, so the Jacobian diag(s) − s·sᵀ ties all elements",
)


def squared_norm_of_product(W: Any, x: Any) -> Any:
    return squared_norm(matvec(W, x))


def squared_norm_of_product_vjp(cotangent: Any, W: Any, x: Any) -> Cotangents:
    (dq,) = squared_norm_vjp(cotangent, matvec(W, x))
    return matvec_vjp(dq, W, x)


SQUARED_NORM_OF_PRODUCT = Gate(
    "squared_norm_of_product",
    squared_norm_of_product,
    squared_norm_of_product_vjp,
    "(m,n),(n)->()",
    role="switches",
    why="two gates as one, q = W·x then ‖q‖²: W receives 2q·xᵀ, and x receives 2Wᵀ·q",
)

GATES = (
    RELU,
    ELEMENTWISE_MAXIMUM,
    MATVEC,
    MATMUL,
    ADD_BIAS,
    SUM,
    SQUARED_NORM,
    NORM,
    SOFTMAX,
    SQUARED_NORM_OF_PRODUCT,
)
