"""Checks the rules of the layout against the imports in the code."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tagger"
RANKS = [
    {"text"},
    {"options", "containers", "storage"},
    {"validation"},
    {"audio", "listing", "segmentation", "plotting", "augmentations"},
    {"datasets", "models"},
    {"data", "weights"},
    {"evaluation", "inference"},
    {"training", "fitting", "hear", "mteb"},
    {"interpretation"},
    {"library"},
    {"web"},
    {"cli"},
    {"__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
HEAVY = {"tensorflow", "keras", "jax", "torch", "sklearn", "matplotlib", "pandas"}
BACKENDS = {"tensorflow", "jax", "torch"}
# Room or file -> what importing it may not load. `--help`, a build and tagging with an
# exported model must start quickly.
LIGHT = {
    "cli": HEAVY,
    "storage.py": HEAVY,
    "audio.py": HEAVY,
    "containers.py": HEAVY,
    "segmentation.py": HEAVY,
    "datasets": BACKENDS | {"keras"},
    "models/metadata.py": HEAVY,
    "inference/streaming.py": HEAVY,
    "inference/engines.py": HEAVY | {"onnx", "onnxruntime", "openvino"},
    "inference/selection.py": HEAVY | {"onnx", "onnxruntime", "openvino"},
    "inference/tagger.py": HEAVY,
    "inference/writers.py": HEAVY,
    "library/queries.py": HEAVY,
    "library/scanning.py": HEAVY,
    "library/similarity.py": HEAVY,
    "library/writing.py": HEAVY,
    "data/building.py": BACKENDS | {"keras"},
    "data/workers.py": HEAVY,
    "training/recipes.py": HEAVY,
}
# These run on every Keras backend.
NEUTRAL = ("models", "augmentations.py", "weights")
MAX_DEFERRED = 27


class Import:
    """An imported name, and where it is imported."""

    def __init__(self, path: Path, line: int, name: str, is_deferred: bool):
        self.path, self.line, self.name = path, line, name
        self.is_deferred = is_deferred
        self.root = name.split(".")[0]
        # Plain `import tagger`, for its version, belongs to no room.
        self.room = name.split(".")[1] if name.startswith("tagger.") else None

    def __str__(self):
        return f"{self.path}:{self.line} imports {self.name}"


@functools.cache
def imports(path: Path) -> list[Import]:
    """Returns the imports of a file, one per name, without those for type checkers."""
    tree, found = ast.parse(path.read_text()), []

    def visit(node, is_deferred):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [name.name for name in child.names]
            elif isinstance(child, ast.ImportFrom):
                names = [f"{child.module}.{name.name}" for name in child.names]
            found.extend(Import(path, child.lineno, n, is_deferred) for n in names)
            visit(child, is_deferred or isinstance(child, ast.FunctionDef))

    visit(tree, False)
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py"))]
ROOMS = [path for path in FILES if path != PACKAGE / "__init__.py"]
SCRIPTS = sorted(PACKAGE.parent.glob("*.py"))


def module_path(name: str) -> Path | None:
    """Returns the file of a dotted name; that of the module for a name in a module."""
    parts = name.split(".")
    while parts and parts[0] == "tagger":
        path = PACKAGE.joinpath(*parts[1:])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        parts.pop()
    return None


@functools.cache
def loaded_by(path: Path) -> frozenset[str]:
    """Returns the other packages that importing one of our files loads."""
    found, seen, waiting = set(), set(), [path]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for one in imports(path):
            if one.is_deferred:
                continue
            file = module_path(one.name)
            if file is None:
                found.add(one.root)
            else:
                waiting.append(file)
                # `import tagger.data.records` runs tagger/data/__init__.py as well.
                waiting += [
                    folder / "__init__.py"
                    for folder in file.parents
                    if (folder / "__init__.py").is_file()
                ]
    return frozenset(found)


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_ranks(path):
    room = room_of(path)
    assert room in RANK, f"{path} has no rank: give it one"
    for one in imports(path):
        if one.room not in (None, room):
            assert one.room in RANK, one
            assert RANK[one.room] < RANK[room], one


def test_siblings_import_each_other_without_a_circle():
    done = set()

    def reached(path, way=()):
        assert path not in way, " -> ".join(str(p) for p in (*way, path))
        if path in done:
            return
        for one in imports(path):
            file = module_path(one.name)
            is_sibling = file and one.room == room_of(path) and file != path
            if is_sibling and file.name != "__init__.py":
                reached(file, (*way, path))
        done.add(path)

    for path in ROOMS:
        reached(path)


@pytest.mark.parametrize("place", LIGHT)
def test_what_must_start_in_a_moment_loads_nothing_heavy(place):
    path = PACKAGE / place
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        assert not loaded_by(file) & LIGHT[place], file


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_load_nothing_heavy_for_their_help(path):
    assert not loaded_by(path) & HEAVY


def test_models_and_weights_run_on_every_backend():
    for path in ROOMS:
        if str(path.relative_to(PACKAGE)).startswith(NEUTRAL):
            for one in imports(path):
                assert one.is_deferred or one.root not in BACKENDS, one


def test_model_files_never_import_each_other():
    shared = {"blocks", "frontends", "layers", "metadata", "presets", "registry"}
    files = {"derivation", "export", "files", "graph_rewriting", "graphs", "head"}
    for path in (PACKAGE / "models").glob("*.py"):
        if path.stem in shared | files | {"__init__", "serialization"}:
            continue
        for one in imports(path):
            if one.room == "models":
                assert one.name.split(".")[2] in shared, one


def test_rooms_have_empty_or_lazy_init_files():
    for room in (
        "data",
        "models",
        "evaluation",
        "inference",
        "training",
        "fitting",
        "weights",
        "web",
    ):
        loaded = {one.root for one in imports(PACKAGE / room / "__init__.py")}
        assert loaded <= {"lazy_loader"}, room


def test_imports_are_deferred_for_a_reason_and_seldom():
    deferred = [one for path in FILES + SCRIPTS for one in imports(path)]
    lines = {(one.path, one.line) for one in deferred if one.is_deferred}
    assert len(lines) <= MAX_DEFERRED, sorted(map(str, lines))
