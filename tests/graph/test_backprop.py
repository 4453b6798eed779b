"""The graph of known functions: values, local gradients, what flows where, and every error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import jacobians
from jacobians import ArgumentError, backprop, gates


def neuron(w0, x0, w1, x1, w2):
    return 1 / (1 + jnp.exp(-(w0 * x0 + w1 * x1 + w2)))


NEURON = (2.0, -1.0, -3.0, -2.0, -3.0)


def scanned(x):
    return lax.scan(lambda c, a: (jnp.tanh(c + a), c * a), 0.5, x)[1].sum()


@jax.custom_vjp
def doubled(x):
    return jnp.maximum(x, 0)


doubled.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: (2 * c * (x > 0),))


@jax.custom_vjp
def right(x):
    return jnp.maximum(x, 0)


right.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: (c * (x > 0),))


def gradients_are_jax_grad(f, *args, **options):
    graph = backprop(f, *args, **options)
    expected = jax.grad(f, range(len(args)))(*args)
    for name, by_jax in zip(graph.gradients, expected, strict=True):
        np.testing.assert_allclose(graph.gradients[name], by_jax, rtol=1e-6, atol=1e-7)
    return graph


def test_the_first_circuit_of_the_lecture():
    graph = backprop(lambda x, y, z: (x + y) * z, -2.0, 5.0, -4.0)
    assert {name: float(g) for name, g in graph.gradients.items()} == {"x": -4, "y": -4, "z": 3}
    assert float(graph["v1"].value) == 3
    assert float(graph["out"].value) == -12
    local = graph["out"].local_gradients
    assert [(g.input, g.formula, float(g.value)) for g in local] == [
        ("v1", "z", -4),
        ("z", "v1", 3),
    ]
    assert [float(d) for d in graph["out"].downstream] == [-4, 3]


def test_the_neuron_node_by_node():
    graph = gradients_are_jax_grad(neuron, *NEURON)
    values = [round(float(graph[n].value), 2) for n in ("v3", "v4", "v5", "v6", "v7", "out")]
    assert values == [4, 1, -1, 0.37, 1.37, 0.73]
    upstream = [round(float(graph[n].gradient), 2) for n in ("v7", "v6", "v5", "v4", "v1", "v2")]
    assert upstream == [-0.53, -0.53, -0.2, 0.2, 0.2, 0.2]
    texts = [node.text for node in graph.nodes if node.step is not None]
    assert texts == [
        "w0·x0", "w1·x1", "v1 + v2", "v3 + w2", "−v4", "exp(v5)", "1 + v6", "1/v7",
    ]  # fmt: skip


def test_local_times_upstream_is_downstream_at_every_scalar_node():
    graph = backprop(neuron, *NEURON)
    for node in graph.nodes:
        for local in node.local_gradients:
            product = float(local.value) * float(node.gradient)
            assert product == pytest.approx(float(node.downstream[local.operand]), rel=1e-6)


def test_four_gates_fold_into_one_with_the_same_gradients():
    graph = backprop(neuron, *NEURON)
    folded = graph.group("sigmoid", ["v5", "v6", "v7", graph["out"]])
    assert [n.operation for n in folded.nodes if n.kind == "group"] == ["sigmoid"]
    (local,) = folded["out"].local_gradients
    s = float(folded["out"].value)
    assert float(local.value) == pytest.approx(s * (1 - s), rel=1e-5)
    for name, gradient in graph.gradients.items():
        assert float(folded.gradients[name]) == pytest.approx(float(gradient), rel=1e-6)


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def test_plain_functions_fold_by_name_and_those_of_jax_nn_by_themselves():
    def f(x):
        return jnp.sum(jax.nn.softmax(sigmoid(x)) * x)

    x = jnp.arange(3.0)
    texts = [n.text for n in gradients_are_jax_grad(f, x, fold="sigmoid").nodes]
    assert texts == ["input", "sigmoid(x)", "softmax(v1)", "v2 ⊙ x", "Σ(v3)"]
    texts = [n.text for n in gradients_are_jax_grad(f, x).nodes]
    assert texts[-3:] == ["softmax(v4)", "v5 ⊙ x", "Σ(v6)"]
    for expand in ("softmax", True):
        opened = gradients_are_jax_grad(f, x, expand=expand)
        assert "softmax" not in [n.operation for n in opened.nodes]


def test_calls_of_one_function_are_nodes_of_their_own():
    def f(x):
        for _ in range(2):
            x = sigmoid(2 * x)
        return x + sigmoid(x) * 3

    graph = gradients_are_jax_grad(f, 0.5, fold=["sigmoid"])
    assert [n.operation for n in graph.nodes if n.step].count("sigmoid") == 3


def test_a_function_that_is_all_of_the_graph_stays_open():
    assert len([n for n in backprop(jax.nn.softmax, jnp.ones(3)).nodes if n.step]) > 5


def test_a_group_that_a_path_leaves_and_reenters_is_refused():
    graph = backprop(lambda x: jnp.exp(jnp.sin(x)) * jnp.sin(x), 1.0)
    first, last = graph.nodes[1].name, "out"
    with pytest.raises(ArgumentError, match="a path leaves them and comes back"):
        graph.group("g", [first, last])
    with pytest.raises(ArgumentError, match="neither inputs nor constants"):
        graph.group("g", ["x"])
    with pytest.raises(ArgumentError, match="no value 'nothing'"):
        graph.group("g", ["nothing"])


def test_a_group_keeps_the_constants_inside():
    graph = backprop(lambda x: jnp.sum(jnp.array([1.0, 2.0]) * x + 3.0), jnp.ones(2))
    names = [n.name for n in graph.nodes if n.step is not None]
    folded = graph.group("affine", names)
    assert [w.name for w in folded["out"].inputs] == ["x"]
    np.testing.assert_array_equal(folded.gradients["x"], [1, 2])


def test_branches_add_up():
    graph = backprop(lambda x: x * x + 3 * x, 2.0)
    parts = sorted(float(c.value) for c in graph["x"].outputs[0].contributions)
    assert parts == [2, 2, 3]
    assert float(graph["x"].gradient) == 7


def test_an_output_that_is_used_inside_too_sums_its_cotangent():
    def f(x):
        y = jnp.sin(x)
        return y, y * y

    graph = backprop(f, 1.0, cotangent=(2.0, 3.0))
    y = np.sin(1.0)
    assert float(graph["out[0]"].gradient) == pytest.approx(2 + 3 * 2 * y, rel=1e-6)
    assert graph["out[0]"].outputs[0].contributions[0].node == "cotangent"


def test_matrices_are_described_and_never_built():
    n = 200_000
    graph = backprop(lambda W, x: jnp.sum(jnp.maximum(0, W * x)), jnp.ones(n), jnp.ones(n))
    (local,) = graph["v2"].local_gradients
    assert local.shape == (n, n)
    assert local.structure.kind == "diagonal"
    assert local.value is None
    (local,) = backprop(jax.nn.relu, jnp.arange(4096.0) - 9)["out"].local_gradients
    assert local.shape == (4096, 4096)
    assert local.value.shape == (4096,)
    graph = backprop(lambda W, x: W @ x, jnp.ones((300, 400)), jnp.ones(400))
    by_W, by_x = graph["out"].local_gradients
    assert by_W.shape == (300, 120_000)
    assert by_W.value is None
    assert by_W.vjp_formula.endswith("·xᵀ")
    assert by_x.formula == "W[i,j]"


def test_names_come_from_arguments_and_checkpoint_name():
    def f(params, x):
        h = checkpoint_name(params["W"] @ x, "h")
        return jnp.sum(checkpoint_name(x, "again") * 2.0) + jnp.sum(h)

    graph = backprop(f, {"W": jnp.ones((2, 3))}, jnp.ones(3))
    assert {'params["W"]', "x", "h", "again", "out"} <= {w.name for w in graph.wires}
    assert graph["h"].operation == "dot_general"
    np.testing.assert_array_equal(graph["h"].gradient, [1, 1])


def test_equal_names_are_told_apart():
    def f(x):
        return checkpoint_name(jnp.sin(x), "h") + checkpoint_name(jnp.cos(x), "h")

    names = [w.name for w in backprop(f, 1.0).wires]
    assert len(set(names)) == len(names)


def test_a_jitted_function_is_opened_and_calls_inside_are_not():
    @jax.jit
    def helper(x):
        return jnp.sin(x) * 2

    @jax.jit
    def whole(x):
        return helper(x) + x

    closed = gradients_are_jax_grad(whole, 0.3)
    assert [n.operation for n in closed.nodes if n.step] == ["helper", "add"]
    opened = gradients_are_jax_grad(whole, 0.3, expand="helper")
    assert [n.operation for n in opened.nodes if n.step] == ["sin", "mul", "add"]
    assert opened["v1"].scope == ("helper",)


def test_a_call_inside_a_call_is_opened_with_what_it_is_in():
    @jax.jit
    def inner(x):
        return jnp.sin(x)

    @jax.jit
    def outer(x):
        return inner(x) * 2

    graph = gradients_are_jax_grad(lambda x: outer(x) + 1, 0.3, expand=["inner"])
    assert [n.operation for n in graph.nodes if n.step] == ["sin", "mul", "add"]


def test_checkpointed_and_nameless_calls_are_transparent():
    f = jax.checkpoint(lambda x: jnp.sin(x) * x)
    graph = gradients_are_jax_grad(lambda x: f(x) + jax.jit(lambda v: v * 2)(x), 0.3)
    assert [n.operation for n in graph.nodes if n.step] == ["sin", "mul", "mul", "add"]


def test_custom_rules_count_as_in_jax_grad():
    graph = gradients_are_jax_grad(lambda x: jnp.sum(doubled(jnp.sin(x))), jnp.array([0.3, -1.0]))
    node = graph["v2"]
    assert (node.operation, node.kind) == ("doubled", "rule")
    np.testing.assert_array_equal(node.local_gradients[0].value, [2, 0])
    assert any("differs here" in text for text in graph.notes)
    fine = gradients_are_jax_grad(lambda x: jnp.sum(right(jnp.sin(x))), jnp.array([0.3, -1.0]))
    assert not any("differs here" in text for text in fine.notes)


@jax.custom_vjp
def mixed(x, y):
    return x * y


mixed.defvjp(lambda x, y: (x * y, (x, y)), lambda r, c: (jnp.flip(c) * r[1], jnp.cumsum(c) * r[0]))


def test_the_structure_of_a_rule_is_the_rules_even_where_it_is_wrong():
    x, y = jnp.array([0.3, -0.2, 1.0]), jnp.array([2.0, 3.0, 5.0])
    by_x, by_y = backprop(mixed, x, y)["out"].local_gradients
    _, pull = jax.vjp(mixed, x, y)
    for local, number in ((by_x, 0), (by_y, 1)):
        rows = np.stack([np.asarray(pull(row)[number]) for row in jnp.eye(3)])
        assert local.structure.kind != "diagonal"
        if local.structure.kind == "upper-triangular":
            assert (np.tril(rows, -1) == 0).all()
    assert by_x.vjp_formula == "x̄[i] = bar(out)[2 − i]·y[i]"
    assert by_y.structure.kind == "upper-triangular"


def test_a_right_rule_has_the_structure_of_its_program():
    (local,) = backprop(gates.get("softmax"), jnp.arange(3.0))["out"].local_gradients
    assert local.vjp_formula == "x̄ = out ⊙ (bar(out) − Σ(bar(out) ⊙ out))"


def test_the_formula_of_a_scalar_rule_is_not_the_programs_where_they_differ():
    (local,) = backprop(lambda x: doubled(jnp.sin(x)), 0.3)["out"].local_gradients
    assert float(local.value) == 2
    assert local.formula is None


def test_an_opened_custom_rule_shows_the_program_and_says_where_the_rule_differs():
    x = jnp.array([0.3, -1.0])
    opened = backprop(lambda x: jnp.sum(doubled(jnp.sin(x))), x, expand="doubled")
    np.testing.assert_allclose(opened.gradients["x"], [np.cos(0.3), 0], rtol=1e-6)
    assert any("doubled is opened" in text for text in opened.notes)


def test_gates_are_nodes():
    graph = gradients_are_jax_grad(lambda x: gates.get("sigmoid")(2 * x), 0.4)
    assert graph["out"].operation == "sigmoid"
    alone = backprop(gates.get("multiply"), 3.0, -4.0)
    assert {k: float(v) for k, v in alone.gradients.items()} == {"x": -4, "y": 3}


def test_scan_is_one_node_or_its_steps_or_all_of_it():
    x = jnp.arange(3.0)
    closed = gradients_are_jax_grad(scanned, x)
    assert [n.kind for n in closed.nodes if n.step] == ["loop", "operation"]
    steps = gradients_are_jax_grad(scanned, x, expand="scan")
    assert [n.operation for n in steps.nodes if n.step].count("step") == 3
    opened = gradients_are_jax_grad(scanned, x, expand=True)
    assert [n.operation for n in opened.nodes if n.step].count("tanh") == 2
    assert opened.nodes[1].scope == ("scan",)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_of_any_length_and_direction_opens(reverse):
    def f(x):
        carry, ys = lax.scan(lambda c, a: (jnp.sin(c) + a, c * a), x[0], x, reverse=reverse)
        return carry + ys.sum()

    for length in (1, 4):
        gradients_are_jax_grad(f, jnp.linspace(0.1, 1, length), expand=True)


def test_a_scan_without_slices_and_an_empty_one_open():
    gradients_are_jax_grad(
        lambda x: lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * (i + 1.0), x), 0.3, expand=True
    )
    graph = backprop(
        lambda x: lax.scan(lambda c, a: (c * a, c), x, jnp.zeros(0))[0], 0.3, expand=True
    )
    assert float(graph.gradients["x"]) == 1


def test_cond_is_one_node_or_the_branch_taken():
    def f(x):
        return lax.cond(x > 0, lambda v: jnp.sin(v), lambda v: v * v * v, x)

    assert [n.operation for n in gradients_are_jax_grad(f, 0.3).nodes if n.kind == "loop"] == [
        "cond"
    ]
    opened = gradients_are_jax_grad(f, -0.3, expand="cond")
    assert "mul" in [n.operation for n in opened.nodes] or "integer_pow" in str(opened.nodes)
    assert any("branch 0 of 2" in text for text in opened.notes)


def test_a_while_loop_is_opened_as_jax_has_no_reverse_derivative_of_it():
    def f(x):
        return lax.while_loop(lambda v: jnp.sum(v) < 10, lambda v: v * v, x)

    graph = backprop(f, jnp.array([2.0, 1.5]), cotangent=jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(graph.gradients["x"], [4 * 2.0**3, 0])
    assert any("3 steps" in t or "2 steps" in t for t in graph.notes)
    with pytest.raises(ArgumentError, match="more than 2000 steps"):
        backprop(lambda x: lax.while_loop(lambda v: v < 9, lambda v: v * 1.0, x), 1.0)


def test_a_while_loop_over_integers_stays_closed():
    def f(x):
        n = lax.while_loop(lambda k: k < 5, lambda k: k + 1, jnp.argmax(x))
        return jnp.sum(x) * n

    assert [n.operation for n in backprop(f, jnp.ones(3)).nodes if n.kind == "loop"] == ["while"]


def test_integers_and_unchosen_arguments_have_no_gradient():
    def f(x, n, y):
        return jnp.sum(x[n] * y)

    x, n, y = jnp.arange(4.0), jnp.array([1, 1, 2]), jnp.ones(3)
    graph = backprop(f, x, n, y, argnums=0)
    assert set(graph.gradients) == {"x"}
    np.testing.assert_array_equal(graph.gradients["x"], [0, 2, 1, 0])
    assert graph["n"].gradient is None


def test_unused_inputs_and_outputs_that_are_inputs():
    graph = backprop(lambda x, y: (x, 2.0), 1.0, 3.0, cotangent=(5.0, 1.0))
    assert {k: float(v) for k, v in graph.gradients.items()} == {"x": 5, "y": 0}
    assert "(no operation" in str(graph)


def test_where_no_gradient_flows_it_is_zero():
    graph = gradients_are_jax_grad(lambda x: lax.stop_gradient(jnp.sin(x)) * x, 0.5)
    assert float(graph["v1"].gradient) == 0


def test_replay_with_a_change_is_the_gradient():
    graph = backprop(neuron, *NEURON)
    for wire in graph.wires:
        by_jax = jax.grad(lambda d, name=wire.name: graph.replay({name: d})[0])(0.0)
        assert float(by_jax) == pytest.approx(float(wire.gradient), rel=1e-5)
    with pytest.raises(ArgumentError, match="no value 'nothing'"):
        graph.replay({"nothing": 1.0})


def test_double_precision_outlives_its_setting():
    with jax.enable_x64(True):
        graph = backprop(neuron, *map(jnp.float64, NEURON))
    assert graph["out"].value.dtype == jnp.float64
    assert graph.group("sigmoid", ["v5", "v6", "v7", "out"]).gradients["x1"].dtype == jnp.float64
    assert "f64[]" in str(graph)


def test_complex_values_inside_agree_with_jax():
    gradients_are_jax_grad(lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x)) ** 2), jnp.arange(3.0) + 1)


def test_the_first_nan_is_named():
    forward = backprop(lambda x: jnp.sqrt(jnp.log(x) * 0.0), -1.0)
    assert "the first NaN of the forward pass is in v1 (log(x))" in forward.notes
    behind = backprop(lambda x: jnp.where(x > 0, jnp.sqrt(x * 0.0) * x, x), -1.0)
    assert any("the first NaN of the backward pass is made by" in text for text in behind.notes)
    assert not any("NaN" in text for text in backprop(jnp.sin, 1.0).notes)


def test_random_keys_pass_through():
    def f(x, key):
        return x * jax.random.normal(jax.random.fold_in(key, 1))

    text = str(backprop(lambda x: f(x, jax.random.key(0)), 2.0))
    assert "v1" not in text  # the whole key business depends on no input
    assert float(backprop(lambda x: f(x, jax.random.key(0)), 2.0)["out"].value) == float(
        f(2.0, jax.random.key(0))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: backprop(jnp.sin, jax.ShapeDtypeStruct((3,), "float32")), "use explain"),
        (lambda: backprop(jnp.argmax, jnp.ones(3)), "no floating-point output"),
        (lambda: backprop(jnp.sin, jnp.arange(3)), "no floating-point input"),
        (lambda: backprop(jnp.sin, jnp.ones(3), cotangent=jnp.ones(2)), "must have its shape"),
        (lambda: backprop(jnp.sin, jnp.ones(3), cotangent=(1.0, 2.0)), "2 leaves"),
        (lambda: backprop(scanned, jnp.ones(3), expand="scam"), "there is scan, step"),
        (lambda: backprop(jnp.sin, 1.0, expand="scan"), "none at all"),
        (lambda: backprop(sigmoid, 1.0, fold="sigmod"), "did you mean sigmoid?"),
        (lambda: backprop(scanned, jnp.ones(1500), expand=True), "more than 2000 nodes"),
        (lambda: backprop(neuron, *NEURON)["v99"], "it has w0, x0"),
        (lambda: backprop(3, 1.0), "expected a function"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_it_is_public():
    assert jacobians.backprop is backprop
    assert "Backprop" in jacobians.__all__
