"""The small values of a descriptor: names, sizes, addresses, commands; read from what people like to write."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from isoform.units import parse_bytes, parse_seconds

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SYSCTL = re.compile(r"[a-z0-9_-]+([./][A-Za-z0-9_-]+)+")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_./-]+")

# capabilities(7), Linux 6.x: first those that end at a container's namespaces, then those that reach past them.
_OF_THE_FUNCTION = """
    CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN
    NET_RAW IPC_LOCK IPC_OWNER SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_NICE SYS_RESOURCE SYS_TTY_CONFIG LEASE AUDIT_WRITE
    SETFCAP WAKE_ALARM BLOCK_SUSPEND"""
_OF_THE_HOST = """
    SYS_ADMIN SYS_MODULE SYS_RAWIO SYS_BOOT SYS_TIME SYSLOG DAC_READ_SEARCH MKNOD MAC_ADMIN MAC_OVERRIDE AUDIT_CONTROL
    AUDIT_READ BPF PERFMON CHECKPOINT_RESTORE"""
HOST_CAPABILITIES = frozenset(f"CAP_{name}" for name in _OF_THE_HOST.split())
KNOWN_CAPABILITIES = HOST_CAPABILITIES | frozenset(f"CAP_{name}" for name in _OF_THE_FUNCTION.split())


def fault(what: str, fix: str, why: str = "") -> PydanticCustomError:
    """Return an error that a validator raises; `what` follows the value's path and a colon."""
    return PydanticCustomError("isoform", "{what}", {"what": what, "why": why, "fix": fix})


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise fault(f"`{text}` is not a name",
                    "write 1 to 32 lower-case letters, digits and inner dashes, as in `web-2`")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise fault(f"`{text}` is not the name of a variable", "write letters, digits and `_`, as in `LOG_LEVEL`")
    return text


def _inner_path(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or not text.strip("/"):
        raise fault(f"`{text}` is not a path inside the function",
                    "write an absolute path without `..`, as in `/etc/nftables.conf`")
    return posixpath.normpath("/" + text.lstrip("/"))


def _file_path(text: str) -> str:
    if text.endswith("/"):
        raise fault(f"`{text}` is a folder", "write the path of one file, as in `/etc/nftables.conf`")
    return _inner_path(text)


def shown(value: Any) -> str:
    """Return a value as an error shows it: `128Mb5`, or "a list"."""
    return "a list" if isinstance(value, (list, tuple)) else "a mapping" if isinstance(value, dict) else f"`{value}`"


def _bytes(value: Any) -> int:
    try:
        count = parse_bytes(value)
    except ValueError:
        raise fault(f"{shown(value)} is not a size", "write for example 128Mi, 2Gi or 100M") from None
    if count < 1 << 20:
        raise fault(f"`{value}` is less than 1Mi", f"did you mean {value}Mi?" if str(value).isdigit() and count else
                    "write for example 128Mi", "a number without a suffix counts bytes")
    if count > 1 << 60:
        raise fault(f"`{value}` is more than any host has", "write for example 128Mi, 2Gi or 100M")
    return count


def _seconds(value: Any) -> float:
    try:
        seconds = parse_seconds(value)
    except ValueError:
        raise fault(f"{shown(value)} is not a time", "write for example 500ms, 30s or 2m") from None
    if not 0 < seconds <= 366 * 86400:
        raise fault(f"`{value}` is not above zero, or more than a year", "write for example 500ms, 30s or 2m")
    return seconds


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise fault(f"`{str(value).lower()}` is not a number", "write a number, or leave it out")
    return value


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise fault(f"`{text}` is not a MAC address", "write six pairs of hexadecimal digits, as in 02:00:00:00:00:01")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise fault(f"`{text}` cannot be the MAC address of a port", "take one that begins with 02:",
                    "it is a multicast address: its first byte is odd" if int(mac[:2], 16) & 1 else "it is all zeros")
    return mac


def _interface(text: str) -> str:
    if not re.fullmatch(r"[^\s/:%]{1,15}", text) or text in (".", "..", "lo", "all", "default"):
        raise fault(f"`{text}` is not a name for an interface",
                    "write 1 to 15 characters without spaces, `/` and `:`, as in `eth1`; `lo` is taken")
    return text


def address(text: Any) -> str:
    """Return an IPv4 or IPv6 address in its usual form. Raises: PydanticCustomError."""
    try:
        return str(ipaddress.ip_address(text if isinstance(text, str) else str(text)))
    except ValueError:
        hint = "leave the prefix length out: the link has it" if "/" in str(text) else \
            "write one as in 10.0.1.2 or fd00:1::2"
        raise fault(f"{shown(text)} is not an address", hint) from None


def addresses(value: Any) -> Any:
    """Return one address, "auto" or a list of addresses as a tuple; () is automatic."""
    if value is None or value == "auto":
        return ()
    return tuple(address(item) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _network(text: str, version: int) -> str:
    example = "10.0.1.0/24" if version == 4 else "fd00:1::/64"
    key = "cidr" if version == 4 else "cidr6"
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise fault(f"`{text}` is not an address range", f"write for example {example}") from None
    if network.version != version:
        other = "cidr6" if version == 4 else "cidr"
        raise fault(f"`{text}` is an IPv{network.version} range", f"write it as `{other}`",
                    f"`{key}` takes IPv{version}, as in {example}")
    if "/" not in text:
        raise fault(f"`{text}` has no prefix length", f"write for example {example}")
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise fault(f"`{text}` has bits set in its host part", f"write {network}",
                    "a range begins with its first address")
    if network.is_multicast or network.is_loopback or network.is_link_local or network.prefixlen < 8:
        raise fault(f"`{text}` cannot be the range of a link", f"take a private range, for example {example}",
                    "it is for multicast, loopback or link-local use, or larger than /8")
    return str(network)


def _argv(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise fault(f"`{value}` is not a command", "close the quotes, or write a list: [nc, -l, \"80\"]",
                        str(error).lower()) from None
    if not isinstance(value, list):
        return value
    if value[:1] in ([], [""], [None]):
        raise fault("the command is empty", "leave the key out to run the image's own command")
    return [plain(item) for item in value]


def plain(value: Any) -> Any:
    """Return a number or truth value as text, as YAML would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else "" if value is None else value


def environment(value: Any) -> Any:
    """Return a mapping, or a list of "K=V", as a mapping of texts."""
    if isinstance(value, list):
        pairs: dict[str, Any] = {}
        for item in value:
            name, equals, text = str(item).partition("=")
            if not equals:
                raise fault(f"`{item}` is not a variable and a value", f"write `{name}=value`")
            if name in pairs:
                raise fault(f"the variable `{name}` is there twice", "keep one of the two")
            pairs[name] = text
        return pairs
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _capability(text: str) -> str:
    name = "CAP_" + text.upper().removeprefix("CAP_")
    if name not in KNOWN_CAPABILITIES:
        raise fault(f"`{text}` is not a capability", "write one of capabilities(7), for example `net_admin`")
    return name


def _sysctl(text: str) -> str:
    if not _SYSCTL.fullmatch(text) or ".." in text:
        raise fault(f"`{text}` is not a sysctl", "write its name as in `net.ipv4.ip_forward`")
    return text.replace("/", ".") if "." not in text else text


def _setting(text: str) -> str:
    return {"true": "1", "false": "0"}.get(text.lower(), text)


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text) or ".." in text:
        raise fault(f"`{text}` is not a device", "write its path, for example `/dev/net/tun`")
    return text


def _single(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def mode(value: Any) -> Any:
    """Return the permissions that octal digits stand for, as 0644, "0644" or 0o644 were written."""
    if value is None:
        return None
    digits = str(value).removeprefix("0o")
    if not re.fullmatch("[0-7]{3,4}", digits):
        raise fault(f"`{value}` is not a file mode", "write it in octal, for example 0644 or 0755")
    return int(digits, 8)


def port_list(value: list[Any]) -> Any:
    """Return a list of links as a mapping of ports whose addresses are automatic."""
    if not all(isinstance(item, str) for item in value):
        raise fault("a list of ports holds names of links alone",
                    "write a mapping for addresses, as in `ports: {access: 10.0.1.2}`")
    if len(set(value)) < len(value):
        raise fault("a link is there twice in `ports`", "a function meets a link at one port: keep one")
    return dict.fromkeys(value)


def routes(value: Any) -> Any:
    """Return a mapping of network: next hop as a list of routes."""
    return [{"to": to, "via": via} for to, via in value.items()] if isinstance(value, dict) else value


def route_target(to: str, via: str) -> str:
    """Return "default", "default6" or a network; its family is that of `via`. Raises: PydanticCustomError."""
    version = 6 if ":" in via else 4
    if to in ("default", "default6"):
        if to == "default6" and version == 4:
            raise fault(f"an IPv6 route cannot go via {via}", "give an IPv6 next hop, or write `default`")
        return "default" if version == 4 else "default6"
    try:
        network = ipaddress.ip_network(to, strict=False)
    except ValueError:
        raise fault(f"`{to}` is not a network", "write `default`, or for example 10.9.0.0/16") from None
    if ipaddress.ip_interface(to).ip != network.network_address:
        raise fault(f"`{to}` has bits set in its host part", f"write {network}")
    if via and network.version != version:
        raise fault(f"an IPv{network.version} route cannot go via {via}",
                    f"give an IPv{network.version} next hop")
    if network.prefixlen == 0:
        return "default" if version == 4 else "default6"
    return str(network)


def _schema(*types: str, **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types) if len(types) > 1 else types[0], **more})


_WORDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "number", "boolean"]}}]}
_SCALARS: dict[str, Any] = {"additionalProperties": {"type": ["string", "number", "boolean", "null"]}}

Name = Annotated[str, AfterValidator(_name), _schema("string", pattern=f"^{_NAME.pattern}$")]
Variable = Annotated[str, AfterValidator(_variable)]
InnerPath = Annotated[str, AfterValidator(_inner_path)]
FilePath = Annotated[str, AfterValidator(_file_path)]
Bytes = Annotated[int, BeforeValidator(_bytes), _schema("string", "integer")]
Seconds = Annotated[float, BeforeValidator(_seconds), _schema("string", "number")]
Count = Annotated[int, BeforeValidator(_no_truth)]
Amount = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
Mac = Annotated[str, AfterValidator(_mac)]
Interface = Annotated[str, AfterValidator(_interface)]
Address = Annotated[str, BeforeValidator(address)]
Addresses = Annotated[tuple[str, ...], BeforeValidator(addresses), WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "string"}}]})]
Range4 = Annotated[str, AfterValidator(lambda text: _network(text, 4))]
Range6 = Annotated[str, AfterValidator(lambda text: _network(text, 6))]
Argv = Annotated[tuple[str, ...], BeforeValidator(_argv), WithJsonSchema(_WORDS)]
Environment = Annotated[dict[Variable, str], BeforeValidator(environment), WithJsonSchema(
    {"anyOf": [{"type": "object", **_SCALARS}, {"type": "array", "items": {"type": "string"}}]})]
Sysctls = Annotated[dict[Annotated[str, AfterValidator(_sysctl)], Annotated[str, AfterValidator(_setting)]],
                    BeforeValidator(environment), _schema("object", **_SCALARS)]
Capability = Annotated[str, AfterValidator(_capability)]
Device = Annotated[str, AfterValidator(_device)]
Names = Annotated[tuple[str, ...], BeforeValidator(_single), WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})]
