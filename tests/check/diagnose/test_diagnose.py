"""The bank of planted mistakes: each rejected, its cause named; right rules never rejected."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobians import audit, check_vjp
from jacobians.check.diagnose import again
from jacobians.check.diagnose.budget import Budget, OutOfTime, budget_of
from jacobians.check.diagnose.words import place_of, ratio_text
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


def test_a_small_factor_is_not_put_down_to_a_long_axis():
    assert ratio_text(1.001, [(900, "rows")], {}) == "it is 1.001 times the right value"
    assert "divided by 899 where 900" in ratio_text(900 / 899, [(900, "rows")], {})


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


def with_rule(f, rule):
    custom = jax.custom_vjp(f)
    custom.defvjp(lambda *args: (f(*args), args), lambda args, c: rule(c, *args))
    return custom


def test_a_search_stops_when_its_time_is_over_and_has_found_what_is_plain():
    def f(x, y):
        return jnp.tanh(x * jnp.sum(y)) + jnp.max(x)

    def rule(c, x, y):
        to_x, to_y = jax.vjp(f, x, y)[1](c)
        return to_x - (x @ to_x) * x, -to_y

    x, y = jnp.array([0.9, 0.5, -0.3, 0.7]), jnp.array([1.0, -2.0, 0.4])
    check = check_vjp(f, x, y, vjp=rule, diagnose=0.01)
    assert [(d.kind, d.inputs) for d in check.diagnoses] == [("unknown", ("x",)), ("sign", ("y",))]
    text = " ".join(str(check).split())
    assert "search stopped after 0.01 s of CPU time" in text
    assert "diagnose=10 searches longer" in text
    assert "16 of 16 entries are wrong" in text


def test_without_a_diagnosis_the_verdict_is_the_same():
    wrong = lambda c, x: (-c * jnp.cos(x),)  # noqa: E731
    found, bare = (check_vjp(jnp.sin, jnp.ones(2), vjp=wrong, diagnose=d) for d in (True, False))
    assert [d.kind for d in found.diagnoses] == ["sign"]
    assert bare.diagnoses == ()
    assert [b.wrong for b in bare.blocks] == [b.wrong for b in found.blocks]
    shapes = check_vjp(jnp.sin, jnp.ones(2), vjp=lambda c, x: (c[:1],), diagnose=0)
    assert shapes.diagnoses == ()
    assert "shape" in str(shapes)
    right = lambda c, x: (c * jnp.cos(x),)  # noqa: E731
    assert "search stopped" not in str(check_vjp(jnp.sin, 1.0, vjp=right, diagnose=1e-9))


@pytest.mark.parametrize("diagnose", ["10", None, -1, float("nan"), (1,)])
def test_an_unusable_budget_is_refused(diagnose):
    with pytest.raises(ArgumentError, match=r"seconds of CPU time .* or True"):
        check_vjp(jnp.sin, 1.0, vjp=lambda c, x: (c,), diagnose=diagnose)


def test_a_budget_counts_while_it_runs_and_ends_with_the_one_that_it_is_part_of():
    assert budget_of(False) is budget_of(0) is None
    assert budget_of(True).seconds == 10
    assert budget_of(np.float32(3)).seconds == 3
    whole = Budget(1.0)
    part = Budget(5.0, within=whole)
    assert budget_of(part) is part
    with part.running(), part.running():
        part.check()
        with pytest.raises(OutOfTime):
            part.check(2.0)
    assert part.spent == pytest.approx(whole.spent, abs=0.05)
    assert part.stopped
    whole.spent = 1.0
    assert part.left <= 0


def test_an_audit_shares_its_time_among_the_rules():
    rule = with_rule(lambda x: jnp.tanh(x * jnp.sum(x)), lambda c, x: (c * jnp.sin(3 * x) + c[0],))
    found = audit(lambda x: rule(rule(x)), jnp.array([0.3, -1.2]), diagnose=1e-9)
    assert found.rules[0].verdict == "wrong"
    assert "search stopped after" in " ".join(str(found).split())
    one = with_rule(lambda x: jnp.sin(x), lambda c, x: (c,))
    assert audit(one, 1.0, diagnose=0).rules[0].diagnosis.startswith("1 of 1 entries of ∂out/∂x")


@pytest.mark.parametrize(
    ("x", "kinds", "says"),
    [
        # as numbers, only the last of [0, 1, 1] is left: a missing sum fits, but here alone
        ([-1.0, 0.05, 2.0], {"region", "mask-source"}, "x is below about 0.1"),
        ([0.05, -1.0, 2.0, 0.3], {"region", "mask-source"}, "x is below about 0.1"),
        ([0.05], {"region", "zero", "unknown"}, ""),
    ],
)
def test_a_threshold_on_few_numbers_is_not_called_a_missing_sum(x, kinds, says):
    relu = with_rule(lambda x: jnp.maximum(x, 0), lambda c, x: (c * (x >= 0.1),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check = check_vjp(relu, jnp.array(x))
    assert check.diagnoses[0].kind in kinds, str(check)
    assert says in check.diagnoses[0].message


def test_one_number_has_a_wrong_factor_only_where_it_is_that_of_other_points():
    double = check_vjp(jnp.exp, 0.5, vjp=lambda c, x: (2 * c * jnp.exp(x),)).diagnoses[0]
    assert double.kind == "factor"
    assert double.message.endswith("it is 2 times the right value: a factor 2 too many")
    other = check_vjp(jnp.exp, 0.5, vjp=lambda c, x: (c * (x * x + 3 * jnp.sin(x)),))
    for found in other.diagnoses:
        assert found.kind != "factor" or "other inputs this does not explain" in found.message


def test_an_explanation_has_to_hold_for_small_entries_too():
    sizes = np.array([1e20, 1.0, 1e-15], np.float32)
    factors = np.array([1.001, 1.0, 1.0], np.float32)
    x = np.array([-1.5, 0.3, 0.8], np.float32)
    check = check_vjp(
        lambda x: sizes * jnp.sin(x), x, vjp=lambda c, x: (c * sizes * factors * jnp.cos(x),)
    )
    assert check.diagnoses[0].kind == "region", str(check)


def test_a_row_left_out_is_no_shift():
    check = check_vjp(
        lambda x, b: x + b, np.ones((2, 3), np.float32), np.ones(3, np.float32),
        vjp=lambda c, x, b: (c, c[0]),
    )  # fmt: skip
    assert check.diagnoses[0].kind == "missing-sum", str(check)


def test_a_batched_operation_keeps_its_name():
    @jax.custom_jvp
    def f(x):
        return jnp.tanh(x)

    f.defjvp(lambda p, t: (f(p[0]), (1 - jnp.tanh(p[0])) * t[0]))
    check = check_vjp(jax.vmap(f), np.array([0.3, -1.2], np.float32))
    assert "the derivative of `tanh`" in check.diagnoses[0].message


def test_a_path_is_found_beside_a_call_that_returns_a_number():
    with_number = jax.jit(lambda x: (jnp.sin(x), 1.0))

    def f(x):
        y, one = with_number(x)
        return jnp.sum(y * jnp.exp(y)) * one

    x = np.array([0.3, 0.8, -0.5], np.float32)
    check = check_vjp(f, x, vjp=lambda c, x: (c * jnp.cos(x) * jnp.exp(jnp.sin(x)),))
    assert "the path through `exp`" in check.diagnoses[0].message, str(check)


def test_points_at_which_a_rule_cannot_be_called_are_said(monkeypatch):
    @jax.custom_vjp
    def twice(x):
        return jnp.sin(x)

    twice.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (2 * c * jnp.cos(x),))
    monkeypatch.setattr(again, "other_points", lambda *given: [[np.zeros((2, 2))]] * 2)
    found = check_vjp(twice, jnp.array([0.5, 1.5, 2.5]))
    assert not found
    assert [n for n in found.notes if "causes were tried at 0 of" in n and "ValueError" in n]
