"""explain: proved structure and formulas of known functions, evidence, notes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jacobians import explain, gates
from jacobians.derive.algebra import block as algebra
from jacobians.errors import ArgumentError
from tests.explicit import by_jax


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def values(*sizes, seed=0):
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


def norm_squared(W, x):
    q = W @ x
    return jnp.sum(q * q)


def two_layers(W1, W2, x):
    return W2 @ jnp.maximum(0, W1 @ x)


def named_layers(W1, W2, x):
    h = checkpoint_name(jnp.maximum(0, W1 @ x), "h")
    return W2 @ h


def batch(W1, W2, X):
    return jnp.maximum(0, X @ W1) @ W2


def heat(u):
    inside = u[2:] - 2 * u[1:-1] + u[:-2]
    return jnp.concatenate([u[:1], inside, u[-1:]])


def stencil(u):
    return (
        jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1) - 4 * u**3
    )


def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def rms_norm(x):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def batch_norm(x):
    centred = x - x.mean(0)
    return centred / jnp.sqrt((centred**2).mean(0) + 1e-5)


def attention(q, k, v):
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)


def causal_attention(q, k, v):
    scores = jnp.einsum("hqd,hkd->hqk", q, k)
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jnp.einsum("hqk,hkd->hqd", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), v)


def recurrent(W, xs):
    def step(h, x):
        h = jnp.tanh(W @ h + x)
        return h, h

    return jax.lax.scan(step, jnp.zeros(W.shape[0]), xs)[1]


def residual(x):
    for _ in range(200):
        x = x + jnp.sin(x)
    return x


def convolved(x, w):
    return jnp.convolve(x, w, mode="valid")


# function, shapes, {input: (structure text begins with, number of entries or None)}
TABLE = {
    "relu": (lambda x: jnp.maximum(x, 0), [(4096,)], {"x": ("diagonal", 4096)}),
    "relu of 10⁸": (lambda x: jnp.maximum(x, 0), [(10**8,)], {"x": ("diagonal", 10**8)}),
    "norm squared": (
        norm_squared,
        [(3, 4), (4,)],
        {"W": ("outer product over the input's axes", 12), "x": ("dense", 4)},
    ),
    "two layers": (
        two_layers,
        [(5, 4), (3, 5), (4,)],
        {
            "W1": ("Kronecker product: 3×5 ⊗ 1×4", 60),
            "W2": ("block-diagonal: 3 blocks of 1×5, all equal (Kronecker I ⊗ B)", 15),
            "x": ("dense", 12),
        },
    ),
    "batch": (
        batch,
        [(8, 16), (16, 10), (64, 8)],
        {"X": ("block-diagonal: 64 blocks of 10×8", 5120), "W2": ("Kronecker product", 10240)},
    ),
    "differences": (lambda x: (x[1:] - x[:-1]) ** 2, [(10,)], {"x": ("banded: 0 below", 18)}),
    "heat": (heat, [(50,)], {"u": ("banded: 1 below the diagonal, 1 above", 146)}),
    "roll": (lambda x: jnp.roll(x, 1) - x, [(12,)], {"x": ("circulant", 24)}),
    "roll of 10⁶": (lambda x: jnp.roll(x, 1) - x, [(10**6,)], {"x": ("circulant", 2 * 10**6)}),
    "stencil": (stencil, [(20, 20)], {"u": ("sparse", 2000)}),
    "cumsum": (jnp.cumsum, [(10,)], {"a": ("lower-triangular, Toeplitz", 55)}),
    "triangular matrix": (
        lambda x: jnp.tril(jnp.arange(1.0, 26).reshape(5, 5)) @ x,
        [(5,)],
        {"x": ("lower-triangular", 15)},
    ),
    "causal convolution": (
        lambda x, w: jnp.convolve(jnp.pad(x, (2, 0)), w, mode="valid"),
        [(8,), (3,)],
        {"x": ("banded: 2 below the diagonal, 0 above, Toeplitz", 21)},
    ),
    "valid convolution": (
        convolved,
        [(8,), (3,)],
        {"x": ("banded: 0 below the diagonal, 2 above, Toeplitz", 18)},
    ),
    "softmax": (
        jax.nn.softmax,
        [(4, 8)],
        {"x": ("block-diagonal: 4 blocks of 8×8, each diagonal plus rank one", 256)},
    ),
    "layer norm": (layer_norm, [(4, 8)], {"x": ("block-diagonal: 4 blocks of 8×8, each d", 256)}),
    "rms norm": (rms_norm, [(4, 8)], {"x": ("block-diagonal: 4 blocks of 8×8, each d", 256)}),
    "batch norm": (batch_norm, [(4, 8)], {"x": ("sparse", 128)}),
    "attention": (
        attention,
        [(2, 3, 5, 4)] * 3,
        {
            "q": ("block-diagonal: 30 blocks of 4×4", 480),
            "k": ("block-diagonal: 6 blocks of 20×20", 2400),
            "v": ("block-diagonal: 6 blocks of 20×20", 600),
        },
    ),
    "transpose": (lambda x: x.T, [(3, 4)], {"x": ("permutation", 12)}),
    "flip of 10⁷": (lambda x: x[::-1], [(10**7,)], {"x": ("permutation", 10**7)}),
    "reshape": (lambda x: x.reshape(3, 4), [(12,)], {"x": ("identity", 12)}),
    "concatenate": (lambda x: jnp.concatenate([x, x]), [(5,)], {"x": ("selection", 10)}),
    "tile": (lambda x: jnp.tile(x, 3), [(5,)], {"x": ("selection", 15)}),
    "sort": (jnp.sort, [(5, 6)], {"a": ("block-diagonal: 5 blocks of 6×6", 180)}),
    "recurrent": (recurrent, [(4, 4), (1000, 4)], {"xs": ("lower-triangular", 7996000)}),
    "residual": (residual, [(16,)], {"x": ("diagonal", 16)}),
    "constant": (lambda x: 0 * x + 3, [(4,)], {"x": ("zero", 0)}),
    "solve": (
        jnp.linalg.solve,
        [(5, 3, 3), (5, 3, 2)],
        {"a": ("block-diagonal: 5 blocks of 6×9", 270), "b": ("block-diagonal: 5 blocks", 90)},
    ),
    "associative scan": (
        lambda x: jax.lax.associative_scan(jnp.multiply, x),
        [(33,)],
        {"x": ("lower-triangular", 33 * 34 // 2)},
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_structure_is_proved_from_shapes_alone(name):
    f, shapes, expected = TABLE[name]
    explanation = explain(f, *(shape(*s) for s in shapes))
    for input_, (text, count) in expected.items():
        block = explanation["out", input_]
        assert str(block.structure).startswith(text), str(block.structure)
        assert block.nnz_exact
        assert block.nnz == count
        assert block.observation is None
    assert "derived from shapes alone: nothing was evaluated" in explanation.notes


@pytest.mark.parametrize(
    "name",
    [name for name in TABLE if sum(int(np.prod(s)) for s in TABLE[name][1]) <= 600],
)
def test_proofs_hold_and_patterns_are_exact_at_points(name):
    f, shapes, _ = TABLE[name]
    arguments = [values(*s, seed=k) for k, s in enumerate(shapes)]
    explanation = explain(f, *arguments, points=3)
    assert not any("CONTRADICTION" in n or "withdrawn" in n for n in explanation.notes)
    assert max(len(line) for line in str(explanation).splitlines()) <= 100
    jacobian = by_jax(jax.jacfwd, f, *arguments, argnums=tuple(range(len(arguments))))
    for block, tensor in zip(explanation.blocks, jacobian, strict=True):
        pattern = block.pattern()
        assert pattern.shape == block.shape
        assert pattern.nnz == block.nnz
        dense = np.asarray(tensor).reshape(block.shape)
        outside = ~pattern.toarray()
        assert np.abs(dense[outside]).max(initial=0.0) == 0.0


FORMULAS = [
    (lambda x: jnp.maximum(x, 0), [(4,)], "x", "x̄ = ȳ ⊙ 1[x > 0]", ()),
    (norm_squared, [(3, 4), (4,)], "W", "W̄ = 2·q·xᵀ·ȳ", ("q = W·x",)),
    (norm_squared, [(3, 4), (4,)], "x", "x̄ = 2·Wᵀ·q·ȳ", ("q = W·x",)),
    (two_layers, [(5, 4), (3, 5), (4,)], "W1", "W̄1 = (W2ᵀ·ȳ ⊙ 1[W1·x > 0])·xᵀ", ()),
    (two_layers, [(5, 4), (3, 5), (4,)], "x", "x̄ = W1ᵀ·(W2ᵀ·ȳ ⊙ 1[W1·x > 0])", ()),
    (two_layers, [(5, 4), (3, 5), (4,)], "W2", "W̄2 = ȳ·hᵀ", ("h = max(0, q)",)),
    (named_layers, [(5, 4), (3, 5), (4,)], "W2", "W̄2 = ȳ·hᵀ", ()),
    (batch, [(4, 5), (5, 3), (8, 4)], "W1", "W̄1 = Xᵀ·(ȳ·W2ᵀ ⊙ 1[X·W1 > 0])", ()),
    (jax.nn.softmax, [(8,)], "x", "x̄ = y ⊙ (ȳ − Σ(ȳ ⊙ y))", ()),
    (jax.nn.softmax, [(4, 8)], "x", "x̄ = y ⊙ (ȳ − Σ(ȳ ⊙ y, axis=1)·1ᵀ)", ()),
    (lambda X, b: X + b, [(4, 3), (3,)], "b", "b̄ = Σ(ȳ, axis=0)", ()),
    (lambda x, y: x * y, [(3,), (3,)], "y", "ȳ = s̄ ⊙ x", ()),
    (lambda x: x.T, [(3, 4)], "x", "x̄ = ȳᵀ", ()),
    (jnp.tanh, [(3,)], "x", "x̄ = ȳ ⊙ (1 − y²)", ()),
    (jnp.cumsum, [(5,)], "a", "ā[i] = Σ_b 1[i ≤ b]·ȳ[b]", ()),
    (lambda x: x[::-1], [(5,)], "x", "x̄[i] = ȳ[4 − i]", ()),
    (jnp.sign, [(3,)], "x", "x̄ = 0", ()),
]


@pytest.mark.parametrize(("f", "shapes", "input_", "formula", "where"), FORMULAS)
def test_vjp_formulas(f, shapes, input_, formula, where):
    block = explain(f, *(shape(*s) for s in shapes))["out", input_]
    assert block.vjp_formula == formula
    for definition in where:
        assert definition in block.where


@pytest.mark.parametrize(
    ("f", "shapes", "input_", "formula"),
    [
        (lambda W, x: W @ x, [(3, 4), (4,)], "W", "∂out[i]/∂W[j,k] = 1[i = j]·x[k]"),
        (lambda x: jnp.maximum(x, 0), [(4,)], "x", "∂out[i]/∂x[j] = 1[i = j]·1[x[i] > 0]"),
        (norm_squared, [(3, 4), (4,)], "x", "∂out/∂x[i] = Σ_a 2·W[a,i]·q[a]"),
        (jnp.cumsum, [(5,)], "a", "∂out[i]/∂a[j] = 1[j ≤ i]"),
        (lambda x: x.reshape(3, 4), [(12,)], "x", "∂out[i,j]/∂x[k] = 1[k = 4i + j]"),
    ],
)
def test_index_formulas(f, shapes, input_, formula):
    assert explain(f, *(shape(*s) for s in shapes))["out", input_].formula == formula


@pytest.mark.parametrize(
    ("f", "sizes", "observed"),
    [
        (jax.nn.softmax, (4, 8), "block-diagonal: 4 blocks of 8×8, each diagonal plus rank one"),
        (jax.nn.gelu, (16,), "diagonal"),
        (jnp.cumsum, (12,), "lower-triangular, Toeplitz"),
        (jnp.linalg.inv, (3, 3), "Kronecker product: 3×3 ⊗ 3×3"),
        (jax.scipy.special.logsumexp, (5,), "dense"),
        (jnp.sort, (6,), "permutation (differs from point to point)"),
    ],
)
def test_what_is_observed_says_at_how_many_points(f, sizes, observed):
    explanation = explain(f, values(*sizes), points=4)
    block = explanation.blocks[0]
    assert str(block.observed) == observed
    assert block.points == 4
    assert "(at 4 points)" in " ".join(str(explanation).split())


def test_observed_may_be_narrower_than_proved():
    block = explain(jnp.sort, values(6)).blocks[0]
    assert block.structure.kind == "dense"
    assert block.observed.kind == "permutation"


def test_statement_speaks_of_the_tensors_axes():
    explanation = explain(causal_attention, *[shape(2, 5, 3)] * 3)
    assert explanation["out", "v"].statement == "o0 = i0 and i1 ≤ o1 and o2 = i2"
    assert explanation["out", "k"].statement == "o0 = i0 and i1 ≤ o1"
    assert explanation["out", "q"].statement == "o0 = i0 and o1 = i1"


def test_constant_means_affine_in_that_input():
    explanation = explain(lambda W, x: W @ x + jnp.sum(W), shape(3, 4), shape(4))
    assert "constant" in explanation["out", "x"].properties
    assert "constant" in explanation["out", "W"].properties
    assert "constant" not in explain(jnp.sin, shape(3)).blocks[0].properties
    assert "constant" in explain(jnp.fft.rfft, shape(8)).blocks[0].properties


def test_pytrees_names_and_lookups():
    def f(params, x, n):
        return {"s": params["W"] @ x * n, "k": n}

    explanation = explain(f, {"W": values(2, 3)}, values(3), 2)
    assert [b.name for b in explanation.blocks] == [
        '∂out["s"]/∂params["W"]',
        '∂out["s"]/∂x',
    ]
    assert explanation['out["s"]', "x"] is explanation[0, 1]
    assert "n = 2 takes no derivative" in explanation.notes
    with pytest.raises(ArgumentError, match="no input 'y'"):
        explanation[0, "y"]


def test_integer_array_arguments_count_as_unknown():
    def f(x, index):
        return x[index]

    block = explain(f, values(5), np.array([1, 3]))["out", "x"]
    assert block.nnz == 10
    assert str(block.observed) == "selection"


def test_a_function_that_needs_the_integers_is_proved_for_their_values():
    explanation = explain(lambda x, mask: x[mask], values(4), np.array([True, False, True, True]))
    assert any("proved for the given value of mask" in n for n in explanation.notes)
    assert str(explanation.blocks[0].structure) == "selection"


def test_custom_rules_are_not_used_and_said_so():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(x)

    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, c: (c,))
    explanation = explain(lambda x: straight_through(x) * 2, values(3))
    assert explanation.blocks[0].structure.kind == "zero"
    assert any("check_vjp" in note for note in explanation.notes)


def test_gates_are_explained_by_their_forward_function():
    block = explain(gates.get("relu"), shape(4096)).blocks[0]
    assert block.structure.kind == "diagonal"


def test_points_outside_the_domain_are_dropped_and_said_so():
    explanation = explain(jnp.sqrt, np.array([0.5, 1.0, 2.0], np.float32), points=6)
    assert explanation.blocks[0].points < 6
    assert any("points dropped" in note for note in explanation.notes)


def test_an_operation_without_a_rule_is_wide_and_said_so():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + x

    explanation = explain(f, shape(3))
    assert explanation.blocks[0].nnz == 9
    assert any("pure_callback" in note for note in explanation.notes)


def test_a_contradiction_is_loud_and_gives_the_wide_answer(monkeypatch):
    from jacobians.derive.call import CallDerivation

    monkeypatch.setattr(CallDerivation, "terms", lambda self, o, k: ())
    explanation = explain(jnp.sin, values(3))
    assert any(note.startswith("CONTRADICTION") for note in explanation.notes)
    assert explanation.blocks[0].structure.kind == "dense"
    assert explanation.blocks[0].nnz == 9


def test_a_pattern_too_large_to_list_is_refused(monkeypatch):
    block = explain(jnp.cumsum, shape(10**6)).blocks[0]
    assert block.nnz == 10**6 * (10**6 + 1) // 2
    with pytest.raises(ArgumentError, match="too large to list"):
        block.pattern()


def test_many_paths_merge():
    block = explain(residual, shape(16)).blocks[0]
    assert len(block.terms) == 1
    assert len(algebra.union(block.terms + block.terms)) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: explain(jnp.sin, jnp.arange(3)), "no floating-point input"),
        (lambda: explain(lambda x: x > 0, 1.0), "no floating-point output"),
        (lambda: explain(jnp.sin, 1.0, points=0), "one point at least"),
        (lambda: explain(jnp.sin, 1.0, 2.0), "cannot be called"),
    ],
)
def test_mistakes_get_a_sentence(call, says):
    with pytest.raises(ArgumentError, match=says):
        call()


def test_the_package_exports_the_function_not_the_module():
    import jacobians.structure.explain

    assert callable(jacobians.explain)


def test_a_formula_of_a_low_precision_program_is_not_withdrawn_for_rounding():
    x = jnp.linspace(0.1, 1.0, 4)
    block = explain(lambda x: x.astype(jnp.float16).astype(jnp.float32) ** 2, x)["out", "x"]
    assert block.formula is not None
    assert block.structure.kind == "diagonal"


def test_how_often_a_loop_runs_is_a_dependence():
    doubled = explain(
        lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 10, lambda c: 2 * c, x), shape(5)
    ).blocks[0]
    assert "constant" not in doubled.properties

    def counted(x, n):
        return jax.lax.while_loop(lambda c: c[1] < n, lambda c: (2 * c[0], c[1] + 1), (x, 0))[0]

    fixed = explain(counted, shape(5), jax.ShapeDtypeStruct((), jnp.int32)).blocks[0]
    assert {"constant", "diagonal"} <= fixed.properties


def test_an_index_that_tells_nothing_is_no_selection():
    first = explain(lambda x: jnp.stack([x.sum(), 0.0]), shape(2)).blocks[0]
    assert not {"selection", "permutation"} & first.properties


def test_a_short_counted_loop_is_exact_step_by_step():
    block = explain(
        lambda x: jax.lax.fori_loop(0, 10, lambda i, y: y.at[i].set(y[i] * 2), x), shape(16)
    ).blocks[0]
    assert block.structure.kind == "diagonal"
    assert "constant" in block.properties


def test_a_padded_convolution_is_block_diagonal_over_its_batch_and_groups():
    block = explain(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=2),
        shape(2, 4, 5, 4),
        shape(6, 2, 3, 3),
    )["out", "x"]
    assert block.structure.kind == "block-diagonal"
    assert block.structure.get("blocks") == 4


def test_a_random_key_and_long_values_are_shown_in_one_line():
    explanation = explain(
        lambda key, x, mode: x * jax.random.uniform(key, (3,)), jax.random.key(0), jnp.ones(3),
        "a" * 100,
    )  # fmt: skip
    key, mode = explanation.notes[:2]
    assert key == "key = key<fry>[] takes no derivative"
    assert len(mode) < 80
    assert len(str(explanation).splitlines()[0]) <= 100


def test_entries_too_many_to_list_are_bounded_by_the_sum_of_the_terms():
    block = explain(lambda x: x @ x.T, shape(3000, 3000)).blocks[0]
    assert block.structure.kind == "sparse"
    assert not block.nnz_exact
    assert block.nnz == 2 * 3000**3
