"""Losses: known values, extreme scores, kinks, and labels that are none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import gates

CROSS_ENTROPY, HINGE = gates.get("cross_entropy"), gates.get("hinge")


def test_cross_entropy_is_the_mean_of_the_negative_log_probabilities() -> None:
    scores, labels = jnp.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]), jnp.array([1, 2])
    probabilities = jax.nn.softmax(scores)
    expected = -(np.log(probabilities[0, 1]) + np.log(probabilities[1, 2])) / 2
    np.testing.assert_allclose(CROSS_ENTROPY(scores, labels), expected, rtol=1e-6)
    one_hot = np.eye(3)[labels]
    gradient = jax.grad(CROSS_ENTROPY)(scores, labels)
    np.testing.assert_allclose(gradient, (probabilities - one_hot) / 2, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cross_entropy_is_stable_for_scores_of_ten_thousand(dtype: str) -> None:
    scores = jnp.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    right, wrong = jnp.array([0, 1]), jnp.array([1, 1])
    assert float(CROSS_ENTROPY(scores, right)) == 0
    np.testing.assert_allclose(float(CROSS_ENTROPY(scores, wrong)), 1e4, rtol=5e-3)
    np.testing.assert_array_equal(jax.grad(CROSS_ENTROPY)(scores, right).astype(float), 0)
    np.testing.assert_array_equal(
        jax.grad(CROSS_ENTROPY)(scores, wrong).astype(float), [[0.5, -0.5], [0, 0]]
    )


def test_an_impossible_class_takes_no_gradient() -> None:
    scores = jnp.array([[0.0, -jnp.inf, 0.0]])
    np.testing.assert_allclose(CROSS_ENTROPY(scores, jnp.array([0])), np.log(2), rtol=1e-6)
    gradient = jax.grad(CROSS_ENTROPY)(scores, jnp.array([0]))
    np.testing.assert_allclose(gradient, [[-0.5, 0.0, 0.5]], rtol=1e-6)


def test_hinge_on_the_lectures_cat_car_frog_scores() -> None:
    scores = jnp.array([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    labels = jnp.array([0, 1, 2])
    np.testing.assert_allclose(HINGE(scores[:1], labels[:1]), 2.9, rtol=1e-5)
    np.testing.assert_allclose(HINGE(scores[1:2], labels[1:2]), 0.0)
    np.testing.assert_allclose(HINGE(scores[2:], labels[2:]), 12.9, rtol=1e-5)
    np.testing.assert_allclose(HINGE(scores, labels), 15.8 / 3, rtol=1e-5)
    wanted = np.array([[-1, 1, 0], [0, 0, 0], [1, 1, -2]]) / 3
    np.testing.assert_allclose(jax.grad(HINGE)(scores, labels), wanted, rtol=1e-6)


def test_hinge_exactly_at_the_margin_has_a_gradient_between_the_one_sided_ones() -> None:
    scores, labels = jnp.array([[2.0, 1.0, 1.0]]), jnp.array([0])
    gradient = jax.grad(HINGE)(scores, labels)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0, 0.0]])
    above = jax.grad(HINGE)(scores + jnp.array([[0.0, 0.1, 0.1]]), labels)
    np.testing.assert_array_equal(above, [[-2.0, 1.0, 1.0]])
    assert ((np.minimum(0, above) <= gradient) & (gradient <= np.maximum(0, above))).all()
    assert "margin" in HINGE.convention


@pytest.mark.parametrize("gate", [CROSS_ENTROPY, HINGE], ids=lambda gate: gate.name)
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_gives_nan_in_its_row_only(gate: Any, label: int) -> None:
    scores = jnp.arange(6.0).reshape(2, 3)
    labels = jnp.array([label, 0])
    assert np.isnan(gate(scores, labels))
    gradient = jax.jit(jax.grad(gate))(scores, labels)
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("gate", [CROSS_ENTROPY, HINGE], ids=lambda gate: gate.name)
def test_the_loss_of_an_empty_batch_is_zero(gate: Any) -> None:
    scores, labels = jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)
    assert float(gate(scores, labels)) == 0
    assert jax.grad(gate)(scores, labels).shape == (0, 3)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32])
def test_labels_of_any_integer_dtype_are_read(dtype: Any) -> None:
    scores = jnp.array([[1.0, 2.0, 3.0]])
    labels = jnp.array([2], dtype)
    np.testing.assert_allclose(CROSS_ENTROPY(scores, labels), 0.407606, rtol=1e-5)
    assert jax.grad(CROSS_ENTROPY)(scores, labels).shape == (1, 3)


@pytest.mark.parametrize("strength", [0.0, 0.5, 3])
def test_the_l2_penalty_pulls_every_weight_towards_zero(strength: float) -> None:
    gate, W = gates.l2_regularisation(strength), jnp.array([[1.0, -2.0], [0.0, 4.0]])
    assert float(gate(W)) == strength * 21
    np.testing.assert_array_equal(jax.grad(gate)(W), 2 * strength * W)
