"""Writing into a root whose owner is hostile: links, and links that appear while we write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isoform.errors import StepFailed
from isoform.forms import inside
from isoform.model import File


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A root, and beside it a private folder of the host's."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir(mode=0o700)
    return root, outside


def test_folders_on_the_way_are_made_for_everyone(places: tuple[Path, Path]) -> None:
    root, _ = places
    before = os.umask(0o077)
    try:
        inside.write_files(str(root), [File("/a/b/c", b"1", 0o640)])
    finally:
        os.umask(before)
    assert [(root / name).stat().st_mode & 0o7777 for name in ("a", "a/b", "a/b/c")] == [0o755, 0o755, 0o640]


def test_a_new_folder_that_is_swapped_for_a_link_changes_nothing_outside(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = places
    make = os.mkdir

    def swapped(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.symlink(outside, name, dir_fd=dir_fd)  # what a process of the function's can do at any time

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(StepFailed, match="/new/file"):
        inside.write_files(str(root), [File("/new/file", b"1")])
    assert outside.stat().st_mode & 0o7777 == 0o700 and list(outside.iterdir()) == []


def test_a_link_as_the_file_itself_is_replaced(places: tuple[Path, Path]) -> None:
    root, outside = places
    (outside / "secret").write_text("kept")
    (root / "file").symlink_to(outside / "secret")
    inside.write_files(str(root), [File("/file", b"new")])
    assert (outside / "secret").read_text() == "kept" and (root / "file").read_text() == "new"


def test_a_root_that_became_another_s_is_not_written_to(places: tuple[Path, Path]) -> None:
    root, _ = places
    with pytest.raises(StepFailed, match="is gone"):
        inside.write_files(str(root), [File("/file", b"new")], is_it=lambda: False)
    with pytest.raises(StepFailed, match="is gone"):
        inside.write_files(str(root / "absent"), [File("/file", b"new")])
    assert list(root.iterdir()) == []
