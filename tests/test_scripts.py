"""The scripts: the lecture's numbers are the printed ones, and the digits are learnt."""

import importlib.util
import pathlib
import re

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def printed():
    import contextlib
    import io

    script, out = load("lecture"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert script.main() == 0
    return out.getvalue().replace("−", "-")


def part(printed, title):
    """The lines of one step."""
    pieces = re.split(r"^\d+\. (.+)\n─+\n", printed, flags=re.MULTILINE)
    (found,) = [b for t, b in zip(pieces[1::2], pieces[2::2], strict=True) if title in t]
    return found


def row(text, name):
    """Forward value and gradient of a wire in a circuit, rounded as in the lecture."""
    found = re.search(
        rf"^[●│├─╯╰┤┴┼ ]*{name}(?: = [^\n]*?)? {{2,}}(\S+) +(\S+)$", text, re.MULTILINE
    )
    return round(float(found[1]), 2), round(float(found[2]), 2)


def test_the_first_circuit(printed):
    text = part(printed, "f = (x + y)·z")
    assert [row(text, n) for n in ("x", "y", "v1", "z", "out")] == [
        (-2, -4), (5, -4), (3, -4), (-4, 3), (-12, 1),
    ]  # fmt: skip


def test_the_neuron(printed):
    text = part(printed, "one elementary gate at a time")
    known = {
        "w0": (2, -0.2), "x0": (-1, 0.39), "w1": (-3, -0.39), "x1": (-2, -0.59), "w2": (-3, 0.2),
        "v1": (-2, 0.2), "v2": (6, 0.2), "v3": (4, 0.2), "v4": (1, 0.2), "v5": (-1, -0.2),
        "v6": (0.37, -0.53), "v7": (1.37, -0.53), "out": (0.73, 1),
    }  # fmt: skip
    assert {name: row(text, name) for name in known} == known


def test_the_sigmoid_gate_has_the_same_gradients(printed):
    text = part(printed, "four gates are one")
    known = {"w0": -0.2, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.2}
    for name, gradient in known.items():
        line = re.search(rf"^{name}: (\S+) in gates, (\S+) folded, (\S+) by", text, re.MULTILINE)
        assert [float(x) for x in line.groups()] == [gradient] * 3
    assert row(text, "out") == (0.73, 1)


def test_the_roles(printed):
    assert [row(part(printed, "add distributes"), n)[1] for n in ("x", "y")] == [2, 2]
    assert [row(part(printed, "max routes"), n)[1] for n in ("x", "y")] == [2, 0]
    assert [row(part(printed, "multiply switches"), n)[1] for n in ("x", "y")] == [-8, 6]
    text = part(printed, "all three in one circuit")
    assert [row(text, n)[1] for n in ("x", "y", "z", "w")] == [-8, 6, 2, 0]


def test_the_max_gate_is_4096_by_4096_and_diagonal(printed):
    text = part(printed, "4096-wide max gate")
    assert "4096×4096, proved diagonal: 4096 entries of 16777216" in text
    assert "409600×409600" in text


def test_the_vector_example(printed):
    text = part(printed, "values and gradients have the same shapes")
    for line in (
        "q = W·x     [0.22, 0.26]", "f = ‖q‖²    0.116", "∂f/∂q       [0.44, 0.52]",
        "dW          [[0.088, 0.176], [0.104, 0.208]] = 2·q·xᵀ",
        "dx          [-0.112, 0.636] = 2·Wᵀ·q",
    ):  # fmt: skip
        assert line in text
    indices = part(printed, "dW by indices")
    assert "∂out[i]/∂W[j,k] = 1[i = j]·x[k]" in indices
    assert "[[0.088, 0.176], [0.104, 0.208]]" in indices
    assert "W̄ = 2·q·xᵀ·ȳ" in part(printed, "as a product of vectors")


def test_the_graphs_two_passes(printed):
    text = part(printed, "a graph runs its gates")
    assert re.search(r"^ +out +0\.73 +1\.00$", text, re.MULTILINE)
    assert re.search(r"^ +x1 +-2\.00 +-0\.59$", text, re.MULTILINE)


def test_the_networks(printed):
    assert "∂s/∂x = W2·diag(1[h1 > 0])·W1" in part(printed, "linear classifiers stacked")
    assert "W3·diag(1[h2 > 0])·W2·diag(1[h1 > 0])·W1" in part(printed, "3 layers")


def test_what_the_lecture_prints_fits(printed):
    assert max(map(len, printed.splitlines())) <= 100 + 4  # the bar of x̄ takes no column


def test_digits_are_learnt_and_networks_beat_the_linear_classifier(tmp_path):
    pytest.importorskip("sklearn")
    script = load("train")
    data = script.digits()
    assert [len(part) for part in data] == [1198, 1198, 599, 599]
    how = script.SGD(rate=0.1, batch=32, epochs=30)
    results = script.compare(script.DIGITS, data, how, 1e-4)
    linear, two, three = (results[name][3] for name in ("linear", "2-layer", "3-layer"))
    assert two >= 0.96
    assert three >= 0.96
    assert linear < min(two, three)
    assert "97" in script.table("digits", results) or "98" in script.table("digits", results)
    pytest.importorskip("matplotlib")
    files = script.draw({"linear": results["linear"]}, tmp_path / "pictures")
    assert [f.name for f in files] == ["loss.png", "templates-linear.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_the_timing_is_of_two_functions_that_agree():
    script = load("train")
    hand, auto = script.timings((4, 5, 3), 8, rounds=2)
    assert hand > 0
    assert auto > 0
