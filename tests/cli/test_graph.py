"""`jacobians graph`: text, JSON, SVG and Graphviz, and one sentence for every mistake."""

import json
import os
import sys
import unicodedata
import xml.etree.ElementTree as ET

import pytest

from jacobians.cli.main import main

MODULE = """
import jax
import jax.numpy as jnp
from jax import lax


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def cross_entropy(scores, labels):
    s = jax.nn.log_softmax(scores)
    return -jnp.mean(jnp.take_along_axis(s, labels[:, None], 1))


def network(W1, b1, W2, b2, x):
    return W2 @ jax.nn.relu(W1 @ x + b1) + b2


def scanned(x):
    return lax.scan(lambda c, a: (jnp.tanh(c + a), c * a), 0.5, x)[1].sum()


@jax.custom_vjp
def relu(x):
    return jnp.maximum(x, 0)


relu.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: (c * (x > 0),))


def ruled(x):
    return jnp.sum(relu(jnp.sin(x)))


def boom(x):
    raise RuntimeError("no luck today")
"""

CALLS = {
    "neuron": ("2.0", "-1.0", "-3.0", "-2.0", "-3.0"),
    "cross_entropy": ("f32[4,3]", "i32[4]:zeros"),
    "network": ("f32[16,8]", "f32[16]", "f32[4,16]", "f32[4]", "f32[8]"),
    "scanned": ("f32[50]",),
    "ruled": ("f32[12]",),
}


@pytest.fixture(autouse=True, scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("user")
    (place / "graph_user_module.py").write_text(MODULE)
    before = os.getcwd()
    os.chdir(place)
    yield place
    os.chdir(before)
    sys.path[:] = [p for p in sys.path if p != str(place)]
    sys.modules.pop("graph_user_module", None)


def run(capsys, *arguments):
    status = main(["graph", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out, captured.err


@pytest.mark.parametrize("name", CALLS)
def test_text_fits_and_svg_is_written(capsys, name, tmp_path):
    svg, dot = tmp_path / "graph.svg", tmp_path / "graph.dot"
    status, out, err = run(
        capsys, f"graph_user_module:{name}", *CALLS[name], "--svg", str(svg), "--dot", str(dot)
    )
    assert (status, err) == (0, "")
    lines = ["".join(c for c in line if not unicodedata.combining(c)) for line in out.splitlines()]
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(f"{name}: ")
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert dot.read_text(encoding="utf-8").startswith("digraph")


def test_json(capsys):
    status, out, _ = run(capsys, "graph_user_module:neuron", *CALLS["neuron"], "--json")
    assert status == 0
    made = json.loads(out)
    assert made["nodes"][0]["results"][0]["gradient"]["entries"] == pytest.approx(-0.19661196)


def test_expand(capsys):
    _, out, _ = run(capsys, "graph_user_module:scanned", "f32[3]", "--expand", "scan")
    assert "step 2" in out
    _, out, _ = run(capsys, "graph_user_module:scanned", "f32[3]", "--expand", "all")
    assert "tanh(" in out
    status, _, err = run(capsys, "graph_user_module:scanned", "f32[3]", "--expand", "scam")
    assert status == 2
    assert err.startswith("jacobians: expand='scam': there is no such call")


def test_fold(capsys):
    _, out, _ = run(capsys, "graph_user_module:network", *CALLS["network"], "--fold", "network")
    assert "relu(" in out  # a function that is all of the graph stays open
    status, _, err = run(capsys, "graph_user_module:ruled", "f32[3]", "--fold", "nothing")
    assert status == 2
    assert "no operation was made by a Python function of that name" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("boom", "f32[2]"), 1, "jacobians: your function raised RuntimeError: no luck today"),
        (("neuron", "2"), 2, "cannot be called with 1 argument"),
        (("scanned", "i32[3]"), 2, "no floating-point input"),
        (("scanned", "f32[20000000]"), 2, "use explain, which needs no values"),
        (("scanned", "f32[3]", "--svg", "no/such/place.svg"), 2, "cannot write"),
    ],
)
def test_mistakes(capsys, arguments, status, message):
    name, *rest = arguments
    got, _, err = run(capsys, f"graph_user_module:{name}", *rest)
    assert got == status
    assert message in err
    assert err.count("\n") == 1
