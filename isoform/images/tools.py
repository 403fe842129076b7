"""The host's tools that images need, asked for before any work is begun."""

from __future__ import annotations

import os
import shutil

from isoform.errors import HostLacks

PACKAGES = {"tar": "tar", "gzip": "gzip", "zstd": "zstd", "setpriv": "util-linux", "unshare": "util-linux",
            "mkfs.erofs": "erofs-utils", "skopeo": "skopeo", "mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg",
            "ldconfig": "libc-bin"}
_ALWAYS = ("setpriv", "tar", "gzip", "zstd", "mkfs.erofs")
_BY_KIND = {"recipe": ("unshare", "mmdebstrap", "dpkg-deb", "ldconfig")}


def require(kind: str) -> None:
    """Check that this process can make an image of `kind`. Raises: HostLacks with what to install."""
    if os.geteuid() != 0:
        raise HostLacks("images can be made by root alone",
                        why="their files belong to many users, and are mounted", fix="run the command with sudo")
    missing = [tool for tool in (*_ALWAYS, *_BY_KIND.get(kind, ("skopeo",))) if not shutil.which(tool)]
    if missing:
        names = sorted({PACKAGES[tool] for tool in missing})
        raise HostLacks(f"images need {', '.join(missing)}, which this host lacks",
                        fix=f"run: apt-get install {' '.join(names)}")
