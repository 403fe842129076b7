"""A file's values together with the place of each in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from isoform.model.faults import Path, validation_error

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
Place = tuple[int, int]  # line and column, counted from 1


@dataclass(frozen=True, slots=True)
class Document:
    """The values of one YAML file and where each was written. Keys of mappings are always text."""

    name: str
    data: dict[str, Any]
    values: dict[Path, Place] = field(default_factory=dict, repr=False)
    keys: dict[Path, Place] = field(default_factory=dict, repr=False)
    blocks: set[Path] = field(default_factory=set, repr=False)  # in block style, which begins below its key
    texts: dict[Path, str] = field(default_factory=dict, repr=False)  # numbers, truth values, nulls as written
    named: dict[Path, str] = field(default_factory=dict, repr=False)  # said outside the file: "--set 1"

    def where(self, path: Path, key: bool = False) -> str:
        """Return "file:line:col" of the value at `path`, or of its nearest ancestor that exists; counted from 1.

        A block below a key is at its key. With `key`, the place of the key itself.
        """
        near = self.nearest(path)
        for length in range(len(near), 0, -1):
            if near[:length] in self.named:
                return self.named[near[:length]]
        line, column = self.position(near, key and len(near) == len(path))
        return f"{self.name}:{line}:{column}"

    def position(self, path: Path, key: bool = False) -> Place:
        """Return line and column of a path that exists, as `where` does."""
        return (self.keys if key or path in self.blocks else self.values).get(path) or self.values[path]

    def nearest(self, path: Path) -> Path:
        """Return `path` without the steps that are not in the file.

        "core" is also found in a list that has it as "core" or "core=…", and 1 as the second key of a mapping.
        """
        found: Path = ()
        for step in path:
            if (*found, step) in self.values:
                found = (*found, step)
            elif (other := self._item(found, step)) is not None:
                found = (*found, other)
        return found

    def _item(self, path: Path, step: str | int) -> str | int | None:
        value = self.at(path)
        if isinstance(value, list) and isinstance(step, str):
            return next((i for i, item in enumerate(value) if str(item).partition("=")[0] == step), None)
        if isinstance(value, dict) and isinstance(step, int) and step < len(value):
            return str(list(value)[step])
        return None

    def has(self, path: Path) -> bool:
        """Return whether a value was written at `path`."""
        return path in self.values

    def text(self, path: Path) -> str | None:
        """Return a number, truth value or null as it was written ("1.10", "0644", "~"); None for all else."""
        return self.texts.get(path)

    def at(self, path: Path) -> Any:
        """Return the value at `path`. Raises: KeyError or IndexError if there is none."""
        value: Any = self.data
        for step in path:
            value = value[step]
        return value

    def put(self, path: Path, other: Document, place: str) -> None:
        """Lay the value `other.data["value"]` at `path`; `place` says where it comes from. Parents are made."""
        parent: Any = self.data
        for length in range(1, len(path)):
            if not self.has(path[:length]) or parent[path[length - 1]] is None:
                parent[path[length - 1]] = {}
                self.values[path[:length]], self.named[path[:length]] = (1, 1), place
            parent = parent[path[length - 1]]
        parent[path[-1]] = other.data["value"]
        for mine in (self.values, self.keys, self.texts, self.named, self.blocks):
            for old in [p for p in mine if p[: len(path)] == path]:
                mine.discard(old) if isinstance(mine, set) else mine.pop(old)
        self.values.update({path + p[1:]: mark for p, mark in other.values.items() if p})
        self.texts.update({path + p[1:]: text for p, text in other.texts.items()})
        self.named[path] = place

    def validate(self, model: type[Model], data: dict[str, Any] | None = None) -> Model:
        """Return the document's data, or what was made of it, as `model`. Raises: DescriptorError with a place."""
        from pydantic import ValidationError

        try:
            return model.model_validate(self.data if data is None else data)
        except ValidationError as error:
            raise validation_error(error, self, model) from error
