"""The descriptor: what a user writes to declare a service, checked and with every shorthand written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from isoform.errors import DescriptorError
from isoform.model import descriptor_values as v
from isoform.model.descriptor_parts import (
    FileSpec,
    HttpSpec,
    LinkSpec,
    NeedsSpec,
    PortSpec,
    ReadySpec,
    RouteSpec,
    Strict,
    VolumeSpec,
    VolumeUse,
)
from isoform.model.faults import known_keys
from isoform.model.interpolate import override, substitute
from isoform.model.yamlpos import Document, Path, load

__all__ = [
    "FORMS", "FileSpec", "FunctionSpec", "HttpSpec", "LinkSpec", "NeedsSpec", "Parsed", "PortSpec", "ReadySpec",
    "RouteSpec", "ServiceSpec", "VolumeSpec", "VolumeUse", "json_schema", "parse", "with_forms",
]

FormName = Literal["auto", "container", "vm", "container-in-vm"]
FORMS: tuple[str, ...] = ("auto", "container", "vm", "container-in-vm")


class FunctionSpec(Strict):
    """One network function."""

    image: str = Field(min_length=1, description="a recipe file, an OCI layout or archive, or docker://…",
                       examples=["./web.yaml"])
    form: FormName = Field("auto", description="how it runs; auto: the lightest form that fits", examples=["container"])
    vm: Annotated[v.Name, Field(description="container-in-vm: functions of one name share one VM",
                                examples=["group1"])] = ""
    cpus: v.Amount = Field(1.0, gt=0, le=4096, description="CPU cores", examples=[0.5])
    memory_bytes: v.Bytes = Field(128 << 20, alias="memory", description="memory", examples=["128Mi"])
    ports: dict[str, PortSpec] = Field({}, description="link: address, or auto; or a list of links",
                                       examples=["{access: 10.0.1.2}"])
    command: v.Argv | None = Field(None, description="instead of the image's command", examples=["nc -lk 80"])
    entrypoint: v.Argv | None = Field(None, description="instead of the image's entrypoint and command",
                                      examples=["[/bin/sh, -c]"])
    env: v.Environment = Field({}, description="environment variables, added to the image's",
                               examples=["{LOG_LEVEL: debug}"])
    files: dict[v.FilePath, FileSpec] = Field({}, description="path in the function: ./file, or {content: text}",
                                               examples=["{/etc/motd: ./motd}"])
    volumes: tuple[VolumeUse, ...] = Field((), description="volumes of the service", examples=["[data:/var/lib/web]"])
    sysctls: v.Sysctls = Field({}, description="kernel settings inside", examples=["{net.ipv4.ip_forward: 1}"])
    capabilities: tuple[v.Capability, ...] = Field((), description="beside the default set", examples=["[net_admin]"])
    routes: Annotated[tuple[RouteSpec, ...], BeforeValidator(v.routes)] = Field(
        (), description="static routes, as a list, or as a mapping of network: next hop",
        examples=["{default: 10.0.1.1}"])
    ready: ReadySpec | None = Field(None, description="how it is seen to serve; default: once it runs",
                                    examples=["{tcp: 80}"])
    after: v.Names = Field((), description="functions that must be ready before it starts", examples=["[gateway]"])
    replicas: v.Count = Field(1, ge=1, le=1000, description="how many copies run", examples=[2])
    needs: NeedsSpec = Field(NeedsSpec.model_validate({}), description="what it needs of its surroundings",
                             examples=["{own_kernel: true}"])

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        if isinstance(value, dict) and isinstance(value.get("ports"), list):
            return {**value, "ports": v.port_list(value["ports"])}
        return value


class ServiceSpec(Strict):
    """A service: functions, and the links on which they meet."""

    service: v.Name = Field(description="name of the service", examples=["edge"])
    links: dict[v.Name, LinkSpec] = Field({}, description="links by name", examples=["{access: 10.0.1.0/24}"])
    functions: dict[v.Name, FunctionSpec] = Field(min_length=1, description="functions by name",
                                                  examples=["{web: {image: ./web.yaml}}"])
    volumes: dict[v.Name, VolumeSpec] = Field({}, description="volumes by name", examples=["{data: {size: 64Mi}}"])


@dataclass(frozen=True, slots=True)
class Parsed:
    """A descriptor and the file that it was written in, for errors that are found later."""

    spec: ServiceSpec
    document: Document


def parse(text: str | bytes, name: str, variables: Mapping[str, str], overrides: Sequence[str] = ()) -> Parsed:
    """Return the descriptor in `text`: variables filled in, overrides laid over it, all checked.

    Args:
        name: the file's name, for errors.
        variables: values of ${VAR}.
        overrides: "functions.web.memory=256Mi", as `--set` takes them.
    Raises: DescriptorError with file, line and column.
    """
    from isoform.model.descriptor_checks import check

    document = load(text, name, lambda scalar: substitute(scalar, variables))
    for number, item in enumerate(overrides, 1):
        override(document, number, item, lambda path: known_keys(ServiceSpec, path))
    spec = document.validate(ServiceSpec, _as_written(document))
    check(spec, document.where)
    return Parsed(spec, document)


def with_forms(spec: ServiceSpec, forms: Mapping[str, str]) -> ServiceSpec:
    """Return the descriptor with other forms for some functions, as `--form NAME=FORM` asks.

    A function's `vm:` is dropped where its new form is not container-in-vm. Raises: DescriptorError.
    """
    from isoform.model.descriptor_checks import check_form, said_at

    functions = dict(spec.functions)
    for name, form in forms.items():
        place = f"--form {name}={form}"
        if name not in functions:
            raise DescriptorError(f"{place}: there is no function `{name}` in service `{spec.service}`",
                                  why=f"its functions: {', '.join(functions)}", fix="mend the name")
        if form not in FORMS:
            raise DescriptorError(f"{place}: there is no form `{form}`", fix=f"write one of {', '.join(FORMS)}")
        keep = form in ("auto", "container-in-vm")
        functions[name] = functions[name].model_copy(
            update={"form": form, "vm": functions[name].vm if keep else ""})
        check_form(name, functions[name], said_at(place))
    return spec.model_copy(update={"functions": functions})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of descriptors, for editors."""
    schema = ServiceSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "isoform service", **schema}


_LITERAL = ("env", "command", "entrypoint", "sysctls")  # what looks like a number is text here: 1.10, 007


def _as_written(document: Document) -> dict[str, Any]:
    """Return the data with numbers as they were written wherever text is meant."""
    functions = document.data.get("functions")
    if not isinstance(functions, dict):
        return document.data
    return {**document.data, "functions": {
        name: _function_as_written(document, ("functions", name), value) if isinstance(value, dict) else value
        for name, value in functions.items()}}


def _function_as_written(document: Document, path: Path, function: dict[str, Any]) -> dict[str, Any]:
    result = {key: _texts(document, (*path, key), value) if key in _LITERAL and value is not None else value
              for key, value in function.items()}
    if isinstance(files := result.get("files"), dict):
        result["files"] = {
            name: {key: _texts(document, (*path, "files", name, key), item) if item is not None else None
                   for key, item in value.items()} if isinstance(value, dict) else value
            for name, value in files.items()}
    if isinstance(ready := result.get("ready"), dict) and isinstance(ready.get("exec"), list):
        result["ready"] = {**ready, "exec": _texts(document, (*path, "ready", "exec"), ready["exec"])}
    return result


def _texts(document: Document, path: Path, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(document, (*path, key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(document, (*path, index), item) for index, item in enumerate(value)]
    return value if isinstance(value, str) else "" if value is None else document.text(path) or v.plain(value)
