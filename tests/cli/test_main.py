"""The command: its output, its exit status, and never a traceback."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jacobians.cli.main import main
from jacobians.cli.topics import TOPICS, topic_text

MODULE = """
import jax
import jax.numpy as jnp


@jax.custom_vjp
def right(x):
    return jnp.maximum(x, 0)


right.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: (c * (x > 0),))


@jax.custom_vjp
def wrong(x):
    return jnp.maximum(x, 0)


wrong.defvjp(lambda x: (jnp.maximum(x, 0), x), lambda x, c: ((c * (x > 0)).at[3].set(2 * c[3]),))


def model(x):
    return jnp.sum(wrong(jnp.sin(x)))


def two_rules(x, n):
    return jnp.sum(jax.lax.map(right, jnp.stack([x] * n))) + jnp.sum(wrong(x))


def boom(x):
    raise RuntimeError("no luck today")


def squares(x, n):
    return x * x if n else x


def double(x):
    assert x.dtype == jnp.float64
    return 2 * x
"""


@pytest.fixture(autouse=True, scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("user")
    (place / "cli_user_module.py").write_text(MODULE)
    (place / "cli_broken_module.py").write_text("import nothing_of_that_name\n")
    before = os.getcwd()
    os.chdir(place)
    yield place
    os.chdir(before)
    sys.path[:] = [p for p in sys.path if p != str(place)]
    sys.modules.pop("cli_user_module", None)


def run(capsys, *arguments):
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out, captured.err


def test_explain_prints_the_blocks(capsys):
    status, out, err = run(capsys, "explain", "jax.nn:softmax", "f32[4,8]")
    assert status == 0
    assert err == ""
    assert "block-diagonal: 4 blocks of 8×8, each diagonal plus rank one" in out
    assert "proved" in out
    assert "observed = at 6 points" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_explain_takes_static_numbers_also_negative_ones(capsys):
    status, out, _ = run(capsys, "explain", "jax.numpy:cumsum", "f32[3,4]", "-1")
    assert status == 0
    assert "block-diagonal: 3 blocks of 4×4" in out
    status, out, _ = run(capsys, "explain", "jax.numpy:multiply", "f32[3]", "-2.0")
    assert status == 0
    assert "[−2   0   0]" in out


def test_explain_of_a_huge_array_derives_only(capsys):
    status, out, _ = run(capsys, "explain", "jax.nn:relu", "f32[100000000]")
    assert status == 0
    assert "diagonal" in out
    assert "nothing was evaluated" in out


def test_explain_as_json(capsys):
    status, out, _ = run(capsys, "explain", "jax.numpy:sort", "f32[6]", "--json", "--points", "3")
    assert status == 0
    (block,) = json.loads(out)["blocks"]
    assert block["proved"]["kind"] == "dense"
    assert block["observed"]["structure"]["kind"] == "permutation"
    assert block["observed"]["points"] == 3


def test_explain_reads_files_and_argnums(capsys, directory):
    np.save("x.npy", np.ones((2, 3), np.float32))
    status, out, _ = run(
        capsys, "explain", "jax.numpy:matmul", "f32[4,2]", "@x.npy", "--argnums", "1"
    )
    assert status == 0
    assert "∂out/∂b" in out
    assert "∂out/∂a" not in out


def test_f64_specs_enable_double_precision(capsys):
    status, out, _ = run(capsys, "explain", "cli_user_module:double", "f64[3]")
    assert status == 0
    assert "scaled identity: 2 · I" in out


def test_check_accepts_the_right_rule_and_names_the_wrong_entry(capsys):
    status, out, _ = run(capsys, "check", "cli_user_module:right", "f32[6]:positive")
    assert status == 0
    assert "RIGHT" in out
    status, out, _ = run(capsys, "check", "cli_user_module:wrong", "f32[6]:positive")
    assert status == 1
    assert "∂out[3]/∂x[3]: expected 1, the rule says 2" in out


def test_check_takes_a_declared_difference_with_its_reason(capsys):
    given = ("check", "cli_user_module:wrong", "f32[6]:positive", "--expect")
    status, out, _ = run(capsys, *given, "straight-through: a test")
    assert status == 0
    assert "differs as declared" in out
    assert "straight-through: a test" in out
    status, _, err = run(capsys, *given, " ")
    assert status == 2
    assert "give the reason" in err


def test_check_finds_a_wrong_rule_inside_a_function(capsys):
    status, out, _ = run(capsys, "check", "cli_user_module:model", "f32[6]:positive", "--json")
    assert status == 1
    found = json.loads(out)
    assert found["right"] is False
    assert found["worst"]["input_index"] == [3]


def test_audit_names_the_wrong_rule_and_its_place(capsys):
    status, out, err = run(capsys, "audit", "cli_user_module:two_rules", "f32[6]:positive", "3")
    assert status == 1
    assert err == ""
    assert "2 custom rules, 4 calls: 1 WRONG, 1 right" in out
    assert "cli_user_module.py:" in out
    assert "∂out[3]/∂x[3]: expected 1, the rule says 2" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_audit_as_json_with_a_declared_difference(capsys):
    status, out, _ = run(
        capsys, "audit", "cli_user_module:two_rules", "f32[6]:positive", "2", "--json",
        "--expect", "wrong=doubled on purpose", "--limit", "1",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert [rule["verdict"] for rule in found["rules"]] == ["right", "differs as declared"]
    assert found["rules"][1]["declared"] == "doubled on purpose"
    assert [len(rule["checked"]) for rule in found["rules"]] == [1, 1]


def test_audit_of_jaxs_own_rules_only_when_asked(capsys):
    status, out, _ = run(capsys, "audit", "jax.nn:relu", "f32[3]")
    assert status == 0
    assert "only rules of JAX itself are called in it" in out
    status, out, _ = run(capsys, "audit", "jax.nn:relu", "f32[3]", "--library")
    assert status == 0
    assert "1 custom rule, 1 call: 1 right" in out


def test_report_of_some_gates(capsys):
    status, out, _ = run(capsys, "report", "multiply", "relu")
    assert status == 0
    assert "switches" in out
    assert "VJP check   right" in out
    assert max(len(line) for line in out.splitlines()) <= 100


def test_report_as_json(capsys):
    status, out, _ = run(capsys, "report", "softmax", "--json")
    assert status == 0
    (gate,) = json.loads(out)
    assert gate["check"]["right"] is True
    assert gate["role"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["explain", "nosuch:thing", "f32[3]"], 2, "no module 'nosuch'"),
        (["explain", "jax.nn:softmax", "f33[3]"], 2, "unknown dtype 'f33'"),
        (["explain", "jax.nn:softmax", "f32[3"], 2, "not closed"),
        (["explain", "cli_user_module:boom", "f32[3]"], 1, "RuntimeError: no luck today"),
        (["explain", "cli_user_module:boom", "f32[3]"], 1, "in boom, cli_user_module.py:"),
        (["explain", "cli_broken_module:f", "f32[3]"], 1, "ModuleNotFoundError"),
        (["explain", "jax.nn:relu", "f32[3]", "f32[3]"], 2, "cannot be called with 2 arguments"),
        (["explain", "jax.nn:relu"], 2, "cannot be called with 0 arguments"),
        (["explain", "jax.numpy:sin", "i32[3]"], 2, "no floating-point input"),
        (["explain", "jax.numpy:argmax", "f32[3]"], 2, "no floating-point output"),
        (["explain", "jax.numpy:matmul", "f32[3,4]", "f32[5,6]"], 1, "your function raised"),
        (
            ["explain", "jax.nn:relu", "f32[3]", "--argnums", "4"],
            2,
            "argnums=(4,) names no argument",
        ),
        (["explain", "jax.nn:relu", "f32[3]", "--argnums", "x"], 2, "'x' is not a whole number"),
        (["explain", "jax.nn:relu", "f32[3]", "--points", "0"], 2, "not a positive number"),
        (["explain", "jax.nn:relu", "f32[3]", "--seed", "-1"], 2, "--seed: -1 is negative"),
        (["check", "jax.nn:softmax", "f32[3]"], 2, "no hand-written derivative"),
        (["audit", "cli_user_module:boom", "f32[3]"], 1, "RuntimeError: no luck today"),
        (["audit", "jax.nn:relu", "f32[3]", "--expect", "relu"], 2, "write NAME=REASON"),
        (["audit", "jax.nn:relu", "f32[3]", "--expect", "x=y"], 2, "no custom rule of that name"),
        (["audit", "jax.nn:relu", "f32[3]", "--limit", "0"], 2, "not a positive number"),
        (["audit", "jax.nn:relu", "f32[100000000]"], 2, "is only a shape"),
        (["report", "negat"], 2, "did you mean negate"),
        (["frobnicate"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_mistakes_get_one_clear_sentence(capsys, arguments, status, says):
    found, out, err = run(capsys, *arguments)
    assert found == status
    assert out == ""
    assert says in err


def test_colour_only_when_asked_for(capsys):
    pytest.importorskip("rich")
    _, plain, _ = run(capsys, "explain", "jax.nn:relu", "f32[3]")
    assert "\x1b[" not in plain
    _, coloured, _ = run(capsys, "explain", "jax.nn:relu", "f32[3]", "--color")
    assert "\x1b[" in coloured


def test_no_line_of_this_package_is_blamed_for_what_the_users_function_raises(capsys):
    _, _, err = run(capsys, "explain", "jax.numpy:matmul", "f32[3,4]", "f32[5,6]")
    assert "your function raised TypeError" in err
    assert " (in " not in err


@pytest.mark.parametrize("module", ["jacobians", "jacobians.cli"])
def test_the_module_runs(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("jacobians ")


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m jacobians explain jax.nn:relu 'f32[3]' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_lists_its_topics_and_prints_each_of_them(capsys):
    assert main(["help"]) == 0
    listed = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(TOPICS)
    assert all(len(line) <= 100 for line in listed)
    for topic in TOPICS:
        assert main(["help", topic]) == 0
        text = capsys.readouterr().out
        assert text.startswith(TOPICS[topic][0])
        assert all(len(line) <= 100 for line in text.splitlines())
    assert "Args:" in topic_text("audit")


def test_help_with_an_unknown_topic_names_the_closest(capsys):
    assert main(["help", "plann"]) == 2
    assert "did you mean 'plan'" in capsys.readouterr().err
