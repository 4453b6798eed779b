"""The package as a whole: what importing it costs and brings, and what it must not contain."""

import pathlib
import re
import subprocess
import sys

import jacobians
from jacobians import program

ROOT = pathlib.Path(__file__).parent.parent


def test_import_brings_no_optional_package():
    code = (
        "import sys, jacobians;"
        "print([m for m in ('rich', 'matplotlib', 'hypothesis', 'pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_frames_of_this_package_are_told_from_the_users():
    assert pathlib.Path(program.OWN_FOLDER) == pathlib.Path(jacobians.__file__).resolve().parent


def test_public_names_exist_and_are_documented():
    for name in jacobians.__all__:
        value = getattr(jacobians, name)
        assert value.__doc__, name


def test_functions_shadow_their_modules_whatever_is_imported_first():
    code = "import jacobians.structure.explain, jacobians; print(callable(jacobians.explain))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_no_private_jax():
    # a virtual environment in the checkout, whatever its name, is not ours
    ours = [
        path
        for folder in ("jacobians", "tests", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(ours) > 100
    for path in ours:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"jax\." + "_src|jaxlib\\._", text), path


def test_the_readmes_two_commands_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m pip install .* && (\w+)", text, re.MULTILINE)
    assert commands[:2] == ["jacobians", "pytest"]
