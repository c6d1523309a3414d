"""What the package's own source must not hold: ways to run the code of a file that is opened."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "weavejax"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.py")])
SOURCES += sorted((ROOT / "datasets").rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNPICKLERS |= {"torch", "jsonpickle", "pandas"}
MAY_UNPICKLE = {PACKAGE / "weights/torch_files.py"}  # of the convert door: opens weights only
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {  # module or object, function
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
    ("os", "popen"),
}


def modules(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").split(".")[0]}
    return set()


def argument(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None when it is not there or no constant."""
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def faults(source: str, may_unpickle: bool = False) -> list[str]:
    """Each forbidden thing in a source text, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if not may_unpickle:
            found += [f"{line}: imports {name}" for name in modules(node) & UNPICKLERS]
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in NAMES:
            found.append(f"{line}: calls {function.id}")
        if argument(node, "allow_pickle") is True:
            found.append(f"{line}: allows pickles")
        if argument(node, "shell") is True:
            found.append(f"{line}: starts a shell")
        if not isinstance(function, ast.Attribute):
            continue
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        if (owner, function.attr) in CALLS:
            found.append(f"{line}: calls {owner}.{function.attr}")
        numpy_load = owner in ("np", "numpy", "jnp") and function.attr == "load"
        if numpy_load and argument(node, "allow_pickle") is not False:
            found.append(f"{line}: np.load without allow_pickle=False")
        torch_load = owner == "torch" and function.attr == "load"
        if torch_load and argument(node, "weights_only") is not True:
            found.append(f"{line}: torch.load without weights_only=True")
    return found


def test_the_walk_sees_the_package() -> None:
    assert len(SOURCES) > 50
    assert PACKAGE / "weights" / "safe.py" in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_the_code_of_a_file(path: Path) -> None:
    assert not faults(path.read_text(), path in MAY_UNPICKLE)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from torch import nn",
        "import numpy, dill as d",
        "from joblib.externals import x",
        "np.load('x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "numpy.load(p, 'r')",
        "np.save(p, x, allow_pickle=True)",
        "yaml.load(f)",
        "eval(text)",
        "exec(compile(text, 'a', 'exec'))",
        "__import__(name)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
    ],
)
def test_the_walk_can_fail(source: str) -> None:
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "np.load('x', allow_pickle=False)",
        "import json; json.load(f)",
        "jax.jit(f).lower(x).compile()",
        "re.compile('x')",
        "from weavejax.weights.pickles import refuse_pickle",
    ],
)
def test_the_walk_does_not_cry_wolf(source: str) -> None:
    assert not faults(source)


def test_the_door_may_unpickle_weights_only() -> None:
    assert not faults("import torch\ntorch.load(p, weights_only=True)", may_unpickle=True)
    assert faults("import torch\ntorch.load(p)", may_unpickle=True)
