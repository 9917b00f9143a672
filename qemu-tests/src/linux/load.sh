# What a guest is busy with when it crashes.

# load MIB-RANDOM MIB-TEXT MIB-ZEROS FILES: makes files in memory, deletes one of them again, and starts
# programs that wait and compute.
load() {
    mkdir -p /load
    mount -t tmpfs -o size=90%,nr_inodes=0 none /load || fail "no tmpfs"
    dd if=/dev/urandom of=/load/random bs=1M count="$1" 2>/dev/null
    cat /proc/kallsyms >/load/symbols
    while [ "$(stat -c %s /load/symbols)" -lt $(($2 * 1048576)) ]; do
        cat /proc/kallsyms >>/load/symbols
    done
    dd if=/dev/zero of=/load/zeros bs=1M count="$3" 2>/dev/null
    file=0
    while [ "$file" -lt "$4" ]; do
        [ $((file % 1000)) = 0 ] && mkdir "/load/d$((file / 1000))"
        : >"/load/d$((file / 1000))/f$file"
        file=$((file + 1))
    done
    dd if=/dev/urandom of=/load/gone bs=1M count=16 2>/dev/null
    rm /load/gone
    program=0
    while [ "$program" -lt 12 ]; do
        sleep 100000 </load/symbols &
        program=$((program + 1))
    done
    while true; do :; done &
}

# traffic DISK: reads a whole disk and writes its last partition, forever, bypassing the cache.
traffic() {
    dd if=/dev/zero bs=1M count=1 2>/dev/null | tr '\000' L >/load/marker
    while true; do dd if="/dev/$1" of=/dev/null bs=256k iflag=direct 2>/dev/null; done &
    while true; do dd if=/load/marker of="/dev/$(partition "$1" 3)" bs=64k oflag=direct 2>/dev/null; done &
}
