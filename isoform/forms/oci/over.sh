# Run by conmon in a guest when a container has ended: tells the host by a line in the log. $1: id, $2: base, $3: port.
read -r code <"$2"/exits/"$1" # there is no newline in it, which `read` takes for an error
[ -n "$code" ] || code=255
reason=
while read -r name count; do
    [ "$name" != oom_kill ] || [ "$count" = 0 ] || [ "$code" = 0 ] || reason=" out of memory"
done <"/sys/fs/cgroup/$1/memory.events"
sync
( # conmon waits for us and holds the port, which only one may open
    turn=0
    until echo "1970-01-01T00:00:00.0Z exit F $code$reason" >"$3"; do
        turn=$((turn + 1))
        [ $turn -lt 500 ] || exit
        sleep 0.02
    done
) </dev/null >/dev/null 2>&1 &
