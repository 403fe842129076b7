"""QEMU beneath the vm form: command line, monitor, agent, console lines, and what the guest is told."""
