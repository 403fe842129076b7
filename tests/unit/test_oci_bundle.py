"""From an instance to an OCI configuration, a filter, and the command lines of conmon and the runtime."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from isoform.errors import DescriptorError
from isoform.forms.oci import bundle, capability, commands, guest, seccomp
from isoform.forms.oci.root import overlay_options
from isoform.model import ExecSpec, File, Image, Instance, Layer, Mount, Port, Process, Route, Size, User

LAYERS = tuple(Layer(f"sha256:{number}{'0' * 63}", f"/layers/{number}", 1) for number in (1, 2))
ONE = Instance(
    "edge.web.0", "edge", "web", 0, "container", "web", Image("web", "sha256:0", LAYERS),
    Process(("/bin/server", "-x"), (("PATH", "/bin"), ("A", "b c")), "/srv", User(10, 20, (30,), "www", "/home/www")),
    Size(1.5, 64 << 20), ports=(Port("lan", "eth0", "02:00:00:00:00:01", ("10.0.0.2/24", "fd00::2/64"), 1400),),
    routes=(Route("default", "10.0.0.1"), Route("default6", "fd00::1")),
    mounts=(Mount("data", "/data", "/volumes/data", 1 << 20, read_only=True),),
    sysctls=(("net.ipv4.ip_forward", "1"),), capabilities=("net_admin",),
)
SITE = bundle.Site("/i/rootfs", "/run/netns/x", "/mark/edge.web.0", {"data": "/i/volumes/data"}, tun=True)


def test_the_process_is_the_instance_s() -> None:
    process = bundle.config(ONE, SITE)["process"]
    assert process["args"] == ["/bin/server", "-x"]
    assert process["env"] == ["HOME=/home/www", "PATH=/bin", "A=b c"]
    assert process["user"] == {"uid": 10, "gid": 20, "additionalGids": [30]}
    assert (process["cwd"], process["noNewPrivileges"], process["terminal"]) == ("/srv", True, False)
    assert process["capabilities"]["ambient"] == ["CAP_NET_ADMIN"]  # so that user 10 has it too
    assert set(process["capabilities"]["bounding"]) == {*capability.DEFAULT, "CAP_NET_ADMIN"}


def test_limits_devices_and_namespaces() -> None:
    linux = bundle.config(ONE, SITE)["linux"]
    assert linux["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}
    assert linux["resources"]["memory"] == {"limit": 64 << 20}
    assert linux["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert {"type": "network", "path": "/run/netns/x"} in linux["namespaces"]
    assert [device["path"] for device in linux["devices"]] == ["/dev/net/tun"]
    assert linux["sysctl"]["net.ipv4.ip_forward"] == "1"
    assert bundle.config(ONE, replace(SITE, swap=True))["linux"]["resources"]["memory"]["swap"] == 64 << 20


def test_tunnels_are_for_those_who_may_change_their_network() -> None:
    assert bundle.config(replace(ONE, capabilities=()), SITE)["linux"]["devices"] == []


def test_volumes_are_bound_as_asked() -> None:
    last = bundle.config(ONE, SITE)["mounts"][-1]
    assert (last["destination"], last["source"]) == ("/data", "/i/volumes/data")
    assert "ro" in last["options"] and {"nosuid", "nodev"} <= set(last["options"])


def test_capabilities_that_reach_the_host_are_refused() -> None:
    capability.check_shareable("edge/web", ("CAP_NET_ADMIN", "sys_nice"))
    with pytest.raises(DescriptorError, match="CAP_BPF and CAP_SYS_ADMIN"):
        capability.check_shareable("edge/web", ("SYS_ADMIN", "cap_net_raw", "bpf"))


PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}, "excludes": {}},
        {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}, "excludes": {}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}, "excludes": {}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "EPERM", "includes": {},
         "excludes": {"caps": ["CAP_BPF"]}},
    ],
}


def test_a_profile_s_conditions_are_decided() -> None:
    rules = seccomp.translate(PROFILE, {"CAP_CHOWN"}, "amd64")
    assert rules == {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                     {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW"},
                     {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    names = [rule["names"] for rule in seccomp.translate(PROFILE, {"CAP_BPF"}, "armhf")["syscalls"]]
    assert names == [["read"], ["cacheflush"], ["bpf"]]


def test_overlay_options_put_the_highest_layer_first_and_escape() -> None:
    assert overlay_options(["a", "b:c"], "/u,x", "/w\\") == "lowerdir=b\\:c:a,upperdir=/u\\,x,workdir=/w\\\\"


def test_conmon_s_runtime_is_a_path_and_its_options_follow() -> None:
    runtime = commands.Runtime("crun", "/usr/bin/crun", ("/usr/bin/unshare", "-m"), "/s")
    paths = commands.Supervised("conmon", "/b", "/b/log", "/b/pid", "/b/cpid", "/b/exits", "/s/s")
    argv = commands.conmon_argv(runtime, "edge.web.0", paths, exit_command=("/bin/sh", "over"))
    assert argv[argv.index("-r") + 1] == "/usr/bin/unshare"
    given = [argv[at + 1] for at, word in enumerate(argv) if word == "--runtime-arg"]
    assert given == ["-m", "/usr/bin/crun", "--root", "/s", "--cgroup-manager=cgroupfs"]
    assert argv[argv.index("--exit-command-arg") + 1] == "over"


@pytest.mark.parametrize(("says", "status", "expected"), [
    ("", 0, 0), ("", 7, 7), ("", 255, 255), ("executable file `x` not found in $PATH", 1, 127),
    ("exec: \"/x\": stat /x: no such file or directory", 255, 127), ("permission denied", 255, 126),
    ("chdir `/x`: No such file or directory", 255, 126),
])
def test_what_the_runtime_says_decides_the_status_of_a_command_that_never_ran(
    tmp_path: Any, says: str, status: int, expected: int
) -> None:
    fake = tmp_path / "runtime"
    fake.write_text(f"#!/bin/sh\nwhile [ $1 != --log ]; do shift; done\nprintf '%s' '{says}' >$2\n"
                    f"grep -q '\"args\"' {tmp_path}/one.json || exit 99\nexit {status}\n")
    fake.chmod(0o755)
    runtime = commands.Runtime("runc", str(fake), (), "/s")
    entrypoint = bundle.process(ONE)
    (tmp_path / "common").write_text(commands.common(entrypoint))
    spec = ExecSpec(("x",), env=(("C", "it's"),), cwd="/tmp")
    argv = commands.exec_argv(runtime, "edge.web.0", spec, entrypoint, str(tmp_path / "common"), str(tmp_path / "one"))
    assert subprocess.run(argv, timeout=10).returncode == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["common", "runtime"]  # nothing is left behind


@pytest.mark.parametrize("spec", [
    ExecSpec(("x", 'y "z"'), env=(("C", "it's\n"), ("D", "é")), cwd="/tmp"), ExecSpec(("x",), tty=True)])
def test_a_process_beside_the_entrypoint_has_its_surroundings(tmp_path: Any, spec: ExecSpec) -> None:
    entrypoint = bundle.process(replace(ONE, process=replace(
        ONE.process, env=(("PASSWORD", 'a "b" \\ c\nd'),)))) if ONE.process else {}
    fake, common = tmp_path / "runtime", tmp_path / "common"
    fake.write_text(f"#!/bin/sh\nexec stat -c %a {tmp_path}/one.json\n")
    fake.chmod(0o755)
    common.write_text(commands.common(entrypoint))
    runtime = commands.Runtime("runc", "/bin/cat", (), "/s")
    argv = commands.exec_argv(runtime, "edge.web.0", spec, entrypoint, str(common), str(tmp_path / "one"))
    assert "PASSWORD" not in " ".join(argv)
    shown = subprocess.run([*argv[:argv.index("/bin/cat")], "cat", f"{tmp_path}/one.json"], timeout=10,
                           capture_output=True, check=True).stdout
    assert json.loads(shown) == {
        **entrypoint, "args": list(spec.argv), "cwd": spec.cwd or entrypoint["cwd"], "terminal": spec.tty,
        "env": [*entrypoint["env"], *(f"{name}={value}" for name, value in spec.env)]}
    mode = subprocess.run([*argv[:argv.index("/bin/cat")], str(fake)], timeout=10, capture_output=True, check=True)
    assert mode.stdout == b"600\n"


def test_a_guest_is_told_in_words_that_its_shell_understands() -> None:
    odd = replace(ONE, files=(File("/etc/it's", b"x", 0o600),), sysctls=(("net.ipv4.conf.eth0.x", "0; reboot"),))
    argv, _ = guest.create(odd, 3, {"defaultAction": "SCMP_ACT_ALLOW"}, {})
    files = {file.path.rpartition("/")[2]: file.content.decode(errors="replace")
             for file in guest.first(odd, 3, {}, {"a": "b"})}
    for script in (argv[2], *(files[name] for name in ("create", "start", "first", "over"))):
        subprocess.run(["sh", "-n"], input=script.encode(), check=True, timeout=10)
    assert "supervise /usr/bin/conmon" in files["create"] and "isoform.log.3" in files["create"]
    assert "give 02:00:00:00:00:01 eth0" in files["create"]
    assert "/run/isoform/layers/2000000000000000000" in files["create"].partition(":")[0]  # the highest layer first
    assert json.loads(files["config.json"])["linux"]["namespaces"][-1] == {"type": "network"}
