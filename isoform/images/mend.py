"""What unpacked packages lack because their scripts did not run, and what an image need not have.

Done here: accounts, base folders, nsswitch.conf, the linker's cache, alternatives that a postinst names in plain
words, /bin/sh, busybox's applets, dpkg's status. Not done: anything else that a postinst does (make further users:
the recipe's `users`; set file capabilities; generate keys or certificates).
"""

from __future__ import annotations

import re
import shlex
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from isoform.host import process
from isoform.images.debian import Package

_FOLDERS = {"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "tmp": 0o1777, "root": 0o700, "etc": 0o755,
            "home": 0o755, "mnt": 0o755, "opt": 0o755, "srv": 0o755, "var": 0o755, "var/tmp": 0o1777,
            "var/log": 0o755, "var/lib": 0o755, "var/cache": 0o755, "usr": 0o755}
_LINKS = {"var/run": "/run", "var/lock": "/run/lock"}
_UNWANTED = ("var/lib/apt", "var/cache/apt", "var/cache/ldconfig", "var/log/apt", "usr/share/man", "usr/share/info",
             "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/doc-base", "usr/share/groff",
             "usr/share/bash-completion", "usr/share/zsh", "var/lib/dpkg/info", "var/lib/dpkg/updates",
             "etc/hostname", "etc/resolv.conf", "etc/fstab",  # mmdebstrap's: the host's own
             "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives", "var/lib/dpkg/arch")
# base-passwd's /usr/share/base-passwd: the numbers that Debian Policy 9.2.2 fixes
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
sys:x:3:3:sys:/dev:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
mail:x:8:8:mail:/var/mail:/usr/sbin/nologin
proxy:x:13:13:proxy:/bin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
backup:x:34:34:backup:/var/backups:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "".join(f"{name}:x:{number}:\n" for name, number in (
    ("root", 0), ("daemon", 1), ("bin", 2), ("sys", 3), ("adm", 4), ("tty", 5), ("disk", 6), ("mail", 8), ("man", 12),
    ("proxy", 13), ("kmem", 15), ("dialout", 20), ("www-data", 33), ("backup", 34), ("shadow", 42), ("utmp", 43),
    ("staff", 50), ("users", 100), ("nogroup", 65534)))
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
FIRST_UID = 100  # Debian Policy 9.2.2: 100 to 999 are system users made on the spot


async def mend(tree: Path, packages: Sequence[Package]) -> None:
    """Make a tree of unpacked packages fit to run."""
    names = {package.name for package in packages}
    _clean(tree, names)
    for path, mode in _FOLDERS.items():
        (tree / path).mkdir(parents=True, exist_ok=True)
        (tree / path).chmod(mode)
    for path, target in _LINKS.items():
        _link(tree, path, target)
    _write_new(tree / "etc/passwd", PASSWD)
    _write_new(tree / "etc/group", GROUP)
    _write_new(tree / "etc/nsswitch.conf", _NSSWITCH)
    status = tree / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(status_of(packages))
    status.chmod(0o644)
    for link, target in alternatives(package.postinst for package in packages):
        if (tree / target.lstrip("/")).exists():
            _link(tree, link.lstrip("/"), target)
    shell = next((s for s in ("dash", "bash", "busybox") if (tree / "bin" / s).exists()), "")
    if shell:
        _link(tree, "bin/sh", shell)
    if (tree / "bin/busybox").exists():
        await _applets(tree)
    if (tree / "etc/ld.so.conf.d").is_dir():
        _write_new(tree / "etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")  # libc-bin's; nothing depends on it
        await process.run(["ldconfig", "-r", str(tree)])
        shutil.rmtree(tree / "var/cache/ldconfig", ignore_errors=True)


def _clean(tree: Path, names: set[str]) -> None:
    for path in _UNWANTED:
        found = tree / path
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
    for document in (tree / "usr/share/doc").glob("*/*"):
        if document.is_dir() and not document.is_symlink():
            shutil.rmtree(document)
        elif document.name != "copyright":
            document.unlink()
    for folder in ("dev", "tmp", "run", "proc", "sys"):
        shutil.rmtree(tree / folder, ignore_errors=True)
    if "apt" in names:
        (tree / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)  # this host's proxies, maybe with passwords
    else:
        shutil.rmtree(tree / "etc/apt", ignore_errors=True)
    if "dpkg" not in names:
        shutil.rmtree(tree / "etc/dpkg", ignore_errors=True)


def _link(tree: Path, path: str, target: str) -> None:
    link = tree / path
    if link.is_symlink() or link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _write_new(path: Path, content: str) -> None:
    if not path.exists():
        path.write_text(content)
        path.chmod(0o644)


def status_of(packages: Iterable[Package]) -> str:
    """Return dpkg's status file, by which scanners tell what is in an image."""
    entries = []
    for package in packages:
        first, _, rest = package.control.strip().partition("\n")
        entries.append(f"{first}\nStatus: install ok installed\n{rest}\n")
    return "\n".join(entries)


def alternatives(scripts: Iterable[str]) -> list[tuple[str, str]]:
    """Return (link, target) of the alternatives that postinst scripts install, highest priority first by link.

    Only calls with plain words are read; one that uses variables is passed over.
    """
    found: dict[str, tuple[int, list[tuple[str, str]]]] = {}
    for script in scripts:
        for line in script.replace("\\\n", " ").splitlines():
            words = _plain_words(line)
            if words[:2] == ["update-alternatives", "--install"] and len(words) >= 6 and words[5].isdecimal():
                pairs = [(words[2], words[4])]
                slaves = [i for i, word in enumerate(words) if word == "--slave"]
                pairs += [(words[i + 1], words[i + 3]) for i in slaves if i + 3 < len(words)]
                if words[3] not in found or int(words[5]) > found[words[3]][0]:
                    found[words[3]] = (int(words[5]), pairs)
    return [pair for _, pairs in found.values() for pair in pairs if "/man/" not in pair[0]]


def _plain_words(line: str) -> list[str]:
    at = line.find("update-alternatives")
    if at < 0 or re.search(r"[$`]", line[at:]):
        return []
    try:
        return [word for word in shlex.split(line[at:], comments=True) if word != "--quiet"]
    except ValueError:
        return []


async def _applets(tree: Path) -> None:
    """Link busybox's commands, save those that another package brings."""
    shown = await process.run(["chroot", str(tree), "/bin/busybox", "--list-full"])
    there = {path.name for folder in ("bin", "sbin", "usr/bin", "usr/sbin") if (tree / folder).is_dir()
             for path in (tree / folder).iterdir()}
    for path in shown.out.split():
        if "/" in path and Path(path).name not in there:  # not its /linuxrc
            _link(tree, path, "/bin/busybox")


def add_users(passwd: str, group: str, names: Sequence[str]) -> tuple[str, str]:
    """Return /etc/passwd and /etc/group with system users, each with a group of its name, those there left as is."""
    taken = {int(row.split(":")[2]) for row in (passwd + group).splitlines() if row.count(":") >= 3}
    known = {row.partition(":")[0] for row in passwd.splitlines()}
    number = FIRST_UID
    for name in names:
        if name in known:
            continue
        while number in taken:
            number += 1
        taken.add(number)
        passwd += f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"
        group += f"{name}:x:{number}:\n"
    return passwd, group


def shape(tree: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Return the folders of a tree with mode, owner and group, and its links: what a layer above must heed."""
    folders: dict[str, list[int]] = {}
    links: dict[str, str] = {}
    for path in sorted(tree.rglob("*")):
        seen, name = path.lstat(), "/" + str(path.relative_to(tree))
        if stat.S_ISDIR(seen.st_mode):
            folders[name] = [stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid]
        elif stat.S_ISLNK(seen.st_mode):
            links[name] = str(path.readlink())
    return folders, links
