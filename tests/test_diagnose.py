"""The bank of planted mistakes: each rejected, its cause named; right rules never rejected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import check_vjp
from jacobians.diagnose.words import place_of, ratio_text
from jacobians.errors import ArgumentError
from tests.mistakes import FUNCTIONS, MISTAKES, as_custom, inputs

# one of each kind is enough for every commit; --long takes them all
SEEN: set[str] = set()
QUICK = []
for mistake in MISTAKES:
    if mistake.kinds[0] not in SEEN:
        SEEN.add(mistake.kinds[0])
        QUICK.append(mistake)
REST = [m for m in MISTAKES if m not in QUICK]
# rejected, with no diagnosis: the mistake is no single change of the program
UNEXPLAINED = {"fixed_point_not_transposed"}


def checked(mistake):
    function = FUNCTIONS[mistake.function]
    args = inputs(function, 0)
    if mistake.forward is not None:
        return check_vjp(as_custom(function, mistake.rule, mistake.forward), *args)
    return check_vjp(function.f, *args, vjp=mistake.rule)


def assert_named(mistake):
    check = checked(mistake)
    assert not check
    assert check.diagnoses, str(check)
    if mistake.name not in UNEXPLAINED:
        assert check.diagnoses[0].kind in mistake.kinds, str(check)
        assert check.diagnoses[0].fit > 0.999
    assert max(len(line) for line in str(check).splitlines()) <= 100


def test_the_bank_is_large_enough():
    assert len(MISTAKES) >= 60
    assert len(FUNCTIONS) >= 15
    assert len(UNEXPLAINED) <= len(MISTAKES) // 10


@pytest.mark.parametrize("mistake", QUICK, ids=lambda m: m.name)
def test_a_mistake_of_each_kind_is_rejected_and_named(mistake):
    assert_named(mistake)


@pytest.mark.long
@pytest.mark.parametrize("mistake", REST, ids=lambda m: m.name)
def test_every_mistake_is_rejected_and_named(mistake):
    assert_named(mistake)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda f: f.name)
def test_right_rules_are_accepted_at_kinks_and_at_another_scale(function):
    for seed in (1, 2):
        check = check_vjp(function.f, *inputs(function, seed), vjp=function.rule)
        assert check, f"seed {seed}\n{check}"


@pytest.mark.long
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda f: f.name)
def test_right_rules_are_accepted_at_200_inputs(function):
    for seed in range(200):
        check = check_vjp(function.f, *inputs(function, seed), vjp=function.rule)
        assert check, f"seed {seed}\n{check}"


def test_a_path_is_named_by_the_users_line():
    def centred(x):
        return x - x.mean()

    x = jnp.array([1.0, 2.0, 4.0])
    (diagnosis,) = check_vjp(centred, x, vjp=lambda c, x: (c,)).diagnoses[:1]
    assert diagnosis.kind == "missing-term"
    assert "`mean`" in diagnosis.message
    assert "return x - x.mean()" in diagnosis.message


def test_two_missing_paths_are_both_named():
    def f(x):
        return x - x.mean() - jnp.max(x)

    x = jnp.array([1.0, 2.0, 4.0])
    (diagnosis, *_) = check_vjp(f, x, vjp=lambda c, x: (c,)).diagnoses
    assert diagnosis.kind == "missing-term"
    assert "`mean`" in diagnosis.message
    assert "`max`" in diagnosis.message


def test_a_mistake_inside_a_larger_function_is_traced_to_its_path():
    @jax.custom_vjp
    def gain(x, g):
        return x * g

    gain.defvjp(lambda x, g: (x * g, (x, g)), lambda r, c: (c * r[1], -jnp.sum(c * r[0], 0)))

    def model(x, g):
        return jnp.tanh(gain(x, g)) + g

    x, g = jnp.array([[0.5, 1.0], [2.0, -1.0]]), jnp.array([1.0, 2.0])
    check = check_vjp(model, x, g)
    assert [b.ok for b in check.blocks] == [True, False]
    assert check.diagnoses[0].kind == "sign"


def test_a_region_is_described_by_index_and_by_value():
    x = jnp.array([1.0, -2.0, 3.0, -0.5, 0.7, 2.0, -1.0, 4.0, 0.3, -3.0])
    tail = check_vjp(jnp.sin, x, vjp=lambda c, x: ((c * jnp.cos(x)).at[8:].set(0),))
    assert "last block of 2 of 10" in tail.diagnoses[0].message
    below = check_vjp(jnp.sin, x, vjp=lambda c, x: (c * jnp.where(x < 0, 1.0, jnp.cos(x)),))
    assert "is negative" in below.diagnoses[0].message


def test_what_nothing_explains_is_said_and_drawn():
    x = jnp.array([0.3, -1.2, 2.0, 0.7])
    noise = jnp.array([1.1, 0.7, 1.9, 0.2])
    check = check_vjp(jnp.sin, x, vjp=lambda c, x: (c * jnp.cos(x) * noise,))
    assert [d.kind for d in check.diagnoses] == ["unknown"]
    assert "unexplained" in str(check)
    assert "(a dot: a wrong entry" in str(check)


def test_shapes_tell_swapped_and_transposed_cotangents():
    f = lambda a, b: a @ b  # noqa: E731
    a, b = jnp.ones((2, 3)), jnp.ones((3, 4))
    swapped = check_vjp(f, a, b, vjp=lambda c, a, b: (a.T @ c, c @ b.T))
    assert [d.kind for d in swapped.diagnoses] == ["swapped"]
    turned = check_vjp(f, a, b, vjp=lambda c, a, b: ((c @ b.T).T, a.T @ c))
    assert [d.kind for d in turned.diagnoses] == ["transposed"]


def test_a_declared_difference_is_no_mistake():
    x = jnp.array([0.3, 1.7])
    check = check_vjp(jnp.round, x, vjp=lambda c, x: (c,), expect="straight-through: step")
    assert check
    assert check.verdict == "differs as declared"
    assert "straight-through: step" in str(check)
    clipped = check_vjp(
        jnp.sin, x, vjp=lambda c, x: (jnp.clip(c, -1, 1) * jnp.cos(x),), expect={"x": "clipping"}
    )
    assert clipped
    assert clipped.verdict == "differs as declared"
    same = check_vjp(jnp.sin, x, vjp=lambda c, x: (c * jnp.cos(x),), expect="straight-through")
    assert same.verdict == "right"
    assert any("declared to differ" in note for note in same.notes)


def test_a_declaration_covers_its_input_only():
    f = lambda x, y: x * y  # noqa: E731
    wrong = lambda c, x, y: (c, c)  # noqa: E731
    x, y = jnp.array([2.0, 3.0]), jnp.array([5.0, 7.0])
    assert not check_vjp(f, x, y, vjp=wrong, expect={"x": "meant"})
    assert check_vjp(f, x, y, vjp=wrong, expect="meant")


@pytest.mark.parametrize(
    ("expect", "says"), [("", "needs the reason"), ({"z": "r"}, "not among the inputs")]
)
def test_an_unusable_declaration_is_refused(expect, says):
    with pytest.raises(ArgumentError, match=says):
        check_vjp(jnp.sin, 1.0, vjp=lambda c, x: (c,), expect=expect)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (0.5, "a factor 2 is missing"),
        (2.0, "a factor 2 too many"),
        (1 / 7, "divided by 7 (rows) once too often"),
        (7.0, "a division by 7 (rows) is missing"),
        (7**-0.5, "√7"),
        (7 / 6, "divided by 6 where 7"),
        (0.3, "a factor scale is missing (scale = "),
        (1.01, "1.01 times"),
        (-3.0, "the sign is wrong"),
    ],
)
def test_factors_in_words(factor, says):
    assert says in ratio_text(factor, [(7, "rows")], {"scale": 1 / 0.3})


def test_a_place_without_a_source_line_is_still_named():
    class Made:
        primitive = type("P", (), {"name": "dot_general"})

    assert str(place_of(Made())) == "`matrix product`"


def test_the_dictionary_holds_the_diagnoses():
    x = np.array([1.0, 2.0], np.float32)
    made = check_vjp(jnp.sin, x, vjp=lambda c, x: (-c * jnp.cos(x),)).to_dict()
    assert made["diagnoses"][0]["kind"] == "sign"
    assert made["verdict"] == "wrong"
    assert made["truth"] == "forward mode"
