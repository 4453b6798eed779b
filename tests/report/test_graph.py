"""The graph in text, SVG, Graphviz's language and JSON."""

import json
import re
import unicodedata
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacobians import backprop
from jacobians.report.data import to_json
from jacobians.report.graph import graph_text, local_text, value_text
from jacobians.report.graph_data import graph_dict

CIRCUIT = """\
      value         forward  gradient
●     w0            2        −0.19661
│ ●   x0            −1       0.39322
●─╯   v1 = w0·x0    −2       0.19661
│ ●   w1            −3       −0.39322
│ │ ● x1            −2       −0.58984
│ ●─╯ v2 = w1·x1    6        0.19661
●─╯   v3 = v1 + v2  4        0.19661
│ ●   w2            −3       0.19661
●─╯   v4 = v3 + w2  1        0.19661
●     v5 = −v4      −1       −0.19661
●     v6 = exp(v5)  0.36788  −0.53445
●     v7 = 1 + v6   1.3679   −0.53445
●     out = 1/v7    0.73106  1
"""


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


def network(W1, b1, W2, b2, X, labels):
    h = jax.nn.relu(X @ W1.T + b1)
    s = jax.nn.log_softmax(h @ W2.T + b2)
    return -jnp.mean(s[jnp.arange(5), labels]) + 0.1 * jnp.sum(W1 * W1) + 0.1 * jnp.sum(W2 * W2)


def scanned(x):
    return lax.scan(lambda c, a: (jnp.tanh(c + a), c * a), 0.5, x)[1].sum()


@pytest.fixture(scope="module")
def graphs():
    draw = np.random.default_rng(0)
    arrays = [jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((4, 3), 4, (3, 4), 3, (5, 3))]
    return {
        "neuron": backprop(neuron, 2.0, -1.0, -3.0, -2.0, -3.0),
        "network": backprop(network, *arrays, jnp.array([0, 1, 2, 0, 1])),
        "scan": backprop(scanned, jnp.arange(6.0)),
        "steps": backprop(scanned, jnp.arange(4.0), expand="scan"),
        "many": backprop(lambda *x: sum(x), *map(float, range(40))),
        "many lanes": backprop(lambda *x: sum(x) * sum(x[::-1]), *map(float, range(40))),
    }


def columns(line):
    return sum(not unicodedata.combining(c) for c in line)


def test_the_neurons_circuit_is_drawn(graphs):
    assert CIRCUIT in str(graphs["neuron"]) + "\n"


def test_text_fits(graphs):
    for graph in graphs.values():
        assert max(map(columns, graph_text(graph).splitlines())) <= 100


def test_columns_of_the_table_are_aligned(graphs):
    lines = str(graphs["network"]).splitlines()
    head = next(line for line in lines if line.startswith("node"))
    start = head.index("downstream")
    rows = lines[lines.index(head) + 1 :]
    for line in rows[: rows.index("")]:
        plain = "".join(c for c in line if not unicodedata.combining(c))
        assert plain[start - 1 : start].strip() == ""


def test_too_many_wires_are_not_drawn_but_said(graphs):
    assert "wires side by side are too many to draw" in str(graphs["many lanes"])
    assert "too many" not in str(graphs["many"])


def test_colours_keep_the_text(graphs):
    def mark(text, role):
        return f"<{role}>{text}</{role}>"

    painted = graph_text(graphs["network"], mark)
    assert "<good>" in painted
    assert "<bad>" in painted
    bare = re.sub(r"</?(title|block|label|good|bad|note)>", "", painted)
    assert [line.rstrip() for line in bare.splitlines()] == str(graphs["network"]).splitlines()


VALUES = [
    (jnp.float32(-0.5), "−0.5"),
    (jnp.array([1.0, 2.0]), "[1, 2]"),
    (jnp.arange(7.0), "f32[7] norm 9.54 min 0 max 6"),
    (jnp.arange(7), "i32[7] min 0 max 6"),
    (jnp.zeros((0, 3)), "[]"),
    (jnp.ones(9, jnp.complex64), "c64[9] norm 3"),
    (jnp.ones(9, jnp.bfloat16), "bf16[9] norm 3 min 1 max 1"),
    (jax.random.key(0), "key<fry>"),
    (None, "none"),
]

MANY = jnp.linspace(0.1, 1, 9)


@pytest.mark.parametrize(
    ("f", "args", "name", "text"),
    [
        (lambda x: jnp.exp(x), (0.0,), "out", "out = 1"),
        (lambda x, y: x * y, (2.0, 3.0), "out", "y = 3"),
        (lambda x: x + 1, (2.0,), "out", "1"),
        (lambda x: jnp.exp(x), (jnp.zeros(2),), "out", "diag(1, 1)"),
        (lambda x: jnp.exp(x), (MANY,), "out", "diagonal out"),
        (lambda x: x * x * x, (MANY,), "v1", "diagonal x"),
        (lambda x: jnp.square(x), (MANY,), "out", "diagonal; x̄ = 2·(bar(out) ⊙ x)"),
        (lambda x: x + 1, (MANY,), "out", "identity"),
        (lambda x: -2 * x, (MANY,), "out", "scaled identity: −2 · I"),
        (lambda x: x[::-1], (MANY,), "out", "permutation; x̄[i] = bar(out)[8 − i]"),
        (lambda x: jnp.sum(x), (MANY,), "out", "dense 1×9; x̄ = 1·bar(out)"),
        (
            lambda x: jnp.cumsum(x),
            (MANY,),
            "out",
            "lower-triangular, Toeplitz; x̄[i] = Σ_a 1[i ≤ a]·bar(out)[a]",
        ),
        (lambda x: jax.lax.stop_gradient(x) * x, (MANY,), "v1", "zero"),
    ],
)
def test_local_gradients_in_one_line(f, args, name, text):
    graph = backprop(f, *args)
    assert local_text(graph[name].local_gradients[0]) == text


@pytest.mark.parametrize(
    ("value", "text"),
    VALUES,
)
def test_values_small_ones_in_full_large_ones_in_brief(value, text):
    assert value_text(value) == text


def test_svg_is_well_formed_and_shows_every_node(graphs):
    for graph in graphs.values():
        root = ET.fromstring(graph.to_svg())
        space = "{http://www.w3.org/2000/svg}"
        shown = [t.text for t in root.iter(f"{space}text")]
        boxes = [g for g in root.iter(f"{space}g") if g.find(f"{space}rect") is not None]
        assert len(boxes) == len(graph.nodes)
        assert {n.name for n in graph.nodes if n.kind == "input"} <= set(shown)
        assert "http" not in graph.to_svg().replace("http://www.w3.org/2000/svg", "")


def test_svg_boxes_do_not_overlap_and_lie_inside(graphs):
    root = ET.fromstring(graphs["network"].to_svg())
    space = "{http://www.w3.org/2000/svg}"
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = []
    for g in root.iter(f"{space}g"):
        rect = g.find(f"{space}rect")
        x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for x2, y2, w2, h2 in boxes:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
        boxes.append((x, y, w, h))


def test_svg_has_values_in_green_above_gradients_in_red(graphs):
    root = ET.fromstring(graphs["neuron"].to_svg())
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    value = next(t for t in texts if t.text == "0.73106")
    gradient = next(t for t in texts if t.text == "1" and t.get("x") == value.get("x"))
    assert value.get("fill") == "#0a7d2c"
    assert gradient.get("fill") == "#c4161c"
    assert float(value.get("y")) < float(gradient.get("y"))


def test_notebooks_show_the_svg(graphs):
    assert graphs["neuron"]._repr_html_() == graphs["neuron"].to_svg()


def test_dot_names_every_node_and_escapes(graphs):
    text = graphs["network"].to_dot()
    assert text.startswith('digraph "network" {')
    assert len(re.findall(r"^  n\d+ \[", text, re.MULTILINE)) == len(graphs["network"].nodes)
    compared = backprop(lambda x: jnp.where(x > 0, x, 2 * x), 1.0)
    assert "x &gt; 0" in compared.to_dot()
    assert "x &gt; 0" in compared.to_svg()


def test_json_is_strict_and_complete(graphs):
    made = json.loads(to_json(graph_dict(graphs["neuron"])))
    assert made["function"] == "neuron"
    assert [n["text"] for n in made["nodes"] if n["kind"] == "operation"][-1] == "1/v7"
    last = made["nodes"][-1]
    assert last["local_gradients"][0]["formula"] == "−out·(1/v7)"
    assert last["results"][0]["gradient"]["entries"] == 1
    json.loads(to_json(graph_dict(graphs["network"])))
