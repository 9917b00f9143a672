# What a guest does with diskdump.ko.

DISKDUMP=/sys/kernel/diskdump

load_module() {
    insmod /diskdump.ko "$@" || fail "diskdump.ko is not loaded"
}

# arm WORDS: arms with these words and the notes of all CPUs; prints the status, or fails with the reason.
arm() {
    echo "$* $(notes)" >$DISKDUMP/arm 2>/dev/null || fail "not armed: $(cat $DISKDUMP/reason)"
    [ "$(cat $DISKDUMP/state)" = armed ] || fail "the state is $(cat $DISKDUMP/state) after arming"
    say "armed $(tr '\n' ' ' <$DISKDUMP/status)"
}

# refused PART WORDS: arming with these words must be refused, for a reason that contains PART.
refused() {
    part=$1
    shift
    echo "$*" >$DISKDUMP/arm 2>/dev/null && fail "armed, though it must not be: $*"
    reason=$(cat $DISKDUMP/reason)
    case $reason in
        *"$part"*) say "refused: $reason" ;;
        *) fail "refused for '$reason', which does not speak of $part: $*" ;;
    esac
}

# soon LINE: within ten seconds it must be armed, with a line in the status that begins with LINE.
soon() {
    looks=100
    until [ "$(cat $DISKDUMP/state)" = armed ] && grep -q "^$1" $DISKDUMP/status; do
        looks=$((looks - 1))
        [ "$looks" -gt 0 ] || fail "the state is $(cat $DISKDUMP/state) without $1: $(cat $DISKDUMP/reason)"
        usleep 100000
    done
}

# last PARTS: the report on the last dump must contain all of these parts.
last() {
    told=$(tr '\n' ' ' <$DISKDUMP/last)
    for part; do
        case $told in
            *"$part"*) ;;
            *) fail "of the last dump it says '$told', and not $part" ;;
        esac
    done
}

# Prints the addresses of all CPUs' crash notes, as one word.
notes() {
    all=
    cpu=0
    while [ -f "/sys/devices/system/cpu/cpu$cpu/crash_notes" ]; do
        all=$all,0x$(cat "/sys/devices/system/cpu/cpu$cpu/crash_notes")
        cpu=$((cpu + 1))
    done
    echo "notes=${all#,}"
}

set_to() {
    echo "$1" >"/proc/sys/kernel/$2" || fail "cannot set $2"
}

# harm WORDS: makes faults.ko do this.
harm() {
    echo "$*" >/sys/module/faults/parameters/now || fail "no harm was done: $*"
}

crash_now() {
    set_to 1 sysrq
    say "crashes now"
    # Changing the port's mode waits until everything has been sent.
    stty -F /dev/ttyS0 -echo
    echo c >/proc/sysrq-trigger
}
