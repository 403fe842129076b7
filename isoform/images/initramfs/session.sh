#!/bin/busybox sh
# session PORT NONCE SERVER: join a port to the ssh server with that PID until either side ends.
until { : <>"$1"; } 2>/dev/null; do # busy, until the session before has wholly ended
    usleep 5000
done
exec <>"$1" >&0 2>/dev/null
echo "$2" # what the host finds before this is left from an earlier session
until nsenter -t "$3" -n nc 127.0.0.1 22; do # refused, until the server listens
    usleep 10000
done
echo "$2" # the host cannot see that we close the port
