#!/bin/busybox sh
# session PORT NONCE SERVER: join a port to the ssh server with that PID until either side ends.

listens() { # whether the server does, in its own network: its one socket is in the state 0A then
    local at state rest
    while read -r at at rest state rest; do
        [ "$state" != 0A ] || return 0
    done <"/proc/$1/net/tcp"
    return 1
}

until listens "$3"; do
    usleep 5000
done
until { : <>"$1"; } 2>/dev/null; do # busy, until the session before has wholly ended
    usleep 5000
done
exec <>"$1" >&0 2>/dev/null
echo "$2" # what the host finds before this is left from an earlier session
# The first end may be that of the host's connection before this one, of which the kernel hears late.
{
    cat
    usleep 100000
    cat
} | {
    nsenter -t "$3" -n nc 127.0.0.1 22
    echo "$2" # the host does not see that nobody reads the port any more
}
