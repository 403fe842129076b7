"""The parts of a descriptor below a function: links, ports, files, volumes, routes, readiness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from isoform.model import descriptor_values as v

_TEXT = {"type": "string"}
_NULL = {"type": "null"}


class Strict(BaseModel):
    """A mapping of the descriptor. Unknown keys are refused; `short` lists what may stand in its place.

    A key without a value counts as left out: its lines may be commented out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    short: ClassVar[Sequence[dict[str, Any]]] = ()

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        value = cls.written_out(value)
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {"anyOf": [schema, *cls.short]} if cls.short else schema


class LinkSpec(Strict):
    """An L2 segment on which functions meet."""

    short = (_TEXT,)

    cidr: v.Range4 = Field("", description="IPv4 range of the link", examples=["10.0.1.0/24"])
    cidr6: v.Range6 = Field("", description="IPv6 range of the link", examples=["fd00:1::/64"])
    mtu: v.Count = Field(1500, ge=68, le=65535, description="largest packet, bytes", examples=[1500])
    probe: v.Addresses = Field((), description="the fabric's own address here, from which readiness is probed; "
                               "default: the last usable one of each range", examples=["10.0.1.254"])

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        return {"cidr6" if ":" in value else "cidr": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_range(self) -> LinkSpec:
        if not self.cidr and not self.cidr6:
            raise v.fault("the link has no address range", "add `cidr: 10.0.1.0/24`, `cidr6: fd00:1::/64` or both")
        if self.cidr6 and self.mtu < 1280:
            raise v.fault(f"an mtu of {self.mtu} is too small for IPv6", "write 1280 or more, or leave cidr6 out",
                          "RFC 8200 asks for 1280 bytes at least")
        return self


class PortSpec(Strict):
    """Where a function meets a link. Left empty, all is given automatically."""

    short = (_TEXT, _NULL, {"type": "array", "items": _TEXT})

    addresses: v.Addresses = Field((), description="fixed addresses, also written `address`; default: the lowest free",
                                   examples=["10.0.1.2"])
    mac: Annotated[v.Mac, Field(description="fixed MAC address", examples=["02:00:00:00:00:01"])] = ""
    interface: Annotated[v.Interface, Field(description="its name inside the function; default: eth0, eth1, …",
                                            examples=["eth0"])] = ""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        if value is None or isinstance(value, (str, list)):
            return {"addresses": value}
        if isinstance(value, dict) and "address" in value:
            if "addresses" in value:
                raise v.fault("`address` and `addresses` are the same key", "keep one of the two")
            return {"addresses" if key == "address" else key: item for key, item in value.items()}
        return value


class FileSpec(Strict):
    """A file laid into the function before its command runs."""

    short = (_TEXT,)

    source: str = Field("", description="a file, relative to the descriptor", examples=["./nftables.conf"])
    content: str | None = Field(None, description="the text of the file itself", examples=["hello"])
    mode: Annotated[int | None, BeforeValidator(v.mode)] = Field(
        None, description="permissions, in octal; default: those of the source, or 0644", examples=["0644"],
        json_schema_extra={"type": ["string", "integer"]})

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        if not isinstance(value, str):
            return value
        if not value.startswith(("./", "../", "/")):
            raise v.fault("it is not clear whether this is a file's name or its text",
                          "write `./name` for a file, or `{content: …}` for the text itself")
        return {"source": value}

    @model_validator(mode="after")
    def _one(self) -> FileSpec:
        if bool(self.source) == (self.content is not None):
            raise v.fault("a file takes either `source` or `content`", "keep one of the two")
        return self


class VolumeUse(Strict):
    """A volume of the service, mounted in a function."""

    short = ({"type": "string", "pattern": "^[^:]+:/[^:]+(:r[ow])?$"},)

    volume: str = Field(description="name of the volume", examples=["data"])
    path: v.InnerPath = Field(description="where it is mounted", examples=["/var/lib/web"])
    read_only: bool = Field(False, description="mount it read-only", examples=[True])

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        if not isinstance(value, str):
            return value
        parts = value.split(":")
        if len(parts) not in (2, 3) or parts[2:] not in ([], ["ro"], ["rw"]):
            raise v.fault(f"`{value}` is not a volume and a path",
                          "write `data:/var/lib/web`, or `data:/var/lib/web:ro`")
        return {"volume": parts[0], "path": parts[1], "read_only": parts[2:] == ["ro"]}


class RouteSpec(Strict):
    """A static route inside the function."""

    via: v.Address = Field(description="the next hop, an address on one of the function's links", examples=["10.0.1.1"])
    to: str = Field(description="a network, or `default`", examples=["default"])

    @field_validator("to")
    @classmethod
    def _target(cls, to: str, info: ValidationInfo) -> str:
        return v.route_target(to, info.data.get("via", ""))


class HttpSpec(Strict):
    """A GET request that must be answered well."""

    short = (_TEXT, {"type": "integer"})

    port: v.Count = Field(80, ge=1, le=65535, description="TCP port", examples=[80])
    path: str = Field("/", pattern="^/[!-~]*$", description="path and query of the request", examples=["/healthz"])
    status: v.Count | None = Field(None, ge=100, le=599, description="the status it must have; default: 200 to 399",
                                   examples=[200])

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"port": value}
        return {"path": value} if isinstance(value, str) else value


class ReadySpec(Strict):
    """How it is seen that the function serves. One of tcp, http, exec."""

    tcp: v.Count | None = Field(None, ge=1, le=65535, description="a TCP port that accepts connections", examples=[80])
    http: HttpSpec | None = Field(None, description="a request, or its path on port 80", examples=["/healthz"])
    exec: v.Argv | None = Field(None, description="a command inside that ends with status 0",
                                examples=["[nft, list, ruleset]"])
    interval_s: v.Seconds = Field(1.0, alias="interval", description="time between two tries", examples=["1s"])
    deadline_s: v.Seconds = Field(30.0, alias="deadline", description="after this long the function has failed",
                                  examples=["30s"])

    @model_validator(mode="after")
    def _one(self) -> ReadySpec:
        given = [name for name in ("tcp", "http", "exec") if getattr(self, name) is not None]
        if len(given) != 1:
            raise v.fault(f"`ready` takes one of tcp, http and exec, not {' and '.join(given) or 'none of them'}",
                          "write for example `ready: {tcp: 80}`")
        return self


class NeedsSpec(Strict):
    """What the function needs of its surroundings; `form: auto` heeds it."""

    own_kernel: bool = Field(False, description="a kernel of its own", examples=[True])
    modules: v.Names = Field((), description="kernel modules", examples=["[wireguard]"])
    devices: tuple[v.Device, ...] = Field((), description="device nodes", examples=["[/dev/net/tun]"])


class VolumeSpec(Strict):
    """Storage that outlives the instances that use it."""

    short = (_NULL,)

    size_bytes: v.Bytes = Field(64 << 20, alias="size", description="its size", examples=["64Mi"])
    keep: bool = Field(False, description="keep it when the service goes down", examples=[True])

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """Return the mapping for which a shorthand stands."""
        return {} if value is None else value
