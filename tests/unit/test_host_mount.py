from isoform.host import mount

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /home rw - tmpfs tmpfs rw
31 30 0:31 / /home/iso rw shared:1 - overlay overlay rw
32 31 0:32 / /home/iso/a\\040b\\134c rw - overlay overlay rw
33 30 0:33 / /home/isolated rw - tmpfs tmpfs rw
34 31 0:34 / /home/iso rw - tmpfs tmpfs rw
"""


def test_mounts_below_come_last_first_and_a_longer_name_is_another_folder():
    assert mount.below(MOUNTINFO, "/home/iso") == ["/home/iso", "/home/iso/a b\\c", "/home/iso"]


def test_a_trailing_slash_changes_nothing():
    assert mount.below(MOUNTINFO, "/home/iso/") == mount.below(MOUNTINFO, "/home/iso")


def test_nothing_below_a_plain_folder():
    assert mount.below(MOUNTINFO, "/home/iso/a") == []


def test_the_loop_structures_have_the_kernels_sizes():
    assert mount._LOOP_INFO64.size == 232  # struct loop_info64, linux/loop.h
    assert mount._LOOP_CONFIG.size == 304  # struct loop_config
