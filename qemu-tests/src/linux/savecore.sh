# What a guest does with savecore.

# said CODE PART COMMAND: the command must end with this exit code, and its output must contain PART. An error
# is one line.
said() {
    code=$1
    part=$2
    shift 2
    "$@" >/tmp/out 2>/tmp/errors
    ended=$?
    cat /tmp/out /tmp/errors
    all=$(cat /tmp/out /tmp/errors | tr '\n' ' ')
    [ "$ended" = "$code" ] || fail "'$*' ended with $ended instead of $code: $all"
    case $all in
        *"$part"*) ;;
        *) fail "'$*' did not say '$part': $all" ;;
    esac
    if [ "$code" = 2 ]; then
        [ "$(cat /tmp/out /tmp/errors | wc -l)" = 1 ] || fail "'$*' says why in more than a line: $all"
        say "refused: $all"
    fi
}

# confined COMMAND: runs it as systemd runs the unit that $WRITABLE and $CAPABILITIES come from. They say
# which parts of sysfs can be written, and what root may do.
confined() {
    unshare -m sh -c '
        for place in $WRITABLE; do
            [ ! -e "$place" ] || mount --bind "$place" "$place" || exit 99
        done
        mount -o remount,bind,ro /sys || exit 99
        exec /bin/setpriv --no-new-privs --inh-caps=-all --bounding-set="-all$CAPABILITIES" "$@"' confined "$@"
}
