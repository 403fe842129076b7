import time

import pytest

from isoform.host import kvm, probe, tsc
from isoform.images.guest import Guest
from tests.images import ARCHITECTURE, shared

pytestmark = [pytest.mark.root, pytest.mark.guest]


@pytest.fixture
async def guest():
    return await Guest(shared(), ARCHITECTURE).ensure()


@pytest.fixture
async def qemu(home):
    return (await probe.facts(home)).qemu


def command(qemu, guest, home):
    # under emulation: what is tried here is the watching, and that works whatever this machine's KVM does
    argv = kvm.argv(qemu, guest.kernel, guest.initrd, f"tsc_early_khz={tsc.measure()}", "tcg")
    return [*argv, "-name", f"{home.path}/trial"]


async def test_a_guest_that_boots_is_seen_and_ended(home, guest, qemu):
    found = await kvm.boots(home, command(qemu, guest, home), kvm.MARKER, 60)
    assert found.usable and found.why.startswith("a trial guest booted in "), found
    assert not list(home.path.glob("kvm-trial*"))


async def test_a_guest_that_says_nothing_in_time_is_given_up_and_ended(home, guest, qemu):
    found = await kvm.boots(home, command(qemu, guest, home), "what no guest prints", 1)
    assert found == kvm.Acceleration(False, "a trial guest did not boot within 1 s")


async def test_qemu_that_cannot_start_says_why(home, guest, qemu):
    found = await kvm.boots(home, [*command(qemu, guest, home), "-kernel", "/absent"], kvm.MARKER, 20)
    assert not found.usable
    assert "QEMU ended before a trial guest had booted: " in found.why and "/absent" in found.why


async def test_the_verdict_on_this_machine_is_reached_in_time_and_kept(home, guest, qemu):
    began = time.monotonic()
    found = await kvm.kvm_works(home, qemu, guest.kernel, guest.initrd, "")
    assert time.monotonic() - began < kvm.DEADLINE_S + 4
    assert found.usable == ("booted in" in found.why)
    assert kvm.verdict(home) == found
    began = time.monotonic()
    assert await kvm.kvm_works(home, qemu, guest.kernel, guest.initrd, "") == found
    assert time.monotonic() - began < 0.5
