# What is done inside a guest for one container: functions, followed by calls to them. id, base and state are set.
# A process costs some 5 ms under emulation, so the shell does by itself whatever it can.

disk=/run/isoform/disk/in/$id
group=/sys/fs/cgroup/$id

fail() {
    echo "$*" >&2
    echo "isoform: $id failed"
    exit 1
}

remove() { # all that there is of the container, half-made or not
    local turn=0
    if [ -d "$group" ]; then
        echo 1 >"$group/cgroup.kill"
        until rmdir "$group" 2>/dev/null; do
            turn=$((turn + 1))
            [ $turn -lt 200 ] || fail "its processes do not end"
            sleep 0.02
        done
    fi
    [ -d "$base" ] || [ -d "$disk" ] || return 0
    while umount -l "$base/rootfs" 2>/dev/null; do :; done
    rm -rf "$base" "$disk" "$state/$id"
}

overlay() { # LOWER:LOWER…, highest first
    mkdir -p "$base/rootfs" "$base/exits" "$base/s" "$disk/work" "$state"
    mount -t overlay -o "lowerdir=$1,upperdir=$disk/upper,workdir=$disk/work" overlay "$base/rootfs" ||
        fail "the layers cannot be joined"
}

files() { # unpack stdin inside the root, where its symbolic links mean what they should
    local code
    [ -d "$base/rootfs/dev" ] || mkdir "$base/rootfs/dev"
    mount -o bind /bin "$base/rootfs/dev" || fail "there is no way into its root"
    chroot "$base/rootfs" /dev/busybox tar xf - -C /
    code=$?
    umount "$base/rootfs/dev"
    [ $code = 0 ] || fail "its files cannot be written"
}

supervise() { # CONMON ARGUMENT…: create the container; leaves its PID in $pid
    local said
    mkfifo "$base/sync"
    exec 8<>"$base/sync"
    (
        cd "$base" || exit
        _OCI_SYNCPIPE=9 "$@" 9>&8 8>&- </dev/null >/dev/null 2>&1
    )
    read -t 60 -r said <&8 || fail "the OCI runtime did not answer"
    exec 8>&-
    pid=${said#*: } # {"pid": 136}; the runtime's own words where it is -1
    pid=${pid%%[!0-9]*}
    [ -n "$pid" ] || fail "$said"
}

renames=

give() { # MAC NAME SPARE: move the NIC into the container's network namespace
    local at mac=
    for at in /sys/class/net/*; do
        read -r mac <"$at/address"
        [ "$mac" != "$1" ] || break
    done
    [ "$mac" = "$1" ] || fail "no NIC has the address $1"
    at=${at##*/}
    if [ "$at" != "$2" ]; then # by a spare name: another NIC may still have the one that it gets in the end
        ip link set "$at" name "$3" || fail "NIC $1 cannot be renamed"
        at=$3
        renames="$renames ip link set $at name $2;"
    fi
    ip link set "$at" netns "$pid" || fail "NIC $1 cannot be moved"
}

configure() { # SCRIPT: run it in the container's network namespace
    nsenter -t "$pid" -n /bin/sh -c "set -e;$renames
$1" || fail "its network cannot be set"
}
