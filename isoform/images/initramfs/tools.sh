#!/bin/busybox sh
# Mount the disk with the tools, once somebody needs one; /usr, /lib and /lib64 point into it.
[ ! -d /run/isoform/tools/usr ] || exit 0
for at in /sys/block/vd*; do
    read -r serial <"$at/serial"
    if [ "$serial" = tools ]; then
        mount -t erofs -o ro "/dev/${at##*/}" /run/isoform/tools 2>/dev/null
        [ -d /run/isoform/tools/usr ] # EBUSY: another was faster
        exit
    fi
done
exit 1
