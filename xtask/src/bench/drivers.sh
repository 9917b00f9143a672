# Times dd on the only disk: `count` MiB from MiB `first` on, `passes` times.

disk=$(first_disk 20) || fail "no disk came"
say "disk name=$disk scheduler=$(tr -d ' ' <"/sys/block/$disk/queue/scheduler")" \
    "max_sectors_kb=$(cat "/sys/block/$disk/queue/max_sectors_kb")"

# DIRECTION COUNT: transfers so many MiB, and sets `took` to the microseconds.
transfer() {
    take_time
    begin=$stamp
    case $1 in
    write) set -- count="$2" if=/dev/zero of="/dev/$disk" seek="$first" oflag=direct conv=fsync,notrunc ;;
    read) set -- count="$2" if="/dev/$disk" of=/dev/null skip="$first" iflag=direct ;;
    esac
    dd bs=1M "$@" 2>/tmp/dd || fail "dd $*: $(cat /tmp/dd)"
    take_time
    took=$((stamp - begin))
}

# What dd takes to start is no transfer: the least that was seen.
start=1000000
for direction in write read write read write read; do
    transfer $direction 1
    transfer $direction 0
    [ "$took" -lt "$start" ] && start=$took
done

while [ "$passes" -gt 0 ]; do
    for direction in write read; do
        transfer $direction "$count"
        say "bench name=$direction bytes=$((count << 20)) us=$((took - start))"
    done
    passes=$((passes - 1))
done
say "start us=$start"
