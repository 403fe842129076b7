"""A recipe's files, laid so that the layer of packages below keeps its links and its folders' modes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from isoform.errors import DescriptorError
from isoform.images.recipe import FileEntry, Recipe
from isoform.model.yamlpos import Document

MOST_LINKS = 40  # as in the kernel, path_resolution(7)


def place(path: str, links: Mapping[str, str]) -> str:
    """Return where a file really goes: /bin/x is /usr/bin/x where the layer below has /bin -> usr/bin.

    The last part is not followed: a file replaces a link of its name. Raises: ValueError for links without end.
    """
    hops = 0
    todo, done = list(reversed(PurePosixPath(path).parts[1:])), PurePosixPath("/")
    while todo:
        part = todo.pop()
        if part == "..":
            done = done.parent
            continue
        step = done / part
        target = links.get(str(step)) if todo else None
        if target is None:
            done = step
            continue
        hops += 1
        if hops > MOST_LINKS:
            raise ValueError(f"{path}: too many links")
        todo += reversed([p for p in PurePosixPath(target).parts if p != "/"])
        done = PurePosixPath("/") if target.startswith("/") else done
    return str(done)


def sources_of(recipe: Recipe, document: Document, base: Path) -> list[Path]:
    """Return all files and folders that a recipe's `files` are copied from. Raises: DescriptorError."""
    found: list[Path] = []
    for name, spec in recipe.files.items():
        if spec.source is None:
            continue
        path = base / spec.source
        if not path.is_file() and not path.is_dir():
            raise DescriptorError(f"{document.where(('files', name, 'source'))}: {path} does not exist",
                                  fix="mend the path; it is relative to the recipe")
        found += [path, *_below(path)]
    return found


def _below(path: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(path) if path.is_dir() else ():
        folders.sort()
        yield from (Path(top) / name for name in sorted(folders + names) if (Path(top) / name).exists())


def lay_files(tree: Path, recipe: Recipe, document: Document, folders: Mapping[str, list[int]],
              links: Mapping[str, str]) -> None:
    """Make a recipe's files below `tree`.

    Args:
        folders, links: of the layer below, as `mend.shape` returns them.
    Raises: DescriptorError.
    """
    for name, spec in sorted(recipe.files.items()):
        try:
            real = place(str(PurePosixPath(name)), links)
        except ValueError as error:
            raise DescriptorError(f"{document.where(('files', name), key=True)}: {error}", fix="mend it") from error
        origin = Path(document.name).parent / spec.source if spec.source is not None else None
        if real in folders and not (origin and origin.is_dir()):
            raise DescriptorError(f"{document.where(('files', name), key=True)}: {name} is a folder of the packages",
                                  fix="name a file in it")
        path = tree / real.lstrip("/")
        make_parents(tree, path, folders)
        if path.is_symlink() or path.is_file():
            path.unlink()
        if origin is None:
            _make(path, spec)
        else:
            _copy(origin, path, tree, folders)
        if spec.mode and not path.is_symlink():
            path.chmod(int(spec.mode, 8))


def make_parents(tree: Path, path: Path, folders: Mapping[str, list[int]]) -> None:
    """Make the folders above a path as the layer below has them: overlayfs shows the upper one's mode and owner."""
    for folder in reversed([p for p in path.parents if p.is_relative_to(tree) and p != tree]):
        _folder(tree, folder, folders)


def _folder(tree: Path, folder: Path, folders: Mapping[str, list[int]]) -> None:
    if folder.is_dir():
        return
    mode, uid, gid = folders.get("/" + str(folder.relative_to(tree)), [0o755, 0, 0])
    folder.mkdir()
    os.chown(folder, uid, gid)
    folder.chmod(mode)


def _make(path: Path, spec: FileEntry) -> None:
    if spec.link is not None:
        path.symlink_to(spec.link)
    else:
        path.write_text(spec.content or "")
        path.chmod(0o644)


def _copy(origin: Path, path: Path, tree: Path, folders: Mapping[str, list[int]]) -> None:
    """Copy a file or a folder; modes become 0755 or 0644, so that a checkout's umask makes no difference."""
    if origin.is_symlink() and not origin.exists():
        path.symlink_to(origin.readlink())
    elif origin.is_dir():
        _folder(tree, path, folders)
        for child in sorted(origin.iterdir()):
            if child.is_symlink():
                (path / child.name).symlink_to(child.readlink())
            else:
                _copy(child, path / child.name, tree, folders)
    elif origin.is_file():
        shutil.copyfile(origin, path)
        path.chmod(0o755 if origin.stat().st_mode & stat.S_IXUSR else 0o644)
