"""Imports go one way, TensorFlow comes late, Keras is tf_keras: read from the source, and tried in a fresh process."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "twotower_tf"
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = {
    "errors",
    "characters",
    "locks",
    "artifacts",
    "config",
    "interpreter",
    "number_texts",
    "output_directory",
    "progress",
    "ragged",
    "resources",
    "run_lock",
    "sql",
    "threads",
}
TABLES = GROUND | {"tables"}
PREPARE = TABLES | {"prepare"}
FEATURES = PREPARE | {"features"}
SAMPLING = FEATURES | {"sampling"}
MODEL = SAMPLING | {"model"}
TRAIN = MODEL | {"train"}
INDEX = GROUND | {"index"}
BUNDLE = FEATURES | INDEX | {"bundle"}
RETRIEVAL = BUNDLE | {"retrieval"}
EVALUATE = TRAIN | INDEX | {"evaluate"}
ALLOWED = {
    "errors": set(),
    "interpreter": set(),
    "progress": set(),
    "ragged": set(),
    "resources": set(),
    "characters": set(),
    "number_texts": set(),
    "sql": {"errors"},
    "output_directory": {"errors"},
    "threads": set(),
    "locks": {"errors"},
    "artifacts": {"errors", "locks"},
    "run_lock": {"artifacts", "errors", "locks"},
    "config": {"errors", "artifacts", "config"},
    "configs": {"config"},
    "tables": TABLES,
    "prepare": PREPARE,
    "onboarding": FEATURES | {"onboarding"},
    "datasets": TABLES | {"datasets"},
    "features": FEATURES,
    "sampling": SAMPLING,
    "model": MODEL,
    "train": TRAIN,
    "index": INDEX,
    "bundle": BUNDLE,
    "retrieval": RETRIEVAL,
    "evaluate": EVALUATE,
    "report": EVALUATE | {"report"},
    "export": TRAIN | RETRIEVAL | {"export"},
    "score": RETRIEVAL | {"score"},
    "serve": RETRIEVAL | {"serve"},
    "progress_bar": {"progress"},
    "stage_results": {"artifacts", "bundle"},
    "tune": EVALUATE | {"report", "run_stages", "stage_results", "tune"},
    "run_stages": TABLES | {"prepare", "run_stages"},
    "run_session": PREPARE | {"bundle", "progress_bar", "run_stages"},
    "final_fit": PREPARE | {"bundle", "run_stages"},
    "pipeline": EVALUATE
    | RETRIEVAL
    | {"report", "export", "final_fit", "run_session", "run_stages", "stage_results", "tune"},
    "__init__": {"bundle", "config", "errors", "pipeline", "retrieval", "stage_results"},
}
NO_TENSORFLOW = {
    "errors",
    "characters",
    "final_fit",
    "interpreter",
    "locks",
    "output_directory",
    "pipeline",
    "progress",
    "progress_bar",
    "run_session",
    "run_stages",
    "sql",
    "stage_results",
    "artifacts",
    "config",
    "configs",
    "tables",
    "prepare",
    "features",
    "onboarding",
    "datasets",
    "index",
    "bundle",
    "retrieval",
    "report",
    "run_lock",
    "threads",
    "cli",
    "__init__",
    "__main__",
}

# These are TensorFlow's half of the encoding, run a SavedModel, or read its protocol buffers.
RUN_MODELS = {
    "derived_version",
    "encoding_check",
    "loaded_tower",
    "manifest",
    "recommender",
    "rollback_version",
    "samples_page",
    "saved_model_edits",
    "tower_encoder",
    "types",
    "verify_bundle",
    "warmup",
}


def part(path: Path) -> str:
    """The package, or the module of the ground, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_the_top(tree: ast.Module) -> Iterator[str]:
    """What importing a module imports: everything outside functions and `if TYPE_CHECKING:`."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = part(path)
    if own in ("cli", "__main__"):
        return  # the command line may import everything, and nothing imports it: the other cases say so
    imported = {name.split(".")[1] for name in imports(ast.parse(path.read_text())) if name.startswith("twotower_tf.")}
    wrong = imported - ALLOWED.get(own, set()) - {"__version__"}
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    "path",
    [m for m in MODULES if part(m) in NO_TENSORFLOW and m.stem not in RUN_MODELS],
    ids=lambda path: str(path.name),
)
def test_no_tensorflow_where_it_is_not_needed(path: Path) -> None:
    heavy = {"tensorflow", "tf_keras", "scann", "keras"}
    found = [name for name in at_the_top(ast.parse(path.read_text())) if name.split(".")[0] in heavy]
    assert found == []


@pytest.mark.parametrize("spark", [False, pytest.param(True, marks=pytest.mark.spark)], ids=["plain", "spark"])
def test_importing_these_packages_loads_no_tensorflow(spark: bool) -> None:
    """The source may be clean and an import still indirect: so it is tried. Spark's modules need the extra `spark`."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if part(path) in NO_TENSORFLOW - {"__main__", "configs"}
        and path.stem not in RUN_MODELS
        and ("spark" in path.parts) == spark
    ]
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    code += "print([name for name in ('tensorflow', 'tf_keras', 'scann') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_keras_is_tf_keras(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [name for name in imports(tree) if name.split(".")[0] == "keras" or "tensorflow.keras" in name] == []
    assert [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "tf.keras"
    ] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_keeps_a_type_of_duckdb(path: Path) -> None:
    """TensorFlow keeps modules alive to the end of the interpreter; DuckDB then prints a line per type still in use."""
    tree = ast.parse(path.read_text())
    kept = [node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("duckdb")]
    kept += [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Attribute)
        if ast.unparse(node.value).startswith("duckdb.")
    ]
    assert [ast.unparse(node) for node in kept] == []


def module_name(path: Path) -> str:
    """Dotted name of a module; a package's is that of its `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """Modules of the package that a module names in its imports: at the top, in functions and for annotations alone."""
    found = set()
    for name in imports(ast.parse(path.read_text())):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return found & known - {module_name(path)}


@pytest.mark.parametrize("unit", ["module", "package"])
def test_imports_have_no_circle(unit: str) -> None:
    """Between modules, and between packages; the front door is lazy, and only the command line imports it."""
    names = {module_name(path): path for path in MODULES if path != PACKAGE / "__init__.py"}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        for other in imported_modules(path, set(names)):
            ends = (name, other) if unit == "module" else (part(path), part(names[other]))
            if ends[0] != ends[1]:
                graph.setdefault(ends[0], set()).add(ends[1])
    assert len(graph) > 10
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f"imports in a circle: {' <- '.join(error.args[1])}") from None


def test_no_module_is_a_drawer() -> None:
    assert [path for path in MODULES if "utils" in path.stem or any("utils" in p for p in path.parts)] == []


def test_every_package_is_known_here() -> None:
    found = {part(path) for path in MODULES} - {"cli", "__init__", "__main__"}
    assert found <= set(ALLOWED)


def test_no_file_name_stands_twice() -> None:
    names = [path.name for path in MODULES if path.name != "__init__.py" and part(path) != "configs"]
    assert sorted(names) == sorted(set(names))
