"""Who an image's `user` is, by the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

from isoform.errors import DescriptorError
from isoform.model.image import User

HIGHEST_ID = 2**32 - 2  # 2^32 - 1 means "no change" to chown(2)


def _rows(text: str, fields: int) -> list[list[str]]:
    return [row for line in text.splitlines() if len(row := line.split(":")) >= fields and not line.startswith("#")]


def _id(text: str, what: str, place: str) -> int:
    number = int(text)
    if number > HIGHEST_ID:
        raise DescriptorError(f"{place}: {what} {text} is out of range", fix=f"use at most {HIGHEST_ID}")
    return number


def _group(name: str, group: str, place: str) -> int:
    if name.isdecimal():
        return _id(name, "group", place)
    for row in _rows(group, 4):
        if row[0] == name and row[2].isdecimal():
            return int(row[2])
    raise DescriptorError(f"{place}: group {name!r} is not in the image's /etc/group",
                          fix="name a group that it has, or give its number")


def resolve_user(text: str, passwd: str, group: str, place: str) -> User:
    """Return the user that `text` ("", "web", "1000", "web:adm", "1000:1000") stands for.

    A user without a named group gets its own group and those that list it, as Docker and Podman do; a named group
    is the only one.

    Args:
        passwd, group: the content of the image's /etc/passwd and /etc/group; "" where it has none.
        place: named in errors.
    Raises: DescriptorError.
    """
    name, colon, group_name = (text or "0").partition(":")
    name = name or "0"
    number = _id(name, "user", place) if name.isdecimal() else None
    found = next((row for row in _rows(passwd, 6) if row[2].isdecimal() and row[3].isdecimal()
                  and (row[0] == name or (number is not None and int(row[2]) == number))), None)
    if found:
        name, number, gid, home = found[0], int(found[2]), int(found[3]), found[5] or "/"
    elif name == "root" or number == 0:
        name, number, gid, home = "root", 0, 0, "/root"
    elif number is not None:
        gid, home = 0, "/"
    else:
        raise DescriptorError(f"{place}: user {name!r} is not in the image's /etc/passwd",
                              fix="name a user that it has, or give its number")
    if colon and group_name:
        return User(number, _group(group_name, group, place), (), name, home)
    groups = {int(row[2]) for row in _rows(group, 4) if row[2].isdecimal() and name in row[3].split(",")}
    return User(number, gid, tuple(sorted(groups - {gid})), name, home)
