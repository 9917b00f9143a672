# Runs in the kernel that kdump boots: writes memory to the partition, then resets the machine.
disk=$(first_disk 20) || fail "no disk"
target=/dev/$(partition "$disk" 2)
sectors() { awk '{ print $7 }' "/sys/block/$disk/stat"; }
grep -E 'MemTotal|MemFree' /proc/meminfo
before=$(sectors)
say "kdump begins"
if [ "$FILTER" = dd ]; then
    dd if=/proc/vmcore of="$target" bs=1M 2>/dev/null || fail "dd ended with $?"
else
    # -F makes makedumpfile write in order, without seeking.
    # shellcheck disable=SC2086
    makedumpfile -F $FILTER /proc/vmcore >"$target" || fail "makedumpfile ended with $?"
fi
dd if=/dev/null of="$target" conv=notrunc,fsync 2>/dev/null
say "kdump done bytes=$((($(sectors) - before) * 512))"
# Changing the port's mode waits until everything has been sent.
stty -F /dev/ttyS0 -echo
reboot -f
