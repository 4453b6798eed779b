"""Jacobians at the cost that their structure allows.

`jacobian(f)` needs no preparation step. Each block is computed the cheapest way by an estimate of
cost: in closed form from its derived coefficients, from coloured JVPs or VJPs or both, once if it
is constant, or not at all if it is zero. `print(plan(f, x))` says which way, and why.

Custom derivative rules inside `f` are used as JAX uses them; a rule that is not certainly linear (a
clipped gradient) is applied row by row. Where `jax.jacobian` works on real numbers, `jacobian`
does: what it can use no structure of (entries that are too many to list, a look at values) it
computes in full, as `jax.jacobian` does, and the plan says so. Where `f` looks at values, in a
Python `if`, it is linearised at the point, or computed row by row where a `custom_vjp` is inside;
under `jit`, where `jax.jacobian` fails too, it is refused with a sentence. Complex arguments and
results are refused.

What `f` closes over may change between calls. Integer arrays given outside `jit` count as known,
since index tables make sparsity; each new content is a new analysis. In a loop, call it under
`jit`: an eager call traces `f` again. A Hessian counts as symmetric only where no custom derivative
rule is inside but JAX's own; then it takes a star colouring.

    jacobian(jax.nn.relu)(jnp.ones(10**6))                 # BCOO with 10⁶ entries, no JVP
    jacobian(f, argnums=(0, 1), format="dense")(x, y)      # as jax.jacobian
    jacobian(f, format="scipy")(x)                         # CSR of the flattened matrix
    jacobian(f, format="operator")(x) @ v                  # nothing is listed
    piece = jacobian(residual, format="blocks")(x)         # a diagonal as a vector, a band …
    piece.jvp(tangent), piece.vjp(cotangent), piece @ vector, piece.todense()
    A = piece.to_lineax()                                  # extra `lineax`
    lineax.linear_solve(A, b).value

A piece and an operator multiply from both sides without building a matrix, and go through `jit` and
`vmap`. `lineax` gets tags (diagonal, tridiagonal, triangular, symmetric) where they are proved
entry by entry, so a matrix that is triangular in blocks only gets none; that a matrix is positive
definite is for you to say. An operator has no tags. Its `jvp` in a function with a `custom_vjp` is
the transpose of its `vjp`, where the rule is linear, and refused where it may not be.
"""
