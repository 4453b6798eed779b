"""Code that repeats a check gives back the same arguments, whatever they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jacobians import gates
from jacobians.testing.code import check_code, value_source


def read_back(source: str | None) -> Any:
    import base64
    import zlib

    assert source is not None
    return eval(source, {"jnp": jnp, "np": np, "base64": base64, "zlib": zlib})


DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "bool"]


@given(
    st.sampled_from(DTYPES),
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)),
)
def test_arrays_come_back_bit_by_bit(dtype: str, values: Any) -> None:
    with np.errstate(all="ignore"):
        array = jnp.asarray(np.nan_to_num(values) if dtype[0] in "iub" else values).astype(dtype)
    again = read_back(value_source(array))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(again), np.asarray(array))
    assert (
        np.array_equal(
            np.signbit(np.asarray(again, np.float64)), np.signbit(np.asarray(array, np.float64))
        )
        or np.isnan(np.asarray(array, np.float64)).any()
    )


@pytest.mark.parametrize("shape", [(3000,), (40, 10)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large_arrays_come_back_compressed(shape: Any, dtype: str) -> None:
    array = jax.random.normal(jax.random.key(0), shape, dtype)
    np.testing.assert_array_equal(np.asarray(read_back(value_source(array))), np.asarray(array))


@pytest.mark.parametrize(
    "value", [2, -0.5, float("inf"), True, None, "a b'c", [1, (2.0,)], {"w": (1, [])}, ()]
)
def test_python_values_come_back(value: Any) -> None:
    assert read_back(value_source(value)) == value


def test_what_has_no_source_is_named() -> None:
    assert value_source(object()) is None
    assert value_source([object()]) is None
    assert value_source({"k": object()}) is None
    assert value_source(jax.random.key(0)) is None
    code = check_code(jnp.sin, (jax.random.normal(jax.random.key(0), (200, 200)),))
    assert "put here: an array f32[200,200], too large to be written here" in code


def test_names_do_not_hide_what_the_code_needs() -> None:
    code = check_code(lambda jnp, sum, x: x, (1.0, 2.0, "two  spaces"), options={"rtol": None})
    assert "x0 = 1.0\nx1 = 2.0\nx = 'two  spaces'\n" in code
    assert code.endswith("jacobians.check_vjp(f, x0, x1, x).raise_if_wrong()")


def test_a_gate_is_named_by_its_catalogue() -> None:
    code = check_code(gates.get("relu"), (jnp.zeros((0, 2)),))
    assert "jacobians.check_vjp(jacobians.gates.get('relu'), x).raise_if_wrong()" in code
    assert 'x = jnp.zeros((0, 2), "float32")' in code


def test_double_precision_is_switched_on_first() -> None:
    with jax.enable_x64(True):
        code = check_code(gates.get("relu"), (np.ones(2),))
    assert code.index("jax_enable_x64") < code.index('"float64"')
