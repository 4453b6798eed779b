"""The houses of the package: who may import whom, no circles, no import hidden in a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jacobians"

# every house below those that may import it; the houses that each stands on directly
STANDS_ON = {
    "errors": (),
    "program": ("errors",),
    "gates": ("program",),
    "derive": ("program",),
    "notation": ("derive",),
    "structure": ("notation", "derive", "gates"),
    "check": ("notation", "derive", "gates"),
    "testing": ("check", "gates"),
    "graph": ("structure", "notation"),
    "networks": ("gates", "structure"),
    "sparse": ("structure", "notation"),
    "report": ("sparse", "networks", "graph", "check", "structure", "gates"),
    "cli": ("report", "testing", "sparse", "networks", "graph", "check"),
}
# imported inside functions, since only an extra installs them
EXTRAS = {"rich", "matplotlib", "sklearn", "lineax", "hypothesis"}
MOST_HOUSES = 13


def _modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


MODULES = _modules()


def _imported(path: Path) -> list[tuple[str, bool]]:
    """The modules that a file imports, and whether inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Lambda))]
    hidden = {id(n) for f in functions for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            base = node.module or ""
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                for alias in node.names
            ]
        else:
            continue
        found += [(name, id(node) in hidden) for name in names]
    return found


IMPORTS = {name: _imported(path) for name, path in MODULES.items()}


def _house(module: str) -> str:
    """The house of a module, empty for the package's face."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


def _below(house: str) -> set[str]:
    """The houses that one may import: those it stands on, those they stand on, and so on."""
    direct = STANDS_ON[house]
    return {*direct, *(lower for h in direct for lower in _below(h))}


def test_every_entry_is_a_house_of_the_table():
    entries = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.name not in ("__init__.py", "__main__.py", "py.typed", "__pycache__")
    }
    assert entries == set(STANDS_ON)
    assert len(entries) <= MOST_HOUSES


@pytest.mark.parametrize("house", STANDS_ON)
def test_imports_run_down_the_table(house):
    allowed = {house, *_below(house)}
    against = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if _house(module) == house
        for name, _ in names
        if name.startswith("jacobians.") and _house(name) not in allowed
    ]
    assert not against
    if house != "cli":
        faces = [
            m
            for m, names in IMPORTS.items()
            if _house(m) == house
            for name, _ in names
            if name == "jacobians"
        ]
        assert not faces


def test_no_module_imports_itself_through_others():
    edges = {
        module: {name for name, _ in names if name in MODULES and name != module}
        for module, names in IMPORTS.items()
    }
    # a module that nothing is left below of is taken away, until what is left goes round
    while leaves := [module for module, below in edges.items() if not below & set(edges)]:
        for module in leaves:
            del edges[module]
    assert not edges


def test_no_import_hides_in_a_function():
    hidden = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name, inside in names
        if inside and name.split(".")[0] not in EXTRAS
    ]
    assert not hidden


def test_no_public_function_shadows_a_module():
    import jacobians

    for name in jacobians.__all__:
        module = f"jacobians.{name}"
        assert module not in MODULES or getattr(jacobians, name).__name__ == module
