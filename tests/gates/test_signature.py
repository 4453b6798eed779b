"""Signatures are read as NumPy reads them, and shapes that do not fit are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacobians.errors import ArgumentError
from jacobians.gates.signature import bind_shapes, parse_signature


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("()->()", ((),), ((),)),
        ("(),()->()", ((), ()), ((),)),
        ("(m,n),(n)->(m)", (("m", "n"), ("n",)), (("m",),)),
        (" ( m , n ) , (n) -> (m) ", (("m", "n"), ("n",)), (("m",),)),
        ("()->(),()", ((),), ((), ())),
        ("(3),(batch_1)->(3)", (("3",), ("batch_1",)), (("3",),)),
    ],
)
def test_a_signature_gives_the_core_axes_of_every_array(
    text: str, inputs: object, outputs: object
) -> None:
    parsed = parse_signature(text)
    assert (parsed.inputs, parsed.outputs) == (inputs, outputs)


@pytest.mark.parametrize("text", ["", "()", "m,n->m", "(m->(m)", "(m,)->()", "(m)->", "(a b)->()"])
def test_a_text_that_is_no_signature_is_quoted_in_the_error(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a generalised-ufunc signature") as caught:
        parse_signature(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_core_axes_get_their_lengths_and_loop_axes_broadcast(
    m: int, n: int, batch: int, one: bool
) -> None:
    signature = parse_signature("(m,n),(n)->(m)")
    sizes = bind_shapes(signature, [(batch, m, n), (1, n) if one else (n,)])
    assert dict(sizes.core) == {"m": m, "n": n}
    assert sizes.shape(signature.outputs[0]) == (batch, m)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (4,)], "n is 3 in W and 4 in x"),
        ([(2, 3), (1,)], "n is 3 in W and 1 in x"),
        ([(3,), (3,)], "W needs at least 2 axes, it has 1"),
        ([(2, 3), ()], "x needs at least 1 axis, it has 0"),
        ([(5, 2, 3), (4, 3)], r"the leading axes \[5\] and \[4\] do not broadcast"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        bind_shapes(parse_signature("(m,n),(n)->(m)"), shapes, ("W", "x"))
    assert "(m,n),(n)->(m)" in str(caught.value)


def test_a_fixed_length_is_required() -> None:
    signature = parse_signature("(3),(3)->(3)")
    assert bind_shapes(signature, [(3,), (3,)]).shape(("3",)) == (3,)
    with pytest.raises(ArgumentError, match="must have length 3, it has length 2"):
        bind_shapes(signature, [(3,), (2,)])
