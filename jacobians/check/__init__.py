"""Is this derivative right? The explicit Jacobian against what a rule claims.

The comparison is made in float64 wherever the rule can be evaluated there, and again in the inputs'
own precision, where rounding is imitated rather than guessed: a rounding error is never called a
mistake, nor a mistake of 0.1 % rounding. Each entry is judged by the rounding of its own terms, so
that a wrong one does not hide behind a large one. Where large terms cancel in it (the derivative of
a KL divergence of equal logits is zero), their size is measured, and what rounding leaves of them
is no mistake; where nothing cancels, 1e-30 instead of zero is one.

Where one-sided derivatives differ, any value between them is right, also where one of them is
infinite, and such entries are counted; kinks that cancel are none: at 0, max(x, 0) − |x|/2 has the
derivative 1/2 and no other. Where the function has no finite derivative (√x at 0), a number is a
convention: such entries are counted as singular and are no mistake. Where it has no derivative at
all (a cosine similarity of a row of zeros is 0/0) and JAX's own is not finite, NaN is right too and
such entries are counted as not judged; NaN where there is a derivative is a mistake, even where JAX
makes it as well.

Large Jacobians are compared without loss through their proved patterns; those too large for that by
random cotangents, with the probability stated that a mistake goes unseen. What JAX cannot
differentiate (a callback) is compared with finite differences and their error bar. Complex
arguments, `custom_jvp` rules and rules inside larger functions are checked too.

A rule that is meant to differ is declared with its reason, and then the verdict is "differs as
declared". A rule that raises, gives NaN or has another forward pass is wrong all the same.

    check_vjp(jnp.round, x, vjp=lambda c, x: (c,), expect="straight-through: derivative 0")
"""
