"""The folder that holds all that isoform keeps, and the mark that all that it makes bears."""

from __future__ import annotations

import hashlib
from pathlib import Path

from isoform.errors import HostLacks

# A unix socket's path has at most 107 bytes (unix(7), sun_path); ours end in instances/ID/NAME.sock.
LONGEST_HOME = 48


class Home:
    """Paths and names of one home. Two homes do not see each other."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # one home, one mark, by whatever name it is called
        if len(str(self.path)) > LONGEST_HOME:
            raise HostLacks(
                f"home folder {self.path} has too long a path",
                why=f"unix sockets below it would pass the kernel's limit; at most {LONGEST_HOME} characters fit",
                fix="set ISOFORM_HOME to a shorter path",
            )
        self.mark = "isoform-" + hashlib.sha256(str(self.path).encode()).hexdigest()[:6]

    def make(self) -> None:
        """Make the home's folder, open to its owner alone: roots of functions and their secrets are below it.

        Raises: HostLacks if it cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise HostLacks(
                f"the home folder {self.path} cannot be made",
                why=str(error.strerror),
                fix="run as root (sudo isoform …), or name a folder of your own in ISOFORM_HOME",
            ) from error

    @property
    def instances(self) -> Path:
        """One folder for each instance: what its form keeps of it."""
        return self.path / "instances"

    @property
    def images(self) -> Path:
        """The image store."""
        return self.path / "images"

    @property
    def guest(self) -> Path:
        """Kernels and initramfs of virtual machines."""
        return self.path / "guest"

    @property
    def volumes(self) -> Path:
        """Volumes, as one ext4 image file each."""
        return self.path / "volumes"

    def instance(self, instance_id: str) -> Path:
        """Return the folder of one instance."""
        return self.instances / instance_id

    def netns(self, instance_id: str = "") -> str:
        """Return the name of an instance's network namespace, or of the fabric's own."""
        return f"{self.mark}-{instance_id}" if instance_id else self.mark

    def cgroup(self, instance_id: str = "") -> str:
        """Return the cgroup of an instance, or of the whole home, below every controller's root."""
        return f"/{self.mark}/{instance_id}" if instance_id else f"/{self.mark}"
