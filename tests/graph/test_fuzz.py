"""Random programs: the gradient of every node is what `jax.grad` says of perturbing that node."""

import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from jacobians.graph.backprop import Backprop, backprop
from jacobians.report.dot import graph_dot
from jacobians.report.graph import graph_text
from jacobians.report.svg import graph_svg
from tests.derive.programs import RandomProgram, programs


def confront(program: RandomProgram, expand: bool, seed: int = 0) -> Backprop:
    """Compares every gradient of a program's graph with the derivative of a perturbed replay."""
    note(program.describe())
    generator = np.random.default_rng(seed)
    with jax.enable_x64(True):
        values = [jnp.asarray(generator.normal(size=shape)) for shape in program.shapes]
        out = jax.eval_shape(program, *values)
        cotangent = jnp.asarray(generator.normal(size=out.shape), out.dtype)
        graph = backprop(program, *values, cotangent=cotangent, expand=expand)
        wires = {w.name: w for w in graph.wires if w.gradient is not None}
        zeros = {name: jnp.zeros_like(w.value) for name, w in wires.items()}

        def perturbed(changes):
            return jnp.real(jnp.vdot(cotangent, graph.replay(changes)[0]))

        expected = jax.jit(jax.grad(perturbed))(zeros)
        for name, wire in wires.items():
            same(wire.gradient, expected[name], name)
        if not any("while" in text for text in graph.notes):
            plain = jax.grad(lambda *v: jnp.vdot(cotangent, program(*v)), range(len(values)))
            for node, by_jax in zip(graph.nodes, plain(*values), strict=False):
                same(node.gradient, by_jax, node.name)
    return graph


def same(actual, expected, name: str) -> None:
    expected = np.asarray(expected)
    size = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(
        actual, expected, rtol=1e-6, atol=1e-9 * max(size, 1.0), err_msg=name, equal_nan=True
    )


@settings(max_examples=7, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=5), expand=st.booleans())
def test_every_gradient_is_that_of_perturbing_the_node(program, expand):
    confront(program, expand)


@pytest.mark.long
@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=8), expand=st.booleans())
def test_every_gradient_is_that_of_perturbing_the_node_long(program, expand):
    confront(program, expand)


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(program=programs(steps=4), expand=st.booleans())
def test_what_is_printed_fits(program, expand):
    graph = confront(program, expand)
    assert max(map(columns, graph_text(graph).splitlines())) <= 100
    assert graph_svg(graph).startswith("<svg")
    assert graph_dot(graph).count("{") == graph_dot(graph).count("}")


def columns(line: str) -> int:
    """How wide a line is: combining characters take no column."""
    return sum(not unicodedata.combining(c) for c in line)
