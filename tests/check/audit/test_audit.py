"""Audits: rules found at any depth, checked on what they receive, and none of it silent."""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacobians
from jacobians import ArgumentError, WrongDerivativeError, audit, gates

ROOT = pathlib.Path(__file__).parent.parent.parent.parent
X = jnp.array([-2.0, -0.5, 0.25, 1.0, 3.0])


def tripled(factor):
    """3·x with a backward pass that multiplies by `factor`: right only for 3."""

    @jax.custom_vjp
    def triple(x):
        return 3.0 * x

    triple.defvjp(lambda x: (3.0 * x, None), lambda _, c: (factor * c,))
    return triple


good, bad = tripled(3.0), tripled(2.0)


@jax.custom_vjp
def relu(x):
    return jnp.maximum(x, 0)


relu.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: (c * (x > 0),))


@jax.custom_jvp
def late(x):
    """The sine, whose rule is wrong above 3.5 only."""
    return jnp.sin(x)


@late.defjvp
def _late_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return late(x), jnp.where(x > 3.5, 1.1, 1.0) * jnp.cos(x) * t


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, c: (c,))


# a verdict does not need to know what the mistake is, which takes most of the time
judged = functools.partial(audit, diagnose=False)


def verdicts(f, *args, **options):
    return {rule.name: rule.verdict for rule in judged(f, *args, **options).rules}


@jax.custom_vjp
def outer(x):
    return bad(x) * 2.0


outer.defvjp(lambda x: (bad(x) * 2.0, None), lambda _, c: (6.0 * c,))

DEPTHS = {
    "plain": (lambda f, x: f(x), 1),
    "jit": (lambda f, x: jax.jit(lambda y: jax.jit(f)(y) + 1)(x), 1),
    "checkpoint": (lambda f, x: jax.checkpoint(f)(x), 1),
    "scan": (lambda f, x: lax.scan(lambda c, t: (f(c) * t, c), x, jnp.ones(3))[0], 3),
    "reverse map": (lambda f, x: lax.map(f, x), 5),
    "while": (
        lambda f, x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, x))[1],
        2,
    ),
    "fori_loop": (lambda f, x: lax.fori_loop(0, 4, lambda k, y: f(y) / (k + 1), x), 4),
    "cond": (lambda f, x: lax.cond(x.sum() > 0, f, lambda y: y, x), 1),
    "switch in scan": (
        lambda f, x: lax.map(lambda k: lax.switch(k, [lambda y: y, f], x), jnp.array([0, 1, 1])),
        2,
    ),
    "vmap": (lambda f, x: jax.vmap(f)(x), 1),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_wrong_rule_is_found_at_any_depth(depth):
    place, calls = DEPTHS[depth]
    found = audit(functools.partial(place, bad), X)
    (rule,) = found.rules
    assert not found
    assert (rule.verdict, rule.calls, rule.calls_exact) == ("wrong", calls, True)
    assert rule.batched == (depth == "vmap")
    assert rule.worst.expected == pytest.approx(3.0)
    assert rule.worst.actual == pytest.approx(2.0)
    assert rule.diagnosis
    assert max(len(line) for line in str(found).splitlines()) <= 100


def test_a_rule_in_the_primal_of_another_is_checked_too():
    assert verdicts(outer, X) == {"outer": "right", "triple": "wrong"}


def test_of_a_cond_only_the_branch_taken_is_checked():
    def chosen(x):
        return lax.cond(x.sum() > 0, good, bad, x)

    assert verdicts(chosen, X) == {"triple": "right"}
    assert verdicts(chosen, -X) == {"triple": "wrong"}


def test_rules_of_one_name_line_and_program_that_differ_backwards_are_told_apart():
    (rule,) = judged(lambda x: good(bad(good(x))), X).rules
    assert (rule.verdict, rule.calls, rule.failing.numbers) == ("wrong", 3, (2,))


def test_the_one_wrong_step_of_a_long_scan_is_found_and_named():
    def walk(x):
        return lax.scan(lambda c, t: (c, late(x + t)), 0.0, jnp.linspace(0.0, 4.0, 100))[1]

    found = judged(walk, jnp.array([-0.45]))
    (rule,) = found.rules
    assert (rule.verdict, rule.calls, rule.calls_exact) == ("wrong", 64, False)
    assert rule.failing.where == "step 99 of scan"
    assert "64 of the 100 steps of a scan were looked at, evenly spread" in str(found)


def test_of_a_long_while_loop_the_first_iterations_are_looked_at_and_that_is_said():
    def loop(x):
        return lax.while_loop(lambda s: s[0] < 70, lambda s: (s[0] + 1, good(s[1]) / 3), (0, x))[1]

    found = audit(loop, X[:2])
    assert found.rules[0].calls == 64
    assert "of a while loop the first 64 iterations were looked at" in str(found)
    assert "at least 64 calls" in str(found)


def test_values_are_those_of_the_function_itself():
    seen = []

    @jax.custom_vjp
    def watched(x, k):
        return x * k

    watched.defvjp(lambda x, k: (x * k, k), lambda k, c: (c * k, None))

    def f(x):
        return lax.scan(lambda c, k: (watched(c, k), None), x, jnp.arange(1, 4), reverse=True)[0]

    from jacobians.check.audit.capture import capture

    (site,) = capture(f, (X,)).sites
    seen = [(np.asarray(c.values[0])[0], int(c.values[1]), c.where) for c in site.kept]
    assert seen == [
        (-2.0, 3, "step 0 of scan"),
        (-6.0, 2, "step 1 of scan"),
        (-12.0, 1, "step 2 of scan"),
    ]


def test_kinks_in_many_calls_are_all_compared_and_right():
    found = audit(lambda x: lax.map(relu, jnp.zeros((9, 2)) + 0 * x.sum()), X)
    (rule,) = found.rules
    assert (rule.verdict, rule.compared) == ("right (kinks)", 9)
    assert found


def test_a_forward_pass_that_returns_something_else_is_wrong():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (1.001 * x * x, x), lambda x, c: (2 * x * c,))
    (rule,) = audit(square, X).rules
    assert rule.verdict == "wrong"
    assert "the forward rule gives out[" in rule.diagnosis


def test_numbers_and_masks_of_the_program_need_no_cotangent_but_weights_do():
    @jax.custom_vjp
    def masked(x, w, mask, scale):
        return x * w * mask * scale

    masked.defvjp(
        lambda x, w, mask, scale: (x * w * mask * scale, (x, w, mask, scale)),
        lambda r, c: (c * r[1] * r[2] * r[3], c * r[0] * r[2] * r[3] * 1.01, None, None),
    )
    mask = jnp.array([0.0, 1.0, 1.0, 0.0, 1.0])
    (rule,) = judged(lambda x: masked(x, jnp.ones(5) * 2, mask, 0.5), X).rules
    assert rule.worst.input == "w"
    assert {block.input for check in rule.checks for block in check.blocks} == {"x", "w"}
    notes = " ".join(rule.notes)
    assert "not checked for scale: a number written in the program" in notes
    assert "not checked for mask: an array that the function closes over" in notes
    # the same mask as an argument matters
    (rule,) = judged(lambda x, mask: masked(x, jnp.ones(5) * 2, mask, 0.5), X, mask).rules
    assert "mask" in {block.input for check in rule.checks for block in check.blocks}


def test_weights_whose_derivative_is_zero_here_are_checked_as_others_are():
    @jax.custom_vjp
    def saturated(x, w):
        return jnp.tanh(x * w + 100)

    def backward(kept, c):
        x, w = kept
        slope = c * (1 - jnp.tanh(x * w + 100) ** 2)
        return slope * w, slope * x

    saturated.defvjp(lambda x, w: (saturated(x, w), (x, w)), backward)
    (rule,) = judged(lambda x: saturated(x, jnp.ones(5) * 2), X).rules
    assert (rule.verdict, rule.notes) == ("right", ())


def test_a_note_on_many_rules_is_printed_once():
    rules = []
    for name in "abcdef":
        rule = jax.custom_vjp(lambda x, k: x * k)
        rule.__name__ = name
        rule.defvjp(lambda x, k: (x * k, k), lambda k, c: (c * k, None))
        rules.append(rule)

    def model(x):
        for rule in rules:
            x = rule(x, 2.0)
        return x

    found = audit(jax.vmap(model), X)
    text = " ".join(str(found).split())
    assert text.count("called under vmap") == 1
    assert found


def test_rules_of_jax_are_listed_apart_and_checked_when_asked():
    def model(x):
        return jax.nn.relu(bad(x))

    found = judged(model, X)
    assert [rule.name for rule in found.rules] == ["triple"]
    assert found.library == (("relu", 1),)
    assert "rules of JAX itself" in str(found)
    assert verdicts(model, X, library=True) == {"triple": "wrong", "relu": "right"}


def test_a_gate_is_a_rule():
    assert verdicts(lambda x: gates.get("tanh")(x), X) == {"tanh": "right"}


def test_a_difference_that_is_meant_is_declared_with_its_reason():
    assert verdicts(rounded, X) == {"rounded": "wrong"}
    found = judged(rounded, X, expect={"rounded": "straight-through estimator"})
    assert found
    assert found.rules[0].verdict == "differs as declared"
    assert "differs as declared: straight-through estimator" in str(found)
    # what is right needs no excuse
    assert verdicts(good, X, expect={"triple": "none"}) == {"triple": "right"}


def test_without_custom_rules_the_audit_is_true_and_says_so():
    found = audit(jnp.sin, X)
    assert found
    assert found.rules == ()
    assert "no custom rule is called in it: there was nothing to check" in str(found)


def test_rules_that_jax_has_already_applied_are_not_passed_over_in_silence():
    found = judged(jax.grad(lambda x: bad(x).sum()), X)
    assert "audit the function that is differentiated" in " ".join(str(found).split())


def test_what_cannot_be_checked_is_not_right():
    found = audit(lambda x: good(x.astype(jnp.complex64)).real, X)
    assert not found
    assert found.unchecked == found.rules
    assert "is complex (c64[5])" in str(found)

    def solve(x):
        return lax.custom_linear_solve(good, x, lambda _, b: b / 3, symmetric=True)

    found = audit(solve, X)
    assert not found
    assert "custom_linear_solve cannot be entered" in " ".join(str(found).split())
    with pytest.raises(WrongDerivativeError, match="not checked"):
        found.raise_if_wrong()


def test_a_function_tied_to_float32_is_checked_in_its_own_precision():
    def tied(x):
        assert x.dtype == jnp.float32
        return bad(good(x))

    found = judged(tied, X)
    assert found.rules[0].failing.numbers == (2,)
    assert "checked in their own precision" in " ".join(str(found).split())
    assert verdicts(lambda x: good(x.sum().astype(jnp.float32)), X) == {"triple": "right"}


def test_a_rule_in_bfloat16_is_compared_in_float64():
    found = judged(lambda x: good(bad(x.astype(jnp.bfloat16))), X)
    assert found.rules[0].failing.numbers == (1,)
    assert "evaluated in float64 without these conversions" in " ".join(str(found).split())

    def gelu_of(factor):
        def inner(x):
            return jnp.tanh(0.7978845608 * (x + 0.044715 * x**3))

        def backward(x, c):
            t = inner(x)
            slope = 0.7978845608 * (1 + 0.134145 * x * x) * factor
            return (c * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)

        gelu = jax.custom_vjp(lambda x: 0.5 * x * (1 + inner(x)))
        gelu.defvjp(lambda x: (0.5 * x * (1 + inner(x)), x), backward)
        return lambda x: gelu(x.astype(jnp.bfloat16))

    # 0.134145 and three times 0.044715 differ in bfloat16
    assert judged(gelu_of(1.0), X)
    assert not judged(gelu_of(1.5), X)


def test_what_is_tied_to_bfloat16_is_not_taken_for_right():
    @jax.custom_vjp
    def signed(x):
        bits = lax.bitcast_convert_type(x, jnp.int16)
        return jnp.where(bits < 0, -x, x)

    signed.defvjp(
        lambda x: (jnp.where(lax.bitcast_convert_type(x, jnp.int16) < 0, -x, x), x),
        lambda x, c: (c * jnp.sign(x),),
    )
    (rule,) = audit(lambda x: signed(x.astype(jnp.bfloat16)), X).rules
    assert rule.verdict == "not checked"
    assert "check it in float32" in rule.diagnosis


def test_a_backward_pass_that_raises_is_wrong():
    (rule,) = audit(tripled(jnp.ones(7)), X).rules
    assert rule.verdict == "wrong"
    assert "TypeError" in rule.diagnosis


def test_a_model_of_tokens_with_weights_inside():
    table = jnp.arange(12.0).reshape(4, 3)
    assert verdicts(lambda t: bad(table[t]).sum(), jnp.array([1, 3])) == {"triple": "wrong"}


def test_pytrees_and_other_objects_are_arguments():
    def model(params, x, mode):
        return good(params["w"] * x) if mode == "train" else x

    assert verdicts(model, {"w": X, "n": 3}, X, "train") == {"triple": "right"}
    assert verdicts(model, {"w": X, "n": 3}, X, "test") == {}


def test_progress_wraps_the_rules():
    seen = []

    def progress(rules):
        for rule in rules:
            seen.append(rule)
            yield rule

    judged(lambda x: relu(good(x)), X, progress=progress)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audit(good, jax.ShapeDtypeStruct((3,), jnp.float32)), "is only a shape"),
        (lambda: audit(lambda x, y: x, X), "cannot be called with 1 argument"),
        (lambda: audit(3, X), "expected a function, got 3"),
        (lambda: audit(good, X, limit=0), "at least one call"),
        (lambda: audit(good, X, expect={"nope": "why"}), "there are: triple"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_the_error_of_the_function_is_its_own():
    def boom(x):
        raise RuntimeError("no luck today")

    with pytest.raises(RuntimeError, match="no luck today"):
        audit(boom, X)


@functools.cache
def transformer():
    """The module of scripts/audit_demo.py."""
    spec = importlib.util.spec_from_file_location("audit_demo", ROOT / "scripts" / "audit_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def transformer_audit(tokens):
    demo = transformer()
    x = jax.random.normal(jax.random.key(1), (tokens, demo.WIDTH))
    return judged(demo.loss, demo.parameters(), x, jnp.arange(tokens) % demo.CLASSES, limit=1)


def test_of_five_rules_of_a_transformer_the_one_with_a_wrong_tail_is_found():
    found = transformer_audit(10)
    assert {rule.name for rule in found.rules} == {
        "rms_norm", "causal_softmax", "gelu", "project", "cross_entropy",
    }  # fmt: skip
    assert {rule.name for rule in found.wrong} == {"project"}
    assert not found.unchecked
    for rule in found.wrong:
        assert rule.calls == 2
        assert rule.worst.output_index[0] >= 8  # the tail after the only tile of 8
        assert rule.worst.actual == 0.0
    assert "5 custom rules, 13 calls: 1 WRONG, 4 right" in str(found)


def test_the_report_is_a_table_of_at_most_100_columns_with_places():
    text = str(transformer_audit(10))
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert lines["rms_norm"].split()[-3:] == ["4", "1", "right"]
    assert "scripts/audit_demo.py:" in lines["project"]
    assert "called at" in text
    (rule, *_) = transformer_audit(10).wrong
    index = ",".join(str(k) for k in rule.worst.output_index)
    assert f"∂out[{index}]" in text


def test_the_report_for_machines_holds_the_same():
    found = transformer_audit(10)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["right"] is False
    wrong = [rule for rule in told["rules"] if rule["verdict"] == "wrong"]
    assert [rule["name"] for rule in wrong] == ["project", "project"]
    assert wrong[0]["worst"]["output_index"][0] >= 8
    assert wrong[0]["checked"][0]["check"]["right"] is False
    assert wrong[0]["source"].startswith("scripts/audit_demo.py:")


def test_the_name_is_public():
    assert jacobians.audit is audit
    assert isinstance(transformer_audit(10), jacobians.Audit)
    assert isinstance(transformer_audit(10).rules[0], jacobians.RuleAudit)


def test_a_rule_in_a_loop_under_vmap_is_reported_as_batched() -> None:
    @jax.custom_jvp
    def wave(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    wave.defjvp(lambda p, t: (wave(*p), jnp.cos(p[0]) * t[0]))

    def steps(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (wave(c), None), x, None, length=2)[0]

    x = jnp.array([0.5, 1.0])
    under_vmap = audit(jax.vmap(steps), x, diagnose=False).rules[0]
    plain = audit(steps, x, diagnose=False).rules[0]
    assert (under_vmap.batched, plain.batched) == (True, False)
    assert under_vmap.verdict == plain.verdict == "right"
    assert plain.diagnosis == ""


def test_a_rule_of_jax_inside_a_right_one_is_not_what_is_differentiated() -> None:
    # the rule of entr is right at 0; that of xlogy, which it calls, has NaN there
    x = jnp.array([0.0, 0.3])
    found = audit(jax.scipy.special.entr, x, library=True, diagnose=False)
    assert bool(found)
    verdicts = {rule.name: rule for rule in found.rules}
    assert verdicts["_xlogx"].verdict == "right"
    assert verdicts["xlogy"].verdict == "not differentiated here"
    assert "called inside _xlogx only" in verdicts["xlogy"].diagnosis
    alone = audit(jax.scipy.special.xlogy, x, x, library=True, diagnose=False)
    assert alone.rules[0].verdict == "wrong"


@jax.custom_vjp
def chosen(x, n):
    """2·sin x or 3·sin x."""
    return jnp.sin(x) * jnp.where(n < 1, 2.0, 3.0)


chosen.defvjp(
    lambda x, n: (chosen(x, n), (x, n)),
    lambda kept, c: (c * jnp.cos(kept[0]) * jnp.where(kept[1] < 1, 2.0, 3.0), None),
)


def test_an_operand_without_a_type_of_its_own_is_converted_in_float64() -> None:
    def f(x):
        # of two Python numbers `where` makes an array whose type gives way to any other
        return chosen(x, jnp.where(x.sum() > 0, 0, 1)).sum()

    (rule,) = audit(f, jnp.array([0.3, -0.8]), diagnose=False).rules
    assert rule.verdict == "right", rule.diagnosis
    assert rule.notes == ()
    assert all(block.precision == "float64" for check in rule.checks for block in check.blocks)


def test_a_backward_pass_that_raises_only_when_it_runs_is_wrong() -> None:
    def refuses(value):
        raise ArithmeticError("the solver did not converge")

    @jax.custom_vjp
    def solved(x):
        return 2.0 * x

    solved.defvjp(lambda x: (2.0 * x, None), lambda _, c: (jax.pure_callback(refuses, c, c),))
    (rule,) = audit(lambda x: solved(x).sum(), X, diagnose=False).rules
    assert rule.verdict == "wrong"
    assert "raised ArithmeticError: the solver did not converge" in rule.diagnosis
    assert [p.kind for p in rule.checks[0].problems] == ["raised"]
