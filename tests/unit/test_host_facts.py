import json
from dataclasses import replace

import pytest

from isoform.host import cgroup, doctor, probe, trial
from isoform.host.facts import Facts, Runtime, RuntimeTrial, dump, fastest, load
from isoform.host.features import NEEDED, WISHED
from isoform.host.kvm import Acceleration
from isoform.model import Lack

CRUN = RuntimeTrial("crun", "/usr/bin/crun", "1.8.1", ("unshare", "-m"), True, 0.02)
RUNC = RuntimeTrial("runc", "/usr/sbin/runc", "1.1.5", (), True, 0.03)
RUNSC = RuntimeTrial("runsc", "/usr/bin/runsc", "1", (), False, 0.0, "cannot ptrace")
FACTS = Facts(
    kernel="6.1.0", architecture="amd64", cpus=2, memory_bytes=2**31, cgroup="v2",
    controllers=("cpu", "memory", "pids"),
    runtime=Runtime("crun", "/usr/bin/crun", "1.8.1", ("unshare", "-m")), runtimes=(CRUN, RUNC),
    qemu="/usr/bin/qemu-system-x86_64", qemu_version="7.2.22", erofs="loop",
    tools=dict.fromkeys(("conmon", "mkfs.erofs", "skopeo", "mmdebstrap"), "/usr/bin/it"),
    features=dict.fromkeys((*NEEDED, *WISHED), True),
)
NO_KVM = Acceleration(False, "a trial guest did not boot within 8 s")


def table(facts=FACTS, lacks=None, acceleration=None):
    return {row.subject: row for row in doctor.rows(facts, lacks or {}, acceleration)}


def test_facts_survive_json():
    for facts in (FACTS, replace(FACTS, runtime=None, runtimes=())):
        assert load(json.loads(json.dumps(dump(facts)))) == facts


def test_facts_of_an_older_isoform_are_refused():
    with pytest.raises((KeyError, TypeError)):
        load({**dump(FACTS), "unknown": 1})


def test_the_fastest_that_works_is_taken():
    assert fastest((RUNC, CRUN, RUNSC)) == FACTS.runtime
    assert fastest((RUNSC,)) is None
    assert fastest(()) is None


def test_success_is_kept_and_failure_is_tried_again():
    assert probe.keep_s(FACTS) is None
    for failed in ({"runtime": None}, {"erofs": ""}, {"cgroup": ""}, {"features": {"overlay": False}}):
        assert probe.keep_s(replace(FACTS, **failed)) == 60
    assert probe.keep_s(replace(FACTS, runtimes=(CRUN, RUNSC))) == 3600


def test_architectures_have_their_debian_names():
    assert [probe.architecture(m) for m in ("x86_64", "aarch64", "riscv64")] == ["amd64", "arm64", "riscv64"]


def test_tools_are_found_without_sbin_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    tools = probe.find_tools("x86_64")
    assert tools["mkfs.ext4"].endswith("/mkfs.ext4")
    assert set(probe.TOOLS) | {"qemu-system-x86_64"} == set(tools)


def test_crun_gets_a_second_way_only_where_both_cgroup_versions_are():
    hybrid = cgroup.Layout("hybrid", (("cpu", "/c"),), "/sys/fs/cgroup/unified", (), ())
    assert [way[:1] for way in trial.prefixes("crun", hybrid)] == [(), ("unshare",)]
    assert "umount -l /sys/fs/cgroup/unified" in trial.prefixes("crun", hybrid)[1][-2]
    assert trial.prefixes("runc", hybrid) == [()]
    assert trial.prefixes("crun", replace(hybrid, mode="v2")) == [()]


def test_a_trial_container_shows_only_real_folders_of_the_host(tmp_path):
    for name in ("usr", "lib64"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    config = trial.bundle_config("rootfs", "/mark/probe/crun", tmp_path)
    assert [m["destination"] for m in config["mounts"] if m["type"] == "bind"] == ["/usr", "/lib64"]
    assert config["linux"]["cgroupsPath"] == "/mark/probe/crun"


@pytest.mark.parametrize(("text", "version"), [
    ("crun version 1.8.1\ncommit: f8a09", "1.8.1"),
    ("runc version 1.1.5+ds1\n", "1.1.5+ds1"),
    ("QEMU emulator version 7.2.22 (Debian 1:7.2)", "7.2.22"),
    ("", ""),
])
def test_versions_are_found_in_what_tools_say(text, version):
    assert trial.first_version(text) == version


def test_a_good_host_is_all_yes():
    rows = table(lacks={"container": []}, acceleration=Acceleration(True, "a trial guest booted in 0.6 s"))
    assert {row.verdict for row in rows.values()} == {"yes"}
    assert rows["runtime crun"].detail == "1.8.1, a container in 20 ms (used)"
    assert not any(row.fix for row in rows.values())


def test_missing_tools_are_installed_by_one_command():
    rows = table(replace(FACTS, tools={}, qemu="", runtime=None, runtimes=(), erofs=""))
    assert rows["OCI runtime"].fix == "sudo apt-get install -y crun"
    assert rows["QEMU"].fix == "sudo apt-get install -y qemu-system-x86"
    assert rows["EROFS images"].fix == "sudo apt-get install -y erofs-utils"
    assert {rows[name].verdict for name in ("OCI runtime", "QEMU", "EROFS images", "conmon", "skopeo")} == {"no"}
    assert "KVM" not in rows


def test_a_broken_runtime_matters_only_where_it_is_the_last():
    assert table(replace(FACTS, runtimes=(CRUN, RUNSC)))["runtime runsc"].verdict == "degraded"
    row = table(replace(FACTS, runtime=None, runtimes=(RUNSC,)))["runtime runsc"]
    assert (row.verdict, row.fix) == ("no", "sudo apt-get install -y crun")
    assert "cannot ptrace" in row.detail
    crun, runc = replace(CRUN, works=False), replace(RUNC, works=False)
    rows = table(replace(FACTS, runtime=None, runtimes=(crun,)))
    assert rows["runtime crun"].fix == "sudo apt-get install -y runc"
    rows = table(replace(FACTS, runtime=None, runtimes=(crun, runc)))
    assert [rows[f"runtime {name}"].fix for name in ("crun", "runc")] == ["", ""]  # both are there: nothing to install


def test_missing_controllers_and_features_are_named():
    rows = table(replace(FACTS, controllers=("cpu", "pids"), features={**FACTS.features, "tun": False, "htb": False}))
    assert rows["cgroups"].verdict == "no" and "missing: memory" in rows["cgroups"].detail
    assert rows["fabric"].verdict == "no" and rows["fabric"].fix == "sudo modprobe -a tun"
    assert rows["fabric, more"].verdict == "degraded" and "without: htb" in rows["fabric, more"].detail
    rows = table(replace(FACTS, features={**FACTS.features, "wireguard": False}))
    assert rows["fabric, more"].verdict == "yes" and "without: wireguard" in rows["fabric, more"].detail


def test_acceleration_is_told_as_it_was_found():
    assert table()["KVM"].detail.startswith("not tried yet")
    assert "did not boot within 8 s" in table(acceleration=NO_KVM)["KVM"].detail
    rows = table(lacks={"vm": [], "container": []}, acceleration=NO_KVM)
    assert (rows["form vm"].verdict, rows["form container"].verdict) == ("degraded", "yes")


def test_a_form_that_lacks_things_gets_one_command_for_all():
    rows = table(lacks={"vm": [Lack("no QEMU", "not on PATH", "sudo apt-get install -y qemu-system-x86"),
                               Lack("no ssh", fix="sudo apt-get install -y openssh-client"),
                               Lack("no tun", fix="sudo modprobe tun")]})
    assert rows["form vm"].verdict == "no"
    assert rows["form vm"].detail == "no QEMU (not on PATH); no ssh; no tun"
    assert rows["form vm"].fix == "sudo apt-get install -y openssh-client qemu-system-x86 && sudo modprobe tun"
