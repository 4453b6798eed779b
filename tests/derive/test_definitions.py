"""Operations without a rule of their own, walked by their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import Mesh, PartitionSpec

from jacobians import explain, jacobian
from tests.derive.patterns import proved_entries

DENSE = np.array([[0, 2.0, 0, 0, 1], [3, 0, 0, 0, 0], [0, 0, 0, 4, 0], [0, 5, 6, 0, 0]])
MATRIX = sparse.BCOO.fromdense(DENSE)
ROWS = sparse.BCSR.fromdense(DENSE)
BATCH = sparse.BCOO.fromdense(np.stack([DENSE, DENSE * (DENSE > 2)]), n_batch=1)
BATCH_ROWS = sparse.BCSR.fromdense(np.stack([DENSE, DENSE]), n_batch=1)
PER_BATCH = (((2,), (1,)), ((0,), (0,)))


def entries_of(x):
    """A sparse matrix whose entries are the input, in another order of its indices."""
    return sparse.BCOO((jnp.resize(x, 6), MATRIX.indices[::-1]), shape=MATRIX.shape)


PRODUCTS = {
    "vector": (lambda x: MATRIX @ x, 6),
    "matrix": (lambda x: MATRIX @ jnp.stack([x, jnp.sin(x)], 1), 12),
    "from the left": (lambda x: x[:4] @ MATRIX, 6),
    "transposed": (lambda x: MATRIX.T @ x[:4], 6),
    "row by row": (lambda x: ROWS @ x, 6),
    "batched": (lambda x: sparse.bcoo_dot_general(
        BATCH, jnp.stack([x, 2 * x]), dimension_numbers=PER_BATCH), 10),
    "row by row, batched": (lambda x: sparse.bcsr_dot_general(
        BATCH_ROWS, jnp.stack([x, 2 * x])[..., None], dimension_numbers=PER_BATCH), 12),
    "under a vmap": (lambda x: jax.vmap(lambda y: MATRIX @ y)(jnp.stack([x, x])), 12),
    "made dense": (lambda x: entries_of(x).todense(), 6),
    "row by row, made dense": (lambda x: sparse.BCSR(
        (jnp.resize(x, 6), ROWS.indices, ROWS.indptr), shape=ROWS.shape).todense(), 6),
    "sorted": (lambda x: sparse.bcoo_sort_indices(entries_of(x)).data, 6),
    "sampled": (lambda x: sparse.bcoo_dot_general_sampled(
        x[:4, None], x[None, :], MATRIX.indices, dimension_numbers=(((1,), (0,)), ((), ()))), 12),
    "taken out": (lambda x: sparse.bcoo_extract(MATRIX, jnp.outer(x[:4], x)).data, 12),
    "sparsify": (lambda x: sparse.sparsify(lambda m, y: jnp.tanh(m @ (2 * y)))(MATRIX, x), 6),
}  # fmt: skip


def test_sparse_products_by_their_index_arrays():
    points = [np.random.default_rng(0).normal(size=5)]
    counts = proved_entries({name: f for name, (f, _) in PRODUCTS.items()}, points)
    assert counts == {name: count for name, (_, count) in PRODUCTS.items()}


@pytest.mark.parametrize("form", [sparse.COO, sparse.CSR])
def test_older_sparse_forms_have_the_pattern_of_their_matrix(form):
    matrix = form.fromdense(jnp.asarray(DENSE))
    x = jnp.ones(5)
    for f, expected in (
        (lambda x: matrix @ x, DENSE),
        (lambda x: matrix.T @ x[:4], np.pad(DENSE.T, [(0, 0), (0, 1)])),
        (lambda x: matrix @ jnp.stack([x, x], 1), np.repeat(DENSE, 2, axis=0)),
    ):
        pattern = explain(f, x).blocks[0].pattern().toarray()
        np.testing.assert_array_equal(pattern, expected != 0)


def test_the_jacobian_of_a_large_sparse_product_has_its_entries():
    generator = np.random.default_rng(0)
    indices = np.unique(generator.integers(0, 500, (2000, 2)), axis=0)
    matrix = sparse.BCOO((jnp.ones(len(indices)), jnp.asarray(indices)), shape=(500, 500))
    found = jacobian(lambda x: jnp.sin(matrix @ x))(jnp.ones(500))
    assert found.nse == len(indices)


def primitive(name, implementation, rule=None):
    """A primitive as another library would make it; by default linear in its operand."""
    made = Primitive(name)
    made.def_impl(implementation)
    made.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
    mlir.register_lowering(
        made, mlir.lower_fun(lambda x: jnp.roll(x, 1) * 2, multiple_results=False)
    )
    batching.primitive_batchers[made] = lambda xs, axes: (
        jax.vmap(lambda x: jnp.roll(x, 1) * 2, axes[0])(*xs), 0
    )  # fmt: skip
    ad.primitive_jvps[made] = rule or (lambda xs, ts: (made.bind(*xs), made.bind(*ts)))
    return made


def test_a_primitive_of_another_library_is_walked_by_its_implementation():
    twist = primitive("twist", lambda x: jnp.roll(x, 1) * 2)
    explanation = explain(lambda x: jnp.sin(twist.bind(jnp.sin(x))), jnp.ones(4))
    np.testing.assert_array_equal(
        explanation.blocks[0].pattern().toarray(), np.roll(np.eye(4), 1, axis=0)
    )
    assert not any("no rule" in note for note in explanation.notes)


def test_the_derivative_that_a_primitive_names_goes_before_its_implementation():
    rounded = primitive("rounded", jnp.round, lambda xs, ts: (rounded.bind(*xs), ts[0][::-1]))
    pattern = explain(rounded.bind, jnp.ones(3)).blocks[0].pattern().toarray()
    np.testing.assert_array_equal(pattern, np.eye(3)[::-1])


def test_a_rule_that_fails_when_it_is_traced_is_said_to_be_left_out():
    def rule(xs, ts):
        raise KeyError("of the library's own")

    broken = primitive("broken", lambda x: jnp.roll(x, 1) * 2, rule)
    explanation = explain(broken.bind, jnp.ones(3))
    np.testing.assert_array_equal(
        explanation.blocks[0].pattern().toarray(), np.roll(np.eye(3), 1, axis=0)
    )
    assert any("'broken' could not be traced (KeyError)" in note for note in explanation.notes)


def test_a_constant_that_jax_refuses_to_compute_is_unknown():
    def f(x):
        return jnp.sum(x) * jnp.where(True, 1.0, jnp.float32(0) / jnp.zeros(()))

    with jax.debug_nans(True):
        assert explain(f, jnp.ones(2)).blocks[0].nnz == 2


def test_a_primitive_that_computes_with_numbers_only_is_wide_and_said_so():
    opaque = primitive("opaque", lambda x: np.sin(np.asarray(x)))
    explanation = explain(opaque.bind, jnp.ones(3))
    assert explanation.blocks[0].nnz == 9
    assert any("no rule for 'opaque'" in note for note in explanation.notes)


APART = PartitionSpec("i")


def shard(f, out=APART):
    """A function under `shard_map` on the first device."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
    return jax.shard_map(f, mesh=mesh, in_specs=APART, out_specs=out)


def test_shard_map_on_one_device_is_a_plain_call():
    everywhere = PartitionSpec()
    sharded = {
        "elementwise": (shard(lambda x: jnp.sin(x) * x), 4),
        "psum": (shard(lambda x: lax.psum(x**2, "i"), everywhere), 4),
        "all_gather": (shard(lambda x: jnp.sin(lax.all_gather(x, "i"))), 4),
        "ppermute": (shard(lambda x: lax.ppermute(x, "i", [(0, 0)]) * x), 4),
        "ppermute, nobody sending": (shard(lambda x: lax.ppermute(x, "i", []) + x[0]), 4),
        "axis_index": (shard(lambda x: x[lax.axis_index("i")] * x), 7),
        "psum_scatter": (shard(lambda x: lax.psum_scatter(x, "i", tiled=True) * x), 4),
    }
    points = [np.random.default_rng(0).normal(size=4)]
    counts = proved_entries({name: f for name, (f, _) in sharded.items()}, points)
    assert counts == {name: count for name, (_, count) in sharded.items()}
