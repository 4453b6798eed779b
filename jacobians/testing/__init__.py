"""Ready-made property tests of hand-written derivatives, and the Hypothesis strategies for them.

`vjp_test` makes a whole property test in one line: arrays of many small shapes are drawn, and the
derivative is checked on each of them, every entry. A failure shrinks to a small shape and round
numbers, and its message says what is wrong, and ends with code that repeats it.

    test_my_norm = vjp_test(my_norm, "(m,n),(n)->(m,n)")

In half precision too, and with arrays of very different sizes:

    test_in_bfloat16 = vjp_test(
        my_norm, "(m,n),(n)->(m,n)", dtypes=("bfloat16",), scales=(1.0, 1e-3, 1e3)
    )

Functions of pytrees, indices or options get one example of the arguments in place of a signature:

    test_layer = vjp_test(
        layer, args=({"w": jnp.ones((4, 3)), "scale": jnp.ones(3)}, jnp.array([0, 3]), "train")
    )

`assert_vjp` checks at given values; `operands` draws arrays whose shapes fit a generalised-ufunc
signature, empty axes, axes of length 1 and broadcasting included.

    assert_vjp(my_norm, x, scale)

Each example is checked entry by entry, so that 20 of them, the default of `max_examples`, say much;
kinks need no care. For tests of your own, `operands("(m,n),(n)->(m)", away_from_kinks=True)` draws
arrays whose numbers keep a distance from zero and from one another.

Needs the `test` extra: `pip install "jacobians[test]"`.
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "jacobians.testing needs Hypothesis, which is not installed; "
        'install it with pip install "jacobians[test]"'
    ) from error

from jacobians.testing.strategies import DOMAINS, EXAMPLES, GAP, gate_calls, numbers, operands
from jacobians.testing.vjp import ULPS, assert_cotangents, assert_vjp, vjp_test

__all__ = [
    "DOMAINS",
    "EXAMPLES",
    "GAP",
    "ULPS",
    "assert_cotangents",
    "assert_vjp",
    "gate_calls",
    "numbers",
    "operands",
    "vjp_test",
]
