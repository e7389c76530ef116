"""The layout's promises, read from the code's own imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tagger"
RANKS = [
    {"storage"},
    {
        "audio",
        "records",
        "workers",
        "recipes",
        "augmentations",
        "frontends",
        "layers",
        "plotting",
        "tag_results",
    },
    {"model_info"},
    {"datasets", "inputs", "models", "onnx_models", "streaming"},
    {"building", "evaluation", "conversion", "devices"},
    {"checkpoints", "pretrained", "robustness"},
    {"training"},
    {"tagging", "embeddings", "noisy_student", "export"},
    {"interpretation"},
    {"page"},
    {"cli"},
    {"__main__"},
]
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}
# They run on every Keras backend.
BACKEND_NEUTRAL = {"models", "frontends", "layers", "conversion", "augmentations"}
# A building process imports them, or `tag` with an ONNX model: neither must pay for
# TensorFlow.
LIGHT = {
    "storage", "audio", "records", "workers", "recipes", "datasets", "building",
    "plotting", "cli", "model_info", "onnx_models", "streaming", "tag_results",
    "tagging",
}  # fmt: skip


def imports(path):
    """Yields (line, dotted module) of every import, (…, True) where it is deferred."""
    tree = ast.parse(path.read_text())
    top_level = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name, id(node) not in top_level
        elif isinstance(node, ast.ImportFrom):
            if node.module == "tagger":
                for name in node.names:
                    yield node.lineno, f"tagger.{name.name}", id(node) not in top_level
            else:
                yield node.lineno, node.module, id(node) not in top_level


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_ranks(path):
    module = module_of(path)
    assert module in RANK, f"{path} has no rank: give it one"
    for line, imported, _ in imports(path):
        parts = imported.split(".")
        if parts[0] == "tagger" and parts[1] != module:
            assert RANK[parts[1]] < RANK[module], f"{path}:{line} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensorflow_stays_where_it_belongs(path):
    module = module_of(path)
    for line, imported, is_deferred in imports(path):
        root = imported.split(".")[0]
        if module in BACKEND_NEUTRAL and not is_deferred:
            assert root != "tensorflow", f"{path}:{line}"
        if module in LIGHT and not is_deferred:
            assert root not in ("tensorflow", "keras", "jax", "torch"), f"{path}:{line}"


def test_model_files_never_import_each_other():
    for path in (PACKAGE / "models").glob("*.py"):
        for line, imported, _ in imports(path):
            if path.name != "__init__.py":
                assert not imported.startswith("tagger.models"), f"{path}:{line}"
