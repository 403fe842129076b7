"""`isoform image`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from isoform.cli.command import Json, Session, command
from isoform.cli.complete import complete_image
from isoform.cli.lazy import LazyGroup, group
from isoform.cli.output import emit, emit_json
from isoform.cli.progress import shown
from isoform.cli.ps import iso
from isoform.cli.report import say
from isoform.cli.running import run
from isoform.cli.table import table
from isoform.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from isoform.images import ImageInfo
    from isoform.model import Image, Progress

ImageName = Annotated[
    str,
    typer.Argument(metavar="IMAGE", autocompletion=complete_image, help="Its name, reference, path or digest."),
]


class ImageCommands(LazyGroup):
    """The commands of `isoform image`."""

    entries: ClassVar[dict[str, tuple[str, str]]] = {
        name: ("Commands", f"image:{target}") for name, target in (
            ("build", "build"), ("pull", "pull"), ("ls", "list_"), ("inspect", "inspect"), ("rm", "remove"),
            ("prune", "prune"),
        )
    }


app = group(ImageCommands, examples="""
isoform image build web.yaml       make an image from a recipe
isoform image ls                   what is there, and what it takes on disk
""")


@app.callback(invoke_without_command=True)
def images(context: typer.Context) -> None:
    """Build, fetch, list and remove images. `isoform up` builds and fetches what it needs by itself."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@command("""
    isoform image build web.yaml              make it, or do nothing if it is made and nothing has changed
    isoform image build web.yaml --fresh      with the newest versions of its packages
    isoform image build web.yaml --name web   also call it `web`
""")
def build(
    session: Session,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's file.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="A short name for it.", show_default=False)
    ] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask for the newest versions of its packages.")] = False,
    as_json: Json = False,
) -> None:
    """Build an image from a recipe.

    A recipe names Debian packages, files, and what to run.
    """
    images = session.assembly().images
    _obtain(session, as_json, lambda progress: images.build(recipe, progress, name, fresh))


@command("""
    isoform image pull docker://docker.io/library/nginx:1.27
    isoform image pull oci-archive:web.tar
""")
def pull(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="REF", help="docker://…, an OCI layout folder or an archive.")],
    as_json: Json = False,
) -> None:
    """Fetch an image from a registry, an OCI layout or an archive."""
    images = session.assembly().images
    _obtain(session, as_json, lambda progress: images.pull(reference, progress))


def _obtain(session: Session, as_json: bool, work: Callable[[Progress], Awaitable[Image]]) -> None:
    async def obtain(progress: Progress) -> Image:
        return await work(progress)

    with shown(hidden=session.quiet or as_json, plain=session.debug) as (progress, stop):
        image = run(obtain(progress), stop)
    size = sum(layer.size_bytes for layer in image.layers)
    if as_json:
        emit_json({"reference": image.reference, "digest": image.digest, "size_bytes": size,
                   "layers": [asdict(layer) for layer in image.layers]})
    else:
        layers = f"{len(image.layers)} layer" + ("" if len(image.layers) == 1 else "s")
        emit(f"{image.reference}  {image.digest}  {layers}, {format_bytes(size)}")


@command("""
    isoform image ls            all images
    isoform image ls --json     the same for programs
""")
def list_(session: Session, as_json: Json = False) -> None:
    """List images.

    With what each takes on disk, and how much of it other images share.
    """
    found = session.assembly().images.list()
    if as_json:
        emit_json([_plain(info) for info in found])
    elif found:
        emit(table(("IMAGE", "KIND", "DIGEST", "LAYERS", "SIZE", "SHARED", "CREATED"), [
            (info.reference, info.kind, info.digest[7:19], str(len(info.layers)), format_bytes(info.size_bytes),
             format_bytes(info.shared_bytes), iso(info.created)) for info in found
        ], frozenset({"LAYERS", "SIZE", "SHARED"})))
    else:
        say("no images here; `isoform up` builds and fetches what it needs, or: isoform image build RECIPE")


def _plain(info: ImageInfo) -> dict[str, Any]:
    return {**asdict(info), "created": iso(info.created), "size_bytes": info.size_bytes}


@command("""
    isoform image inspect web          layers, packages, command and environment
    isoform image inspect web --json   the same for programs
""")
def inspect(session: Session, reference: ImageName, as_json: Json = False) -> None:
    """Show all that is known of an image.

    Its layers, packages, and what it runs.
    """
    found = session.assembly().images.inspect(reference)
    if as_json:
        emit_json(found)
    else:
        emit("\n".join(_lines(found)))


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Return nested values as indented lines "key: value"."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item:
            shown = [", ".join(map(str, one.values())) if isinstance(one, dict) else str(one) for one in item]
            lines += [f"{indent}{key}:", *(f"{indent}  {one}" for one in shown)]
        elif item not in (None, "", [], {}):
            lines.append(f"{indent}{key}: {item}")
    return lines


@command("""
    isoform image rm web        remove it, and its layers that no other image has
    isoform image rm 3f9c1b     by the begin of its digest
""")
def remove(session: Session, reference: ImageName, as_json: Json = False) -> None:
    """Remove an image. One that an instance uses stays, and you are told so."""
    assembly = session.assembly()
    run(assembly.images.remove(reference, assembly.layers_in_use()))
    emit_json({"removed": [reference]}) if as_json else emit(f"- {reference}  removed")


@command("""
    isoform image prune          older builds and what was cut off
    isoform image prune --all    also images that no instance uses
""")
def prune(
    session: Session,
    every: Annotated[bool, typer.Option("--all", "-a", help="Also remove images that no instance uses.")] = False,
    as_json: Json = False,
) -> None:
    """Free the disk of what no image and no instance needs."""
    assembly = session.assembly()
    report = run(assembly.prune_images(every))
    if as_json:
        emit_json(asdict(report))
        return
    for reference in report.images:
        emit(f"- {reference}  removed")
    emit(f"{len(report.images)} images, {len(report.layers)} layers removed; {format_bytes(report.freed_bytes)} freed")
