# Times dd on the only disk: `count` MiB from MiB `first` on.

disk=$(first_disk 20) || fail "no disk came"
say "disk name=$disk scheduler=$(tr -d ' ' <"/sys/block/$disk/queue/scheduler")" \
    "max_sectors_kb=$(cat "/sys/block/$disk/queue/max_sectors_kb")"

transfer() {
    dd bs=1M "$@" 2>/tmp/dd || fail "dd $*: $(cat /tmp/dd)"
}

# NAME, and what dd is to do.
measure() {
    name=$1
    shift
    # The first time, everything is slower.
    transfer count=16 "$@"
    take_time
    begin=$stamp
    transfer count=0 "$@"
    take_time
    started=$stamp
    transfer count="$count" "$@"
    take_time
    # What dd takes to start is no transfer.
    say "bench name=$name bytes=$((count << 20)) us=$((stamp - started - (started - begin)))"
}

measure write if=/dev/zero of="/dev/$disk" seek="$first" oflag=direct conv=fsync,notrunc
measure read if="/dev/$disk" of=/dev/null skip="$first" iflag=direct
