#!/bin/busybox sh
# The kernel calls this when something needs a module that is not loaded.
/sbin/tools
exec /bin/busybox modprobe "$@"
