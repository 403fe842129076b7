"""The forms of a home by name, each made when it is first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from isoform.forms.form import Form
from isoform.host import Home


class Forms(Mapping[str, Form]):
    """All forms, in the order of their weight. To name one costs nothing; to use it, its import."""

    def __init__(self, home: Home, makers: Mapping[str, Callable[[], Form]]) -> None:
        self._home, self._makers, self._made = home, makers, dict[str, Form]()

    def __getitem__(self, name: str) -> Form:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def present(self, prefix: str) -> list[str]:
        """Return the forms that may know of instances whose ids start with `prefix`.

        Every form makes an instance's folder, and says in it whose it is, before it makes anything else.
        """
        try:
            folders = [entry.path for entry in os.scandir(self._home.instances) if entry.name.startswith(prefix)]
        except FileNotFoundError:
            return []
        found = {form_in(folder) for folder in folders}
        return [name for name in self if "" in found or name in found]


FORM = "form"  # the file in an instance's folder that says whose it is


def form_in(folder: str) -> str:
    """Return the name of the form that made an instance's folder; "" where it does not say."""
    try:
        with open(f"{folder}/{FORM}") as file:  # noqa: PTH123  the fast one
            return file.read()
    except OSError:
        return ""
