"""The import rules of docs/architecture.md, held: who may import whom inside `intaglio`."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "intaglio"
COMMON = {"errors", "config", "files", "runtime", "events", "safetensors_header"}

MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "files": set(),
    "runtime": {"errors"},
    "events": set(),
    "safetensors_header": {"errors"},
    "quantizers": COMMON,
    "kernels": COMMON | {"quantizers"},
    "layers": COMMON | {"quantizers", "kernels"},
    "methods": COMMON | {"quantizers", "kernels", "layers"},
    "adapters": COMMON | {"quantizers", "kernels", "layers", "families", "methods"},
    "diffusion": COMMON,
    "families": COMMON | {"kernels", "layers", "diffusion"},
    "data": COMMON,
    "checkpoints": COMMON | {"quantizers", "layers", "families"},
    "metrics": COMMON,
    "trace": COMMON | {"kernels", "layers"},
    "accelerator": COMMON | {"trace"},
    "rtl": COMMON | {"quantizers"},
}
TOP = {"quantizers", "kernels", "layers", "methods", "adapters", "diffusion", "data", "checkpoints", "metrics"} | COMMON
TOP |= {"trace", "families"}
MAY_IMPORT["sampling"] = TOP - {"metrics", "trace"}
TOP = TOP | {"sampling"}
MAY_IMPORT["training"] = TOP
MAY_IMPORT["study"] = TOP | {"training"}
MAY_IMPORT["speed"] = TOP | {"training"}
MAY_IMPORT["cli"] = TOP | {"training", "study", "speed", "accelerator", "rtl"}


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """Every `intaglio.x.y` and every foreign top-level name that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(tuple(node.module.split(".")))
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.name != "__init__.py" or p.parent != SOURCE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports(path):
    package = package_of(path)
    assert package in MAY_IMPORT, f"{package} is not in the architecture: add it to docs/architecture.md and here"
    for module in imports_of(path):
        if module[0] == "intaglio" and len(module) > 1 and module[1] != package:
            assert module[1] in MAY_IMPORT[package], f"{package} may not import {'.'.join(module)}"
        if package == "accelerator":
            assert module[0] != "torch", "the accelerator never imports torch"
            if module[:2] == ("intaglio", "trace"):
                assert module[2:] == ("schema",), "trace.schema is the only seam to the accelerator"
    if package == "trace" and path.name == "schema.py":
        assert not {m[0] for m in imports_of(path)} & {"torch", "numpy", "pydantic"}, "the schema is plain Python"


@pytest.mark.parametrize("package", ["methods", "metrics"])
def test_siblings_do_not_import_each_other(package):
    """A method never imports another method."""
    methods = {"full", "lora", "qlora", "peqa", "tuneqdm", "int8_lora"}
    for path in (SOURCE / "methods").glob("*.py"):
        if path.stem in methods:
            named = {m[2] for m in imports_of(path) if m[:2] == ("intaglio", "methods") and len(m) > 2}
            assert not named & methods, f"{path.name} imports {named & methods}"


def test_public_names_resolve():
    import intaglio

    assert sorted(intaglio.__all__) == sorted(set(intaglio._HOMES) - {"QuantizedLora"})
    for name in intaglio.__all__:
        assert getattr(intaglio, name) is not None
