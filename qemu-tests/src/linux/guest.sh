# Functions for a script in a stock Linux.

# Prints a line for the harness.
say() {
    echo "linux: $*"
}

# Ends the guest and says why.
fail() {
    say "failed: $*"
    exit 1
}

# Prints the name of the first disk that has a size; waits for it for up to this many seconds.
first_disk() {
    looks=$(($1 * 10))
    while [ "$looks" -gt 0 ]; do
        for folder in /sys/block/vd* /sys/block/sd* /sys/block/nvme* /sys/block/mmcblk*; do
            if [ -b "/dev/${folder##*/}" ] && [ "$(cat "$folder/size")" -gt 0 ]; then
                echo "${folder##*/}"
                return 0
            fi
        done
        usleep 100000
        looks=$((looks - 1))
    done
    return 1
}

# Sets `stamp` to the time in microseconds.
take_time() {
    stamp=$EPOCHREALTIME
    stamp=${stamp%.*}${stamp#*.}
}

# Prints the name of a disk's partition: `partition vda 2`.
partition() {
    case $1 in
        *[0-9]) echo "$1p$2" ;;
        *) echo "$1$2" ;;
    esac
}
