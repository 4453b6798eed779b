"""SPEC notation and function names: what is read, and what is said of what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians.cli.specs import DISTRIBUTIONS, DTYPES, load_function, needs_x64, parse_spec
from jacobians.errors import SpecError


@pytest.mark.parametrize("short", [s for s in DTYPES if s not in ("f64", "i64", "u64", "c128")])
def test_every_dtype_is_read(short):
    value = parse_spec(f"{short}[2,3]")
    assert value.shape == (2, 3)
    assert value.dtype == jnp.dtype(DTYPES[short])


@pytest.mark.parametrize("short", ["f64", "i64", "u64", "c128"])
def test_wide_dtypes_ask_for_x64(short):
    assert needs_x64(["2", f"{short}[3]"])
    assert not needs_x64(["f32[3]", "@f64.npy"])
    with jax.enable_x64(True):
        assert parse_spec(f"{short}[3]").dtype == jnp.dtype(DTYPES[short])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distributions(distribution):
    value = np.asarray(parse_spec(f"f32[200]:{distribution}"))
    expected = {
        "normal": abs(value.mean()) < 0.5 and value.min() < 0,
        "uniform": value.min() >= 0 and value.max() < 1,
        "positive": value.min() >= 0.5 and value.max() < 1.5,
        "zeros": (value == 0).all(),
        "ones": (value == 1).all(),
        "arange": (value == np.arange(200)).all(),
    }
    assert expected[distribution]


def test_seeds_and_positions_give_different_numbers_and_the_same_again():
    first = np.asarray(parse_spec("f32[4]", seed=1, position=0))
    assert (first == np.asarray(parse_spec("f32[4]", seed=1, position=0))).all()
    assert (first != np.asarray(parse_spec("f32[4]", seed=1, position=1))).any()
    assert (first != np.asarray(parse_spec("f32[4]", seed=2, position=0))).any()


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("-3", -3), ("0.5", 0.5), (" -2e-3", -0.002), ("true", True), ("False", False)],
)
def test_plain_numbers_stay_python_values(text, value):
    found = parse_spec(text)
    assert found == value
    assert type(found) is type(value)


def test_scalars_and_spaces():
    assert parse_spec("f32[]").shape == ()
    assert parse_spec(" f32[ 2 , 3 ] ").shape == (2, 3)


def test_huge_arrays_stay_shapes():
    value = parse_spec("f32[20000000]")
    assert isinstance(value, jax.ShapeDtypeStruct)


def test_integers_are_small_and_booleans_both():
    values = np.asarray(parse_spec("i32[100]"))
    assert values.min() >= 0
    assert values.max() < 8
    assert set(np.asarray(parse_spec("bool[50]")).tolist()) == {True, False}


def test_arrays_come_from_files(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(parse_spec(f"@{path}"), np.arange(3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("f33[3]", "unknown dtype 'f33' (did you mean f32?)"),
        ("f32[3", "the shape is not closed; write f32[3]"),
        ("f32", "a shape must follow the dtype"),
        ("f32[a]", "has 'a' where a size is expected"),
        ("f32[2,]", "has '' where a size is expected"),
        ("f32[-1]", "has '-1' where a size is expected"),
        ("f32[3]normal", "'normal' after the shape"),
        ("f32[3]:unifrom", "unknown distribution 'unifrom' (did you mean uniform?)"),
        ("i32[3]:uniform", "integers are drawn from 0 to 7"),
        ("hello", "is no SPEC"),
        ("", "is no SPEC"),
        ("@", "name a file after the @"),
        ("@nosuch.npy", "there is no file 'nosuch.npy'"),
    ],
)
def test_mistakes_are_quoted_and_explained(text, says):
    with pytest.raises(SpecError) as error:
        parse_spec(text)
    assert says in str(error.value)
    assert repr(text) in str(error.value)


def test_a_file_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_text("not an array")
    with pytest.raises(SpecError, match="is no NumPy array file"):
        parse_spec(f"@{path}")
    np.savez(tmp_path / "y.npz", a=np.ones(2), b=np.ones(2))
    with pytest.raises(SpecError, match="holds several arrays"):
        parse_spec(f"@{tmp_path / 'y.npz'}")


def test_functions_are_found_by_module_and_path():
    assert load_function("jax.nn:softmax") is jax.nn.softmax
    assert load_function("jax:numpy.linalg.inv") is jnp.linalg.inv


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nosuch:thing", "there is no module 'nosuch'"),
        ("jax.nosuch:thing", "there is no module 'jax.nosuch'"),
        ("jax.nn:sofmax", "has no 'sofmax'; did you mean softmax"),
        ("jax.nn", "write MODULE:FUNCTION"),
        (":f", "write MODULE:FUNCTION"),
        ("math:pi", "math.pi is a float, not a function"),
        ("..:f", "is no module name"),
    ],
)
def test_functions_that_cannot_be_found(text, says):
    with pytest.raises(SpecError) as error:
        load_function(text)
    assert says in str(error.value)
