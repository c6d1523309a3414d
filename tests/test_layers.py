"""The house rules of the source tree: one-way imports, no circles, small rooms."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "weavejax").rglob("*.py"))
ALL = sorted(
    p
    for folder in ("weavejax", "configs", "datasets", "tests")
    for p in (ROOT / folder).rglob("*.py")
)

# Every layer may import those named beside it (and itself); doors may import everything.
LAYERS = {
    "errors": set(),
    "ops": {"errors"},
    "models": {"ops", "errors"},
    "metrics": {"models", "ops", "errors"},
    "losses": {"diffusion", "models", "ops", "errors"},
    "diffusion": {"models", "ops", "errors"},
    "dials": {"models", "ops", "errors"},
    "systems": {"dials", "losses", "diffusion", "metrics", "models", "ops", "errors"},
    "storage": {"errors"},
    "runtime": {"ops", "errors", "storage"},
    "data": {"dials", "ops", "errors", "storage"},
    "weights": {"models", "ops", "errors", "storage"},
    "planning": {"systems", "runtime", "ops", "errors", "storage"},
    "runs": {
        "systems",
        "runtime",
        "data",
        "dials",
        "losses",
        "diffusion",
        "metrics",
        "weights",
        "ops",
        "errors",
        "storage",
    },
}


def imports(path):
    """Modules imported at the top and inside functions: (top, inside)."""
    tree = ast.parse(path.read_text())
    top, inside = set(), set()
    nested = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        (inside if node in nested else top).update(names)
    return top, inside


def layer_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "weavejax" and len(parts) > 1 else None


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path):
    layer = layer_of(name_of(path))
    top, inside = imports(path)
    hidden = {m for m in inside if m.startswith("weavejax")}
    assert not hidden, f"imports inside a function hide a circle: {hidden}"
    if layer in LAYERS:
        reached = {layer_of(m) for m in top} - {None, layer}
        known = {r for r in reached if r in LAYERS or (ROOT / "weavejax" / f"{r}.py").exists()}
        assert known <= LAYERS[layer], f"{layer} may not import {known - LAYERS[layer]}"


def test_there_is_no_import_circle():
    names = {name_of(p): p for p in SOURCES}
    graph = {n: {m for m in imports(p)[0] if m in names and m != n} for n, p in names.items()}
    # A package's __init__ stands for the package; importing a member runs it first.
    done, path = set(), []

    def visit(node):
        assert node not in path, f"import circle: {' → '.join([*path[path.index(node) :], node])}"
        if node not in done:
            path.append(node)
            for after in sorted(graph[node]):
                visit(after)
            path.pop()
            done.add(node)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize("folder", ["data", "dials"])
def test_worker_code_does_not_import_jax(folder):
    for path in (ROOT / "weavejax" / folder).rglob("*.py"):
        top, inside = imports(path)
        assert not {m for m in top | inside if m.split(".")[0] == "jax"}, path


def test_configs_import_only_ml_collections():
    for path in (ROOT / "configs").rglob("*.py"):
        assert {m.split(".")[0] for m in set.union(*imports(path)) if m} <= {"ml_collections"}


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 120, f"{node.name} is too long"


def test_names_and_leftovers():
    for path in ALL:
        assert not re.search(r"(^|_)(utils?|helpers?|manager|misc|common)(_|$)", path.stem), path
        marks = re.findall(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", path.read_text())
        assert not marks, f"{path}: {marks}"
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"


def test_no_two_test_files_have_one_name():
    """Their folders are no packages: pytest would import the first in the place of the second."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_things_have_docstrings(path):
    tree = ast.parse(path.read_text())
    if path.stat().st_size:
        assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=name_of)
def test_config_docstrings_say_command_hardware_time_and_result(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    for field in ("Command:", "Hardware:", "Time:", "Result:"):
        assert field in doc
    assert f"--config configs/{path.name}" in doc
