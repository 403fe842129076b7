from isoform.host import cgroup

HYBRID = """\
26 25 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
27 26 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
28 26 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
29 26 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
30 26 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
31 26 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V1 = "".join(line for line in HYBRID.splitlines(keepends=True) if "cgroup2" not in line)
V2 = "27 20 0:24 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V2_CONTROLLERS = "cpuset cpu io memory hugetlb pids rdma misc\n"


def test_version_2_alone():
    layout = cgroup.parse(V2, V2_CONTROLLERS)
    assert (layout.mode, layout.v1, layout.roots) == ("v2", (), ("/sys/fs/cgroup",))
    assert layout.folder("memory", "/m/x") == "/sys/fs/cgroup/m/x" == layout.folder("cpu", "/m/x")
    assert layout.is_v2("pids")
    assert layout.controllers == tuple(sorted(V2_CONTROLLERS.split()))


def test_version_1_alone():
    layout = cgroup.parse(V1, "")
    assert layout.mode == "v1"
    assert layout.folder("cpu", "/x") == "/sys/fs/cgroup/cpu,cpuacct/x" == layout.folder("cpuacct", "/x")
    assert layout.folder("io", "/x") is None
    assert layout.controllers == ("cpu", "cpuacct", "memory", "pids")  # name=systemd is no controller
    assert "/sys/fs/cgroup/systemd" in layout.roots  # but a hierarchy in which the runtime makes groups


def test_hybrid_looks_where_each_controller_is():
    layout = cgroup.parse(HYBRID, "hugetlb io")
    assert layout.mode == "hybrid"
    assert layout.folder("memory", "/x") == "/sys/fs/cgroup/memory/x"
    assert layout.folder("io", "/x") == "/sys/fs/cgroup/unified/x"
    assert not layout.is_v2("memory") and layout.is_v2("io")


def test_no_groups_at_all():
    layout = cgroup.parse("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n", "")
    assert (layout.mode, layout.controllers, layout.roots) == ("", (), ())


def test_limits_of_version_2():
    assert cgroup.limits(True, 0.5, 64 << 20, 10) == [
        ("cpu", "cpu.max", "50000 100000", True),
        ("memory", "memory.max", "67108864", True),
        ("memory", "memory.swap.max", "0", False),
        ("pids", "pids.max", "10", True),
    ]
    assert [value for _, _, value, _ in cgroup.limits(True, 0, 0, 0)] == ["max 100000", "max", "max", "max"]


def test_limits_of_version_1_lift_the_sum_with_swap_before_they_raise_memory():
    written = [(file, value) for _, file, value, _ in cgroup.limits(False, 2, 64 << 20, 10)]
    assert ("cpu.cfs_quota_us", "200000") in written
    assert [entry for entry in written if entry[0].startswith("memory.")] == [
        ("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "67108864")]


def test_the_least_cpu_share_is_what_the_kernel_takes():
    assert ("cpu", "cpu.max", "1000 100000", True) in cgroup.limits(True, 0.001, 0, 0)


def test_no_limit_must_be_written_that_was_not_asked_for():
    assert not any(must for version in (True, False) for *_, must in cgroup.limits(version, 0, 0, 0))


def test_a_field_is_found_by_its_whole_name():
    text = "\ncache 1\nrss 2\ntotal_inactive_file 3\ninactive_file 4\n"
    assert cgroup._field(text, "inactive_file") == 4
    assert cgroup._field(text, "total_inactive_file") == 3
    assert cgroup._field(text, "file") == 0
