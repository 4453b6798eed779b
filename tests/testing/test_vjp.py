"""The strategies draw what they promise, and the assertion rejects what is wrong."""

import functools
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from jacobians import check_vjp, gates
from jacobians.errors import ArgumentError, WrongDerivativeError
from jacobians.gates.signature import bind_shapes, parse_signature
from jacobians.testing import assert_cotangents, assert_vjp, gate_calls, numbers, operands, vjp_test

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
    assert_cotangents(MATVEC.forward, MATVEC.vjp, ct, W, x)


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
        assert_cotangents(MATVEC.forward, vjp, ct, W, x)


def test_a_half_precision_error_of_a_tenth_is_rejected() -> None:
    half = [np.asarray(v, jnp.bfloat16) for v in (ct, W, x)]

    def a_tenth(cotangent: Any, W: Any, x: Any) -> Any:
        return tuple(c * 1.1 for c in MATVEC.vjp(cotangent, W, x))

    assert_cotangents(MATVEC.forward, MATVEC.vjp, *half)
    with pytest.raises(AssertionError, match="is wrong in"):
        assert_cotangents(MATVEC.forward, a_tenth, *half)


def test_without_hypothesis_the_import_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "try:\n    import jacobians.testing\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "jacobians[test]"' in done.stdout, done.stderr


@jax.custom_vjp
def scaled_rows(x: Any, scale: Any) -> Any:
    """x·scale, whose rule halves the cotangent of x where scale > 2."""
    return x * scale


scaled_rows.defvjp(
    lambda x, scale: (x * scale, (x, scale)),
    lambda kept, c: (
        c * jnp.where(kept[1] > 2, 0.5, 1.0) * kept[1],
        jnp.sum(c * kept[0], axis=0),
    ),
)


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return jnp.clip(x, -1.0, 1.0)


clipped.defvjp(
    lambda x: (jnp.clip(x, -1.0, 1.0), x), lambda x, c: (jnp.where(jnp.abs(x) <= 1.0, c, 0.0),)
)


test_a_right_rule_passes_kinks_and_empty_axes_included = vjp_test(clipped, "()", max_examples=8)
test_a_gate_brings_its_signature_and_its_indices = vjp_test(
    gates.get("cross_entropy"), max_examples=4, max_side=2
)
test_a_rule_beside_a_function = vjp_test(
    jnp.sin, "()", vjp=lambda c, x: (c * jnp.cos(x),), max_examples=4, dtypes=("bfloat16",)
)
test_a_pytree_by_example = vjp_test(
    lambda params, rows, mode: clipped(params["w"][rows] * params["b"]),
    args=({"w": jnp.ones(3), "b": 2.0}, jnp.array([0, 2]), "a mode"),
    max_examples=4,
)


def failure(test: Any) -> str:
    with pytest.raises(WrongDerivativeError) as caught:
        test()
    return str(caught.value)


def pasted(message: str) -> str:
    return message.split("To repeat this, paste:\n\n")[1]


def test_a_failure_shrinks_to_a_small_shape_and_round_numbers_and_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # every step of shrinking would look for the cause anew
    without_causes = functools.partial(check_vjp, diagnose=False)
    monkeypatch.setattr("jacobians.testing.vjp.check_vjp", without_causes)
    fresh = settings(database=None, derandomize=True, deadline=None)
    message = failure(vjp_test(scaled_rows, "(m,n),(n)->(m,n)", max_side=2, settings=fresh))
    code = pasted(message)
    assert "∂out[0,0]/∂x[0,0]: expected 3, the rule says 1.5" in message
    assert 'scale = jnp.array([3.0], "float32")' in code
    assert 'x = jnp.array([[0.0]], "float32")' in code
    with pytest.raises(WrongDerivativeError, match=r"expected 3, the rule says 1\.5"):
        exec(code, {})


def test_assert_vjp_says_what_is_wrong_and_how_to_repeat_it() -> None:
    assert_vjp(clipped, np.array([0.5, -1.0, 2.0], np.float32))
    with pytest.raises(AssertionError) as caught:
        assert_vjp(scaled_rows, np.ones((2, 1), np.float32), np.array([2.5], np.float32))
    code = pasted(str(caught.value))
    assert "from tests.testing.test_vjp import scaled_rows" in code
    with pytest.raises(WrongDerivativeError):
        exec(code, {})


def test_what_cannot_be_written_down_is_said() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_vjp(lambda x: x * x, jnp.ones(2), vjp=lambda c, x: (c * x,), rtol=1e-3)
    code = pasted(str(caught.value))
    assert "f = ...  # put your function here" in code
    assert "jacobians.check_vjp(f, x, vjp=vjp, rtol=0.001).raise_if_wrong()" in code


@pytest.mark.parametrize("kinks", [(0.0,), (-1.0, 0.0, 1.0)])
@given(data=st.data())
def test_numbers_away_from_kinks_are_apart_in_every_dtype(kinks: Any, data: Any) -> None:
    arrays = data.draw(
        operands(
            "(m,n),(n)->(m)", away_from_kinks=True, kinks=kinks, max_side=3,
            dtypes=("float32", "bfloat16", "float16"),
        )
    )  # fmt: skip
    numbers_ = np.concatenate([a.astype(np.float64).ravel() for a in arrays])
    places = np.sort(np.concatenate([numbers_, kinks]))
    assert (np.diff(places) >= 0.24).all()


@given(operands("()->()", away_from_kinks=0.5, elements=numbers(low=0.125)))
def test_what_is_moved_from_a_kink_keeps_its_sign(arrays: Any) -> None:
    assert (arrays[0] >= 0.5).all()


@given(operands("(n),()->()", scales=(1e3,), elements=numbers(low=0.125), min_side=1))
def test_scales_multiply_the_numbers(arrays: Any) -> None:
    assert all((array >= 125).all() for array in arrays)
    assert all(array.dtype == np.float32 for array in arrays)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vjp_test(clipped), 'give a signature such as "(m,n),(n)->(m)"'),
        (lambda: vjp_test(clipped, "()", args=(1.0,)), "not both"),
        (lambda: vjp_test(clipped, "(m"), "is not a generalised-ufunc signature"),
        (lambda: vjp_test("clipped", "()"), "expected a function"),
        (lambda: vjp_test(clipped, args=(1.0,), elements=[numbers()]), "one strategy for all"),
        (lambda: vjp_test(clipped, "()", scales=()), "at least one factor"),
        (lambda: operands("()->()", scales=(2.0,), away_from_kinks=True), "give one"),
        (lambda: operands("()->()", away_from_kinks=-1.0), "not negative"),
    ],
)
def test_options_of_a_ready_made_test_that_do_not_fit_are_named(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert message in str(caught.value)


def test_the_readmes_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(vjp_test, max_examples=2)
    monkeypatch.setattr("jacobians.testing.vjp.vjp_test", few)
    text = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = (
        part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "vjp_test(" in part
    )
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
