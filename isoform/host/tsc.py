"""The rate of this host's time stamp counter, which guests without hardware acceleration cannot measure well."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable

from isoform.host import cache
from isoform.host.home import Home

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
_SPAN_S = 0.02  # reads are some 0.3 us apart, so this is good to some 20 parts in a million
_SECTION = "tsc"


async def tsc_khz(home: Home) -> int | None:
    """Return the counter's rate in kHz, measured once a boot; None where this host has no such counter.

    It is what `tsc_early_khz=` tells a guest under QEMU's TCG, whose counter is the host's plus an offset.
    Source: QEMU, target/i386 cpu_get_tsc and softmmu/cpu-timers.c cpu_get_ticks.
    """
    key = cache.stamp(())
    kept = cache.read(home, _SECTION, key)
    if kept is None:
        kept = {"khz": measure()}
        async with cache.lock(home):
            cache.write(home, _SECTION, key, kept)
    return int(kept["khz"]) if kept["khz"] else None


def measure(span_s: float = _SPAN_S) -> int | None:
    """Return the counter's rate in kHz, measured against CLOCK_MONOTONIC_RAW over `span_s` seconds (it blocks).

    None where the machine is no x86-64 or may not make code at run time.
    """
    if os.uname().machine != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # forbidden, by SELinux for example
        return None
    page.write(_RDTSC)
    code = ctypes.c_char.from_buffer(page)
    try:
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
        first = _reading(read)
        time.sleep(span_s)
        second = _reading(read)
    finally:
        del code  # the page cannot be unmapped while it is looked into
        page.close()
    return rate_khz(second[0] - first[0], second[1] - first[1])


def rate_khz(ticks: int, nanoseconds: int) -> int | None:
    """Return the rate in kHz, or None where it cannot be that of a TSC (a counter that stands still, or is faked)."""
    khz = round(ticks * 1_000_000 / nanoseconds) if nanoseconds > 0 else 0
    return khz if 100_000 <= khz <= 20_000_000 else None  # 0.1 to 20 GHz


def _reading(read: Callable[[], int]) -> tuple[int, int]:
    """Return (ticks, nanoseconds) of one instant: of a few tries, the one that was disturbed least."""
    tries = []
    for _ in range(5):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        tries.append((after - before, ticks, (before + after) // 2))
    return min(tries)[1:]
