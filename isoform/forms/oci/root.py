"""The root of a container on this host: the image's EROFS layers, mounted once for all, under an overlay of its own.

    mounts/HEX/root           where a layer is mounted, HEX being the first digits of its digest
    mounts/HEX/users/ID       an empty file for each instance that uses it; the last one to go unmounts the layer
    instances/ID/upper, work  what the instance wrote, and overlayfs' own folder
    instances/ID/rootfs       the root as the container sees it
    instances/ID/volumes/V    the volume V, mounted
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from isoform.errors import HostLacks, StepFailed
from isoform.host import Home, libc, mount
from isoform.model import Image, Layer, Mount

HEX_DIGITS = 20  # of a layer's digest in names: as many as a virtio-blk serial has room for
_LONGEST_DATA = 4000  # mount(2) takes one page of options
_CLONE_FS = 0x200  # linux/sched.h


def short(digest: str) -> str:
    """Return the digits by which a layer is called."""
    return digest.removeprefix("sha256:")[:HEX_DIGITS]


def overlay_options(lowers: Sequence[str], upper: str, work: str) -> str:
    """Return overlayfs' options; `lowers` as in OCI, the lowest first."""
    above_first = ":".join(_escaped(lower, ":") for lower in reversed(lowers))
    return f"lowerdir={above_first},upperdir={_escaped(upper)},workdir={_escaped(work)}"


def _escaped(path: str, more: str = "") -> str:
    return "".join(f"\\{sign}" if sign in "\\," + more else sign for sign in path)


class Roots:
    """Makes and removes the roots of a home's containers. Every verb may be repeated."""

    def __init__(self, home: Home) -> None:
        self._home, self._mounts = home, home.path / "mounts"

    def rootfs(self, instance_id: str) -> Path:
        """Return where the instance's root is mounted."""
        return self._home.instance(instance_id) / "rootfs"

    def make(self, instance_id: str, image: Image, way: str) -> None:
        """Mount the image's layers, and over them an empty overlay. The instance's folder exists.

        Args:
            way: how EROFS images are mounted here: "file" or "loop".
        Raises: StepFailed, HostLacks.
        """
        folder = self._home.instance(instance_id)
        for name in ("upper", "work", "rootfs"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "upper").chmod(0o755)  # it is the container's "/", whatever our umask is
        with self._alone():
            for layer in image.layers:
                self._use(layer, instance_id, way)
        rootfs = str(folder / "rootfs")
        if not mount.is_mounted(rootfs):
            names = [f"{short(layer.digest)}/root" for layer in image.layers]
            _mount_overlay(self._mounts, names, folder, rootfs)

    def _use(self, layer: Layer, instance_id: str, way: str) -> None:
        place = self._mounts / short(layer.digest)
        (place / "users").mkdir(parents=True, exist_ok=True)
        (place / "users" / instance_id).touch()  # before the mount: whatever is mounted has a user who cleans it up
        (place / "root").mkdir(exist_ok=True)
        mount.mount_erofs(layer.path, str(place / "root"), way)

    def remove(self, instance_id: str) -> None:
        """Unmount all that the instance has mounted; its folder stays. Raises: StepFailed."""
        mount.unmount_all(str(self._home.instance(instance_id)))
        with self._alone():
            for user in self._mounts.glob(f"*/users/{instance_id}"):
                user.unlink(missing_ok=True)
                self._drop(user.parent.parent)

    def _drop(self, place: Path) -> None:
        try:
            (place / "users").rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.ENOENT):
                return
            raise StepFailed(f"cannot remove {place}", why=error.strerror or "") from error
        mount.unmount_all(str(place / "root"))
        shutil.rmtree(place, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._mounts.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._mounts, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def mount_volumes(self, instance_id: str, volumes: Sequence[Mount]) -> dict[str, str]:
        """Mount the volumes below the instance's folder; return where. Their image files exist. Raises: StepFailed."""
        places = {}
        for volume in volumes:
            place = self._home.instance(instance_id) / "volumes" / volume.volume
            place.mkdir(parents=True, exist_ok=True)
            mount.mount_ext4_loop(volume.source, str(place), volume.read_only)
            places[volume.volume] = str(place)
        return places


def _mount_overlay(lower_root: Path, lowers: Sequence[str], folder: Path, target: str) -> None:
    upper, work = str(folder / "upper"), str(folder / "work")
    full = overlay_options([str(lower_root / name) for name in lowers], upper, work)
    try:
        if len(full) <= _LONGEST_DATA:
            libc.mount("overlay", target, "overlay", 0, full)
        else:  # many layers: names relative to their common folder
            _mount_from(lower_root, target, overlay_options(lowers, upper, work))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise HostLacks(
                f"cannot mount an overlay with its upper folder on the file system of {folder}",
                why="overlayfs needs one with extended attributes and file types, such as ext4 or xfs",
                fix="set ISOFORM_HOME to a folder on such a file system",
            ) from error
        raise StepFailed(f"cannot mount the root of {folder.name}", why=error.strerror or "") from error


def _mount_from(folder: Path, target: str, options: str) -> None:
    """Mount an overlay whose options name paths relative to `folder`. Raises: OSError."""
    failure: list[OSError] = []

    def work() -> None:
        try:
            libc.unshare(_CLONE_FS)  # a working folder of this thread's own
            os.chdir(folder)
            libc.mount("overlay", target, "overlay", 0, options)
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
