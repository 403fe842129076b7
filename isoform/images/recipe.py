"""What a recipe file says: Debian packages, files, and the process that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from isoform.errors import DescriptorError
from isoform.model.yamlpos import Document, load

PACKAGE = r"^[a-z0-9][a-z0-9+.-]+$"  # Debian Policy 5.6.1
USER = r"^[a-z_][a-z0-9_-]*$"


def _command(value: Any) -> Any:
    if isinstance(value, str):
        raise PydanticCustomError("command", "a list of words is needed, not one text",
                                  {"fix": "write [program, argument], or [/bin/sh, -c, \"…\"] for a shell's line"})
    return value


class FileEntry(BaseModel):
    """One file, folder or link of the image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str | None = Field(None, description="file or folder, relative to the recipe", examples=["nginx.conf"])
    content: str | None = Field(None, description="the file's text itself")
    link: str | None = Field(None, description="what a symbolic link points to", examples=["/bin/busybox"])
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")] | None = Field(
        None, description="octal; default: the source's, 0644 for content", examples=["0755"])

    @model_validator(mode="after")
    def _one(self) -> FileEntry:
        given = [n for n in ("source", "content", "link") if getattr(self, n) is not None]
        if len(given) != 1:
            raise PydanticCustomError("one_of", "exactly one of source, content and link is needed",
                                      {"fix": "give one of them"})
        return self


class Recipe(BaseModel):
    """How an image is made of Debian packages and files."""

    model_config = ConfigDict(extra="forbid", strict=True)

    suite: Annotated[str, Field(pattern=r"^[a-z][a-z0-9.-]*$")] = Field(
        "", description="release that packages come from; default: the host's own", examples=["bookworm"])
    packages: list[Annotated[str, Field(pattern=PACKAGE)]] = Field(
        [], description="Debian packages; what they depend on comes with them", examples=["[nginx-light, iproute2]"])
    users: list[Annotated[str, Field(pattern=USER)]] = Field(
        [], description="system users to make, each with a group of its name; numbered from 100", examples=["[dns]"])
    files: dict[str, FileEntry] = Field(
        {}, description="path in the image -> file or folder beside the recipe, or its content",
        examples=["{/etc/motd: motd}"])
    entrypoint: list[str] = Field([], description="what runs", examples=["[/usr/sbin/nginx]"])
    command: list[str] = Field([], description="its arguments; a service can give others", examples=["[-g, \"…\"]"])
    env: dict[str, str] = Field({}, description="environment", examples=["{LANG: C.UTF-8}"])
    user: str = Field("", description="who runs it: name, number, or either with :group", examples=["www-data"])
    workdir: str = Field("/", description="where it runs", examples=["/srv"])
    stop_signal: Annotated[str, Field(pattern=r"^SIG[A-Z0-9+]+$")] = Field(
        "SIGTERM", description="asks it to end", examples=["SIGQUIT"])

    _words = field_validator("entrypoint", "command", mode="before")(_command)

    @field_validator("files", mode="after")
    @classmethod
    def _absolute(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for path in files:
            if not path.startswith("/") or path == "/" or ".." in path.split("/") or "\0" in path:
                raise PydanticCustomError("path", "{path} is not an absolute path without `..`",
                                          {"path": repr(path), "fix": "write for example /etc/nginx/nginx.conf"})
        return files

    @field_validator("workdir", mode="after")
    @classmethod
    def _workdir(cls, path: str) -> str:
        if not path.startswith("/"):
            raise PydanticCustomError("path", "an absolute path is needed", {"fix": "write for example /srv"})
        return path


def read(path: Path) -> tuple[Recipe, Document]:
    """Return a recipe and where each of its values stands. Raises: DescriptorError with the place of a fault."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DescriptorError(f"recipe {path} cannot be read", why=str(error.strerror), fix="mend the path") from error
    document = load(text, str(path))
    _write_out(document)
    recipe = document.validate(Recipe)
    if not (recipe.packages or recipe.files):
        raise DescriptorError(f"{document.where(())}: the recipe makes an empty image",
                              fix="name packages, files, or both")
    return recipe, document


def _write_out(document: Document) -> None:
    """Write short forms out, and take numbers as they were written: a mode of 0755, a PORT of 08."""
    data = document.data
    files, env = ({} if not isinstance(data.get(key), dict) else data[key] for key in ("files", "env"))
    for name, value in list(files.items()):
        if isinstance(value, str):
            files[name] = {"source": value}
        elif isinstance(value, dict) and (text := document.text(("files", name, "mode"))) is not None:
            value["mode"] = text.removeprefix("0o")
    for name in env:
        if text := document.text(("env", name)):
            env[name] = text
