"""What the kernel's network can do: each thing tried in a throw-away network namespace."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path
from typing import Any

from isoform.errors import IsoformError
from isoform.host import netns
from isoform.host.home import Home

# Without these there is no fabric at all; the others serve what a descriptor may ask for.
NEEDED = ("overlay", "bridge", "veth", "tun")
# Without these, chains, slices and probes of traffic are the poorer; what is in neither list is told for completeness.
WISHED = ("htb", "ifb", "clsact", "nft-inet", "nft-bridge", "nft-netdev", "nft-egress", "nft-nat", "nft-ct", "nft-hash")
LINKS: dict[str, dict[str, Any]] = {
    "bridge": {}, "bridge-vlan": {"kind": "bridge", "br_vlan_filtering": 1}, "dummy": {}, "ifb": {},
    "macvlan": {"link": "a"}, "macvtap": {"link": "a"}, "ipvlan": {"link": "a"}, "vlan": {"link": "a", "vlan_id": 5},
    "vxlan": {"vxlan_id": 5}, "geneve": {"geneve_id": 5, "geneve_remote": "127.0.0.1"}, "vrf": {"vrf_table": 5},
    "wireguard": {},
}
QDISCS = ("htb", "tbf", "netem", "fq_codel", "prio", "pfifo", "clsact", "ingress")
FILTERS = ("u32", "flower", "matchall", "bpf")
TABLES = {  # DEVICE is an interface's name
    "nft-inet": "add table inet t\nadd chain inet t c { type filter hook forward priority 0; }",
    "nft-bridge": "add table bridge t\nadd chain bridge t c { type filter hook forward priority 0; }",
    "nft-netdev": "add table netdev t\nadd chain netdev t c { type filter hook ingress device DEVICE priority 0; }\n"
                  "add rule netdev t c ether type ip fwd to DEVICE\nadd rule netdev t c dup to DEVICE",
    "nft-egress": "add table netdev e\nadd chain netdev e c { type filter hook egress device DEVICE priority 0; }",
    "nft-nat": "add table inet n\nadd chain inet n c { type nat hook postrouting priority 100; }\n"
               "add rule inet n c masquerade",
    "nft-ct": "add table inet s\nadd chain inet s c\nadd rule inet s c ct state established ct mark set 1 accept",
    "nft-hash": "add table inet h\nadd chain inet h c\nadd rule inet h c meta mark set jhash ip saddr mod 2\n"
                "add rule inet h c meta mark set numgen inc mod 2",
    "nft-flowtable": "add table inet f\nadd flowtable inet f f { hook ingress priority 0; devices = { DEVICE }; }",
}
_CLSACT_PARENT, _CLSACT_HANDLE, _EGRESS, _ROOT = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF3, 0xFFFFFFFF  # linux/pkt_sched.h
_ETH_P_ALL = 3
_NFT_DEADLINE_S = 10.0


def features(home: Home, nft: str) -> dict[str, bool]:
    """Return what works of links, queueing, filters and nftables (`nft` is its path, or "").

    Blocks for some 0.3 s: call it in a thread. It loads the kernel's modules as their use would.
    """
    found = dict.fromkeys((*LINKS, *QDISCS, *FILTERS, *TABLES, "veth", "tun"), False)
    name = home.netns("probe")
    try:
        netns.create(name)
    except IsoformError:  # no network namespaces (or not root): nothing of it can be had
        return found
    try:
        with netns.entered(name):
            found["tun"] = _tun()
            found.update(_netlink())
            found.update(_tables(nft, "a" if found["veth"] else "lo"))
    finally:
        netns.delete(name)
    return found


def _tun() -> bool:
    import fcntl

    with contextlib.suppress(OSError):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:  # TUNSETIFF with IFF_TAP | IFF_NO_PI, linux/if_tun.h
            fcntl.ioctl(fd, 0x400454CA, b"t".ljust(16, b"\0") + (0x1002).to_bytes(2, "little") + bytes(22))
            return True
        finally:
            os.close(fd)
    return False


def _netlink() -> dict[str, bool]:
    from pyroute2 import IPRoute, NetlinkError

    def works(action: Any, *words: Any, known: tuple[int, ...] = (), **options: Any) -> bool:
        try:
            action(*words, **options)
        except NetlinkError as error:
            return error.code in known
        return True

    found: dict[str, bool] = {}
    with IPRoute() as ip:
        found["veth"] = works(ip.link, "add", ifname="a", kind="veth", peer="b")
        device = next(iter(ip.link_lookup(ifname="a" if found["veth"] else "lo")))
        for number, (name, options) in enumerate(LINKS.items()):
            over = {"link": device} if "link" in options else {}
            found[name] = works(ip.link, "add", **{"ifname": f"l{number}", "kind": name, **options, **over})
            if found[name]:  # at once: an interface holds one of macvlan and ipvlan at a time
                ip.link("del", ifname=f"l{number}")
        for name in QDISCS:
            ours = name in ("clsact", "ingress")
            options = {"rate": 100_000, "burst": 10_000, "latency": 10_000} if name == "tbf" else {}
            found[name] = works(ip.tc, "add", name, device, **(options if ours else {**options, "handle": "1:"}))
            if found[name]:
                ip.tc("del", index=device, **({"parent": _CLSACT_PARENT, "handle": _CLSACT_HANDLE} if ours
                                              else {"parent": _ROOT, "handle": 0x10000}))
        if found["clsact"]:
            ip.tc("add", "clsact", device)
            for number, name in enumerate(FILTERS):
                # a filter without options is refused as invalid by a kernel that has it: that is answer enough
                options = {"target": 0x10000, "keys": ["0x0/0x0+0"]} if name == "u32" else {}
                found[name] = works(ip.tc, "add-filter", name, device, parent=_EGRESS, protocol=_ETH_P_ALL,
                                    prio=number + 1, known=(errno.EINVAL,), **options)
    return found


def _tables(nft: str, device: str) -> dict[str, bool]:
    if not nft:
        return dict.fromkeys(TABLES, False)
    if _accepted(nft, "\n".join(TABLES.values()), device):  # one command where the kernel has it all
        return dict.fromkeys(TABLES, True)
    return {name: _accepted(nft, text, device) for name, text in TABLES.items()}


def _accepted(nft: str, text: str, device: str) -> bool:
    try:
        return subprocess.run([nft, "--check", "--file", "-"], input=text.replace("DEVICE", device).encode(),
                              capture_output=True, timeout=_NFT_DEADLINE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def more(root: Path = Path("/")) -> dict[str, bool]:
    """Return what is seen without a trial: vhost-net, vhost-vsock, KSM, PSI, IPv6."""
    return {
        "vhost-net": (root / "dev/vhost-net").exists(),
        "vhost-vsock": (root / "dev/vhost-vsock").exists(),
        "ksm": (root / "sys/kernel/mm/ksm/run").exists(),
        "psi": (root / "proc/pressure/memory").exists(),
        "ipv6": (root / "proc/sys/net/ipv6").exists(),
    }
