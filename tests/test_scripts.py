"""Scripts beside the package follow it: every name of ours that they import is there."""

import ast
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_scripts_import_what_there_is():
    missing = []
    for path in sorted(p for folder in ("benchmarks", "pretrain") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "intaglio":
                missing += [f"{path.relative_to(ROOT)}: {why}" for why in _missing(node)]
    assert not missing


def _missing(node):
    try:
        module = import_module(node.module)
    except ModuleNotFoundError as error:
        return [str(error)] if error.name and error.name.startswith("intaglio") else []
    found = []
    for alias in node.names:
        if not hasattr(module, alias.name):
            try:
                import_module(f"{node.module}.{alias.name}")
            except ModuleNotFoundError:
                found.append(f"{node.module} has no {alias.name}")
    return found
