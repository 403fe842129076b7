"""Write the tables of keys in docs/descriptor.md from the models that check the files. `--check` only compares."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from isoform.images import recipe
from isoform.model import descriptor
from isoform.units import format_bytes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "descriptor.md"
_TABLE = re.compile(r"(<!-- keys (\w+)\.(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MODULES = {"descriptor": descriptor, "recipe": recipe}


def default(name: str, field: FieldInfo) -> str:
    """Return in words what holds where the key is left out; "" where its meaning says it or there is nothing."""
    value = field.default
    if field.is_required():
        return " (required)"
    if "default" in (field.description or "") or isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    shown = (format_bytes(int(value)) if name.endswith("_bytes") else f"{value:g}s"
             if name.endswith("_s") else f"{value:g}" if isinstance(value, (int, float)) else value)
    return f" (default `{shown}`)" if shown else ""


def row(name: str, field: FieldInfo) -> str:
    """Return one key as a row of Markdown."""
    examples = ", ".join(f"`{example}`" for example in field.examples or ())
    text = (field.description or "").replace("|", "\\|")
    return f"| `{field.alias or name}` | {text}{default(name, field)} | {examples.replace('|', chr(92) + '|')} |"


def table(model: type[BaseModel]) -> str:
    """Return all keys of a model as a table of Markdown."""
    rows = [row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(["| key | meaning | example |", "|---|---|---|", *rows]) + "\n"


def filled(page: str) -> str:
    """Return the page with each of its tables as the models have it now."""
    return _TABLE.sub(lambda m: m[1] + table(getattr(_MODULES[m[2]], m[3])) + m[4], page)


def main() -> int:
    """Return 1 if `--check` found that the page is not current."""
    page = PAGE.read_text()
    now = filled(page)
    if "--check" in sys.argv[1:]:
        return int(now != page)
    PAGE.write_text(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
