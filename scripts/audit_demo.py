"""A small transformer with five custom rules, one of them wrong in its last tile only.

The backward pass of `project` goes through the tokens in tiles of eight and forgets what is left
over: with 16 tokens it is right, with 20 the gradients of the last four are zero. From a checkout:

    python scripts/audit_demo.py
    jacobians audit scripts.audit_demo:model 'f32[16,8]'
    jacobians audit scripts.audit_demo:model 'f32[20,8]'
"""

from typing import Any

import jax
import jax.numpy as jnp

import jacobians

TILE, WIDTH, HEADS, LAYERS, CLASSES = 8, 8, 2, 2, 5


@jax.custom_vjp
def rms_norm(x, scale, eps=1e-6):
    """Every row divided by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def _rms_norm_forward(x, scale, eps=1e-6):
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * inverse * scale, (x, scale, inverse)


def _rms_norm_backward(kept, c):
    x, scale, inverse = kept
    scaled = c * scale
    along = jnp.mean(scaled * x, axis=-1, keepdims=True)
    return inverse * scaled - x * inverse**3 * along, jnp.sum(c * x * inverse, axis=0), None


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@jax.custom_vjp
def causal_softmax(scores):
    """Softmax of every row over the columns up to the diagonal."""
    later = jnp.triu(jnp.ones(scores.shape, dtype=bool), 1)
    return jax.nn.softmax(jnp.where(later, -1e30, scores), axis=-1)


def _causal_softmax_backward(y, c):
    return (y * (c - jnp.sum(c * y, axis=-1, keepdims=True)),)


causal_softmax.defvjp(lambda s: (causal_softmax(s),) * 2, _causal_softmax_backward)


@jax.custom_jvp
def gelu(x):
    """The Gaussian error linear unit."""
    return x * jax.scipy.stats.norm.cdf(x)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    norm = jax.scipy.stats.norm
    return gelu(x), (norm.cdf(x) + x * norm.pdf(x)) * t


@jax.custom_vjp
def project(x, w):
    """x·w, the kernel whose backward pass is tiled."""
    return x @ w


def _project_backward(kept, c):
    x, w = kept
    dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
    for start in range(0, x.shape[0] - TILE + 1, TILE):
        tile = slice(start, start + TILE)
        dx = dx.at[tile].set(c[tile] @ w.T)
        dw = dw + x[tile].T @ c[tile]
    return dx, dw


project.defvjp(lambda x, w: (project(x, w), (x, w)), _project_backward)


@jax.custom_vjp
def cross_entropy(logits, labels):
    """Mean of −log softmax(logits)[label] over the tokens."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -jnp.mean(picked)


def _cross_entropy_backward(kept, c):
    logits, labels = kept
    wanted = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return c * (jax.nn.softmax(logits) - wanted) / logits.shape[0], None


cross_entropy.defvjp(lambda z, t: (cross_entropy(z, t), (z, t)), _cross_entropy_backward)


def parameters(seed: int = 0) -> dict[str, Any]:
    """Random weights; those of the layers are stacked along their first axis."""
    keys = jax.random.split(jax.random.key(seed), 5)

    def weights(key, *shape):
        return jax.random.normal(key, shape) / jnp.sqrt(shape[-2])

    return {
        "layers": {
            "scale": jnp.ones((LAYERS, WIDTH)),
            "qkv": weights(keys[0], LAYERS, WIDTH, 3 * WIDTH),
            "up": weights(keys[1], LAYERS, WIDTH, 2 * WIDTH),
            "down": weights(keys[2], LAYERS, 2 * WIDTH, WIDTH),
        },
        "out": weights(keys[3], WIDTH, CLASSES),
    }


def attention(x, qkv):
    """Causal attention, one `vmap` over the heads."""
    q, k, v = jnp.split((x @ qkv).reshape(x.shape[0], HEADS, -1), 3, axis=-1)
    mix = jax.vmap(lambda q, k, v: causal_softmax(q @ k.T / k.shape[1] ** 0.5) @ v, 1, 1)
    return mix(q, k, v).reshape(x.shape)


def loss(params, x, labels):
    """The loss of next-token prediction: a `scan` over the layers, each recomputed backwards."""

    @jax.checkpoint
    def layer(x, p):
        x = x + attention(rms_norm(x, p["scale"]), p["qkv"])
        return x + project(gelu(project(rms_norm(x, p["scale"]), p["up"])), p["down"]), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return cross_entropy(x @ params["out"], labels)


def model(x):
    """The loss for tokens `x` f32[n,8] at fixed weights and labels."""
    return jax.jit(loss)(parameters(), x, jnp.arange(x.shape[0]) % CLASSES)


if __name__ == "__main__":
    for tokens in (16, 20):
        x = jax.random.normal(jax.random.key(1), (tokens, WIDTH))
        print(jacobians.audit(loss, parameters(), x, jnp.arange(tokens) % CLASSES), end="\n\n")
