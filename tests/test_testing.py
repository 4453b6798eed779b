"""The strategies draw what they promise, and the assertion rejects what is wrong."""

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from jacobians import gates
from jacobians.errors import ArgumentError
from jacobians.gates.signature import bind_shapes, parse_signature
from jacobians.testing import assert_vjp, gate_calls, numbers, operands

MATVEC = gates.get("matvec")
W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
x, ct = np.array([7.0, 8.0, 9.0], np.float32), np.array([1.0, -1.0], np.float32)


@pytest.mark.parametrize("signature", ["()->()", "(),()->()", "(m,n),(n)->(m)", "(2,n)->(n)"])
@given(data=st.data())
def test_operands_fit_the_signature(signature: str, data: Any) -> None:
    arrays = data.draw(operands(signature, dtypes=("float16", "bfloat16", "float64")))
    parsed = parse_signature(signature)
    sizes = bind_shapes(parsed, [array.shape for array in arrays])
    assert all(0 <= size <= 4 for size in (*sizes.core.values(), *sizes.loop))
    assert len({array.dtype for array in arrays}) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        lambda arrays: arrays[0].shape == (0, 3),
        lambda arrays: arrays[0].shape == (1, 1),
        lambda arrays: arrays[0].ndim == 3 and arrays[1].ndim == 1,
        lambda arrays: arrays[0].shape[:-2] == (1,) and arrays[1].shape[:-1] == (2,),
        lambda arrays: arrays[0].dtype == jnp.bfloat16 and arrays[0].size > 3,
    ],
    ids=["empty", "size one", "one has a loop axis", "broadcast against", "bfloat16"],
)
def test_operands_reach_the_corners(wanted: Any) -> None:
    strategy = operands("(m,n),(n)->(m)", dtypes=("float32", "bfloat16"), max_loop_axes=1)
    search = settings(max_examples=5000, deadline=None, database=None)
    assert wanted(find(strategy, wanted, settings=search))


@given(operands("(N,C),(N)->()", integers={1: "C"}, max_side=3))
def test_indices_lie_on_their_axis(arrays: Any) -> None:
    scores, labels = arrays
    assert labels.dtype == np.int32
    assert scores.shape[1] > 0
    assert ((labels >= 0) & (labels < scores.shape[1])).all()


@given(operands("(),()->()", elements=[st.just(1.0), st.just(2.0)]))
def test_each_input_may_have_elements_of_its_own(arrays: Any) -> None:
    assert (arrays[0] == 1).all()
    assert (arrays[1] == 2).all()


@given(numbers(-8, 8, 0.125))
def test_numbers_are_zero_or_of_moderate_size_and_exact_in_float16(number: float) -> None:
    assert number == 0 or 0.125 <= abs(number) <= 8
    assert float(np.float16(number)) == number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_side": 3, "max_side": 2}, "expected 0 ≤ min_side ≤ max_side, got 3 and 2"),
        ({"integers": {1: "C"}}, "does not fit the signature"),
        ({"integers": {2: "n"}}, "does not fit the signature"),
        ({"elements": [numbers()] * 3}, "has 2 inputs, elements has 3 strategies"),
    ],
)
def test_options_that_do_not_fit_are_named(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        operands("(m,n),(n)->(m)", **options)


@given(gate_calls(gates.branch(3), dtypes=("float16",)))
def test_a_gate_of_several_outputs_gets_a_cotangent_for_each(call: Any) -> None:
    cotangents, (value,) = call
    assert [c.shape for c in cotangents] == [value.shape] * 3
    assert {c.dtype for c in cotangents} == {value.dtype}


@given(gate_calls(gates.get("log")))
def test_inputs_lie_in_the_gates_domain(call: Any) -> None:
    assert (call[1][0] > 0).all()


def test_a_right_vjp_is_accepted() -> None:
    assert_vjp(MATVEC.forward, MATVEC.vjp, ct, W, x)


def transposed(cotangent: Any, W: Any, x: Any) -> Any:
    return jnp.outer(x, cotangent), W.T @ cotangent


def one_percent(cotangent: Any, W: Any, x: Any) -> Any:
    return jnp.outer(cotangent, x) * 1.01, W.T @ cotangent


def one_entry(cotangent: Any, W: Any, x: Any) -> Any:
    return jnp.outer(cotangent, x), (W.T @ cotangent).at[1].add(0.01)


def not_a_number(cotangent: Any, W: Any, x: Any) -> Any:
    return jnp.outer(cotangent, x).at[0, 0].set(jnp.nan), W.T @ cotangent


def too_wide(cotangent: Any, W: Any, x: Any) -> Any:
    return jnp.outer(cotangent, x), (W.T @ cotangent).astype(jnp.float64)


def too_few(cotangent: Any, W: Any, x: Any) -> Any:
    return (jnp.outer(cotangent, x),)


@pytest.mark.parametrize(
    ("vjp", "message"),
    [
        (transposed, r"the cotangent of W is f32\[3,2\], not f32\[2,3\]"),
        (one_percent, r"cotangent of W is wrong in 6 of 6 entries, most at \((0|1), 2\)"),
        (one_entry, r"cotangent of x is wrong in 1 of 3 entries, most at \(1,\): .*-3 expected"),
        (not_a_number, r"cotangent of W is wrong in 1 of 6 entries, most at \(0, 0\): .*nan"),
        (too_wide, r"the cotangent of x is f64\[3\], not f32\[3\]"),
        (too_few, "gave 1 cotangents for 2 inputs"),
    ],
)
def test_a_wrong_vjp_is_rejected_and_its_worst_entry_named(vjp: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_vjp(MATVEC.forward, vjp, ct, W, x)


def test_a_half_precision_error_of_a_tenth_is_rejected() -> None:
    half = [np.asarray(v, jnp.bfloat16) for v in (ct, W, x)]

    def a_tenth(cotangent: Any, W: Any, x: Any) -> Any:
        return tuple(c * 1.1 for c in MATVEC.vjp(cotangent, W, x))

    assert_vjp(MATVEC.forward, MATVEC.vjp, *half)
    with pytest.raises(AssertionError, match="is wrong in"):
        assert_vjp(MATVEC.forward, a_tenth, *half)


def test_without_hypothesis_the_import_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "try:\n    import jacobians.testing\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "jacobians[test]"' in done.stdout, done.stderr
