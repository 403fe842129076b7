"""The pages say what is so: links lead somewhere, keys are those that are checked, examples are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoform.images import recipe
from isoform.model import descriptor
from scripts import reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(starting_with: str) -> list[tuple[Path, str]]:
    return [(page, text) for page in PAGES for text in BLOCK.findall(page.read_text())
            if text.startswith(starting_with)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def test_the_tables_of_keys_are_those_that_are_checked() -> None:
    page = reference.PAGE.read_text()
    assert reference.filled(page) == page, "run: .venv/bin/python -m scripts.reference"


def test_descriptors_in_the_pages_are_valid() -> None:
    found = blocks("service:")
    assert len(found) >= 2
    for page, text in found:
        descriptor.parse(text, page.name, {})


def test_recipes_in_the_pages_are_valid(tmp_path: Path) -> None:
    found = blocks("packages:")
    assert found
    for _, text in found:
        (tmp_path / "recipe.yaml").write_text(text)
        recipe.read(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*/service.yaml")), ids=lambda file: file.parent.name)
def test_the_examples_are_valid(file: Path) -> None:
    spec = descriptor.parse(file.read_bytes(), str(file), {}).spec
    for function in spec.functions.values():
        recipe.read(file.parent / function.image)
        assert [f.source for f in function.files.values() if f.source and not (file.parent / f.source).exists()] == []
