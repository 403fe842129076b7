#!/bin/busybox sh
# enter UID GID GROUPS SCRIPT: run SCRIPT inside the function's root as that user.
[ "$1:$2:$3" != 0:0: ] || exec chroot /fn /dev/.isoform/busybox sh -c "$4"
/sbin/tools
exec /usr/sbin/chroot --userspec="+$1:+$2" --groups="$3" /fn /dev/.isoform/busybox sh -c "$4"
