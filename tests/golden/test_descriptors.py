"""Descriptors in; out comes the one error that a user reads, or every shorthand written out, as files.

`ISOFORM_GOLDEN=write pytest tests/golden` writes what is expected anew: read the difference before committing it.
Comments at the head of a descriptor give the options: `# variable NAME=value`, `# --set key=value`, `# --form f=form`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from isoform.errors import DescriptorError
from isoform.model.descriptor import ServiceSpec, parse, with_forms

FOLDER = Path(__file__).parent / "descriptors"
BAD = sorted((FOLDER / "bad").glob("*.yaml"))
GOOD = sorted((FOLDER / "good").glob("*.yaml"))


def read(path: Path) -> ServiceSpec:
    content = path.read_bytes()
    options = [line[2:].decode() for line in content.splitlines() if line.startswith((b"# variable ", b"# --"))]

    def of(kind: str) -> list[str]:
        return [option.removeprefix(kind) for option in options if option.startswith(kind)]

    variables = dict(item.split("=", 1) for item in of("variable "))
    spec = parse(content, path.name, variables, of("--set ")).spec
    return with_forms(spec, dict(item.split("=", 1) for item in of("--form ")))


def compare(path: Path, text: str) -> None:
    if os.environ.get("ISOFORM_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad(path: Path) -> None:
    with pytest.raises(DescriptorError) as caught:
        read(path)
    error = caught.value
    assert error.fix, "every error says what to do"
    assert error.what.startswith((f"{path.name}:", "--set ", "--form ")), "every error names its place"
    compare(path.with_suffix(".txt"), f"{error}\n")


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good(path: Path) -> None:
    data = read(path).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    compare(path.with_suffix(".json"), json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def test_every_expectation_has_its_descriptor() -> None:
    for folder, suffix in (("bad", ".txt"), ("good", ".json")):
        names = {path.stem for path in (FOLDER / folder).glob(f"*{suffix}")}
        assert names == {path.stem for path in (FOLDER / folder).glob("*.yaml")}
    assert len(BAD) >= 35
