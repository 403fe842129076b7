#!/bin/busybox sh
# PID 1 of an isoform guest: makes the function's root from its layers, sets its network, runs its command and tells
# the host how it ended. What to do is a script of calls to the functions below, laid over this initramfs.
# A process costs some 5 ms under emulation, so the shell does by itself whatever it can: no $(…), no pipes.

base=/run/isoform
root=/fn
lower=
volumes=
unnamed=0

over() { # CODE REASON: by way of the kernel's log, where lines stay whole whoever else prints
    echo "<0>isoform: end $1 $2" >/dev/kmsg
    reboot -f
}

die() { # WHY: the instance ends here, and the host shows WHY
    over 125 "$*"
}

# --- what this machine has ------------------------------------------------------------------------------------------

find_disks() { # -> disk_SERIAL=/dev/vdX
    local at serial
    for at in /sys/block/vd*; do
        read -r serial <"$at/serial"
        eval "disk_$serial=/dev/${at##*/}"
    done
}

port() { # NAME -> port=/dev/vportNpM; the kernel learns of its ports in its own time
    local at name
    while :; do
        for at in /sys/class/virtio-ports/*; do
            [ ! -e "$at/name" ] || read -r name <"$at/name"
            if [ "$name" = "isoform.$1" ]; then
                port=/dev/${at##*/}
                return
            fi
        done
        usleep 2000
    done
}

# --- the function's root --------------------------------------------------------------------------------------------

table() { # DEVICE PLACE TYPE OPTIONS: to be mounted by the next `mount_all`, one process for them all
    echo "$1 $2 $3 $4 0 0" >>$base/fstab
}

mount_all() {
    local why
    mount -a -T $base/fstab 2>$base/why || {
        read -r why <$base/why
        die "$why"
    }
    echo -n >$base/fstab
}

disk() { # the instance's own writable disk
    table "$disk_disk" $base/disk ext4 noatime
}

layer() { # SERIAL, highest layer first
    eval "table \"\$disk_$1\" $base/layers/$1 erofs ro"
    lower=$lower:$base/layers/$1
}

overlay() {
    local at
    table overlay $root overlay "lowerdir=${lower#:},upperdir=$base/disk/upper,workdir=$base/disk/work"
    mount_all
    for at in proc sys dev etc tmp; do
        [ -d $root/$at ] || mkdir -p $root/$at
    done
    table proc $root/proc proc defaults
    table sys $root/sys sysfs defaults
    table /dev $root/dev none rbind
    mount_all
}

volume() { # SERIAL PATH OPTIONS
    eval "local device=\$disk_$1"
    [ -d "$2" ] || mkdir -p "$2"
    mount -t ext4 -o "noatime,noinit_itable,$3" "$device" "$2" 2>$base/why || die "volume at ${2#$root} cannot be mounted"
    volumes="$1 $volumes"
}

text() { # PATH TEXT: a small file of our own making
    [ ! -L "$root$1" ] || rm -f "$root$1"
    echo -n "$2" >"$root$1"
}

files() { # unpacked inside the root, where its symbolic links mean what they should
    chroot $root /dev/.isoform/busybox tar xf - <$base/files.tar || die "its files cannot be written"
}

# --- the network ----------------------------------------------------------------------------------------------------

interface() { # MAC NAME: give the NIC its name
    local at mac
    for at in /sys/class/net/*; do
        read -r mac <"$at/address"
        [ "$mac" != "$1" ] || break
    done
    [ "$mac" = "$1" ] || die "no NIC has the address $1"
    [ "${at##*/}" != "$2" ] || return 0
    if [ -e "/sys/class/net/$2" ]; then # held by another of ours, which gets its own name in its turn
        unnamed=$((unnamed + 1))
        ip link set "$2" name "isoform$unnamed"
    fi
    ip link set "${at##*/}" name "$2" || die "interface $2 cannot be named"
}

address() { # NAME ADDRESS/LENGTH
    ip addr add "$2" dev "$1" || die "$1 cannot have the address $2"
}

up() { # NAME MTU: announce the addresses, so that no neighbour waits for its next ARP request
    echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_dad" # the fabric gives each address once
    ip link set "$1" mtu "$2" up || die "$1 cannot be set up"
}

route() { # 4|6 TO VIA
    ip "-$1" route add "$2" via "$3" || die "no route to $2 via $3 can be set"
}

setting() { # FILE VALUE
    echo "$2" >"/proc/sys/$1" || die "sysctl $1 cannot be $2"
}

# --- its life -------------------------------------------------------------------------------------------------------

launch() { # UID GID GROUPS SCRIPT: run SCRIPT inside the root as that user, in a session of its own
    port main
    exec 3<>"$port" # the log goes out by it, requests come in
    cat <$base/out >&3 & # a pipe, not the port: /dev/stdout must open a second time
    printer=$!
    [ "$1" = 0 ] || chown "$1" $base/out
    (
        exec <>/dev/null >$base/out 2>&1 3>&-
        [ "$1:$2:$3" != 0:0: ] || exec setsid chroot $root /dev/.isoform/busybox sh -c "$4"
        /sbin/tools
        exec setsid /usr/sbin/chroot --userspec="+$1:+$2" --groups="$3" $root /dev/.isoform/busybox sh -c "$4"
    ) &
    main=$!
}

agent() {
    [ -z "$agent_started" ] || return 0
    agent_started=1
    /sbin/tools
    port agent
    /usr/sbin/qemu-ga -m virtio-serial -p "$port" -t $base >/dev/null 2>&1 3>&- &
}

session() { # NUMBER NONCE: join that port to the ssh server; who was on it before has lost its host
    eval "local before=\$session_$1"
    port "exec.$1"
    if [ -z "$ssh" ]; then # it takes sockets alone, and no port in sight of the function: so a network of its own
        /sbin/tools
        unshare -n sh -c 'ip link set lo up; exec /usr/sbin/dropbear -F -s -r /usr/lib/isoform/hostkey -p 127.0.0.1:22' 3>&- &
        ssh=$!
    fi
    [ -z "$before" ] || kill -9 "-$before" 2>/dev/null # with all of its group
    setsid /sbin/session "$port" "$2" "$ssh" 3>&- &
    eval "session_$1=\$!"
}

control() { # what the host asks while the instance runs
    local verb first second
    echo -1000 >/proc/self/oom_score_adj
    while read -r verb first second; do
        case $verb in
        stop) [ -n "$main" ] || return 0; kill "-$first" "$main" ;;
        agent) agent ;;
        run) (. "$first") >&3 2>&1 3>&- & ;;
        session) session "$first" "$second" ;;
        esac
    done <&3
}

finish() { # CODE
    local name count reason= volume
    while read -r name count; do
        [ "$name" != oom_kill ] || break
    done </proc/vmstat
    [ "$count" = 0 ] || [ "$1" != 137 ] || reason="out of memory"
    if [ -n "$volumes" ]; then
        kill -9 -1
        for volume in $volumes; do
            eval "umount -r \$disk_$volume"
        done
        sync
    fi
    over "$1" "$reason"
}

serve() { # a function: it lives as long as its command
    (control) &
    (
        sleep 2 # the processor is the function's first
        for module in /modules/later/*; do
            insmod "$module"
        done
    ) &
    wait "$main"
    code=$?
    (sleep 0.3; kill "$printer") & # what it left behind may hold the pipe open
    wait "$printer"
    finish "$code"
}

machine() { # PORTS: a bare guest, which lives until it is stopped
    local at name
    /sbin/tools
    mount_all
    for name in $1; do
        port "$name"
        ln -s "../${port##*/}" "/dev/virtio-ports/isoform.$name"
    done
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    read -r name </sys/fs/cgroup/cgroup.controllers
    for at in $name; do
        echo "+$at" >/sys/fs/cgroup/cgroup.subtree_control
    done
    port main
    exec 3<>"$port"
    if [ -f $base/files.tar ]; then # a container, made by what it brings along: sooner than the agent could
        tar xf $base/files.tar -C /
        (. $base/first) >&3 2>&1 3>&-
    else
        agent
    fi
    for module in /modules/later/*; do
        insmod "$module"
    done &
    control
    finish 0
}

mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
mount -t proc proc /proc
read -r line </proc/cmdline
case $line in
*isoform.trial*) # does this machine boot at all?
    echo "isoform: the guest is up"
    reboot -f
    ;;
esac
mount -t sysfs sys /sys
for module in /modules/boot/*; do
    case $module in
    *virtio_blk.ko) insmod "$module" queue_depth=64 ;; # of 1024, of which each takes time and memory at each disk
    *) insmod "$module" ;;
    esac
done
find_disks
cp -a /dev.d/. /dev
table devpts /dev/pts devpts gid=5,mode=620,ptmxmode=666
table shm /dev/shm tmpfs nosuid,nodev
table /bin /dev/.isoform none bind
echo 1 >/proc/sys/net/ipv4/conf/all/arp_notify
echo 1 >/proc/sys/net/ipv6/conf/all/ndisc_notify
ip link set lo up
. $base/config
