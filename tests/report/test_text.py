"""Reports: width, alignment, pictures that lose nothing, strict JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacobians import explain, gates
from jacobians.notation.numbers import number
from jacobians.notation.spy import spy, tile_size
from jacobians.report.data import clean, to_json
from jacobians.report.explanation import explanation_text
from jacobians.report.gate import gate_text
from jacobians.report.lecture import lecture_text
from jacobians.report.lines import array_text, matrix_lines


@given(st.integers(1, 90), st.integers(1, 160), st.data(), st.integers(1, 20), st.integers(1, 10))
def test_no_entry_disappears_from_the_picture(m, n, data, width, height):
    entries = data.draw(
        st.lists(st.tuples(st.integers(0, m - 1), st.integers(0, n - 1)), max_size=20)
    )
    rows = np.array([r for r, _ in entries], int)
    columns = np.array([c for _, c in entries], int)
    lines = spy(rows, columns, (m, n), width, height)
    assert len(lines) <= height
    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines[0]) <= width
    tile = tile_size((m, n), width, height)
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    expected = {(r // tile, c // tile) for r, c in entries}
    seen = {
        (4 * y + a, 2 * x + b)
        for y, line in enumerate(lines)
        for x, character in enumerate(line)
        for a in range(4)
        for b in range(2)
        if (ord(character) - 0x2800) & bits[a][b]
    }
    assert seen == expected


def test_an_empty_matrix_has_no_picture():
    assert spy(np.zeros(0, int), np.zeros(0, int), (0, 3)) == []


def test_numbers_are_short_and_have_a_true_minus():
    assert number(-0.5) == "−0.5"
    assert number(-0.0) == "0"
    assert number(1 / 3) == "0.33333"
    assert number(1e-20) == "1e−20"
    assert array_text(np.array([[1.0, -2.0]])) == "[[1, −2]]"


def test_small_matrices_are_aligned():
    lines = matrix_lines(np.array([[1.0, -22.5], [333.0, 4.0]]))
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == "[    1  −22.5]"


@pytest.mark.parametrize(
    ("f", "arguments"),
    [
        (jax.nn.softmax, (jnp.ones((4, 8)),)),
        (lambda p: p["a_rather_long_name"] @ p["another_long_name"],
         ({"a_rather_long_name": jnp.ones((3, 4)), "another_long_name": jnp.ones(4)},)),
        (lambda *xs: sum(xs), tuple(jnp.ones(2) for _ in range(9))),
        (jax.nn.gelu, (jnp.ones(16),)),
        (lambda x: x[:0], (jnp.ones(3),)),
        (lambda x: x, (jnp.array(2.0),)),
        (lambda x: x / 0, (jnp.ones(3),)),
    ],
)  # fmt: skip
def test_every_line_fits_and_styles_change_nothing_but_colour(f, arguments):
    explanation = explain(f, *arguments, points=2)
    text = str(explanation)
    assert max(len(line) for line in text.splitlines()) <= 100
    roles = []

    def style(part, role):
        roles.append(role)
        return part

    assert explanation_text(explanation, style) == text
    assert {"title", "block", "label"} <= set(roles)
    json.loads(to_json(explanation.to_dict()))


def test_json_has_no_nan():
    made = to_json({"a": float("nan"), "b": [float("inf")], "c": np.float32(1.5), "d": 1j})
    assert json.loads(made) == {
        "a": "nan", "b": ["inf"], "c": 1.5, "d": {"real": 0.0, "imag": 1.0}
    }  # fmt: skip
    assert clean(frozenset({"b", "a"})) == ["a", "b"]


def test_the_lectures_example_in_numbers():
    text = lecture_text()
    for line in (
        "q = W·x     [0.22, 0.26]   shape [2]",
        "f = ‖q‖²    0.116",
        "∂f/∂q       [0.44, 0.52]   shape [2]",
        "dW          [[0.088, 0.176], [0.104, 0.208]] = 2·q·xᵀ   shape [2, 2]",
        "dx          [−0.112, 0.636] = 2·Wᵀ·q   shape [2]",
    ):
        assert line in text


@pytest.mark.parametrize("name", ["relu", "matvec", "cross_entropy"])
def test_gate_reports(name):
    gate = gates.get(name)
    text, right = gate_text(gate, gates.example_inputs(gate))
    assert right
    assert gate.role in text
    assert "proved" in text
    assert max(len(line) for line in text.splitlines()) <= 100
