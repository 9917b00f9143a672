# Loads the kernel that runs after a crash, and deletes its files to free their memory.
load_kdump() {
    [ "$(cat /sys/kernel/kexec_crash_size)" -gt 0 ] || fail "no memory is reserved for kdump"
    kexec /capture.kernel /capture.img "console=ttyS0 quiet reset_devices nr_cpus=1 irqpoll panic=-1" ||
        fail "kexec does not load"
    rm /capture.img /capture.kernel
    say "kdump loaded"
}
