#!/bin/busybox sh
# enter UID GID GROUPS SCRIPT: run SCRIPT inside the function's root as that user, its environment as its arguments.
uid=$1 gid=$2 groups=$3 script=$4
. /run/isoform/env
[ "$uid:$gid:$groups" != 0:0: ] || exec chroot /fn /dev/.isoform/busybox sh -c "$script" sh "$@"
/sbin/tools
exec /usr/sbin/chroot --userspec="+$uid:+$gid" --groups="$groups" /fn /dev/.isoform/busybox sh -c "$script" sh "$@"
