"""The arrow of the packages: each imports only from those before it, inside functions too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import isoform

ROOT = Path(isoform.__file__).parent
LAYERS = ("errors", "units", "model", "host", "images", "fabric", "forms", "engine", "assemble", "cli")
TOP = {"__init__", "__main__"}  # `python -m isoform` is a door to the command line, and may know all
FILES = sorted(ROOT.rglob("*.py"))
NAMES = {path.stem if path.is_file() else path.name for path in ROOT.iterdir()
         if path.suffix == ".py" or (path / "__init__.py").exists()}


def package_of(module: str) -> str:
    """Return the layer of "isoform.model.image": "model"; "" for isoform itself and for foreign modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "isoform" and len(parts) > 1 else ""


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every module that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            if base == "isoform":
                yield from ((node.lineno, f"isoform.{alias.name}" if alias.name in NAMES else base)
                            for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(a.value)) for a in node.args if isinstance(a, ast.Constant))


def faults(text: str, module: str) -> list[str]:
    own = package_of(module)
    allowed = {*LAYERS[: LAYERS.index(own)], own, ""}
    return [f"line {line}: {own} must not import {name}"
            for line, name in imports(ast.parse(text), module) if package_of(name) not in allowed]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def test_every_package_has_a_layer() -> None:
    assert set(LAYERS) >= NAMES - TOP, "give the new package its place in LAYERS"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT or p.stem not in TOP],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_arrow(path: Path) -> None:
    assert faults(path.read_text(), module_name(path)) == []


@pytest.mark.parametrize("text", [
    "import isoform.cli",
    "from isoform.forms import Form",
    "from isoform import engine",
    "from ..fabric.link import x",
    "def late():\n    from isoform.engine.plan import plan",
    "if TYPE_CHECKING:\n    from isoform.forms.form import Form",
    "import importlib\nimportlib.import_module('isoform.cli')",
])
def test_the_check_sees_what_goes_against_the_arrow(text: str) -> None:
    assert len(faults(text, "isoform.images.store")) == 1


def test_values_are_light_to_import() -> None:
    """Every command imports the model: what reads files, and pydantic with it, must come only when asked for."""
    code = "import sys, isoform.model; print(*(m for m in ('pydantic', 'yaml', 'asyncio') if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
