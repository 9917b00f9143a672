#!/bin/busybox sh
# The first process of a stock Linux: loads the modules, runs the script, and powers off.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys

status=0
while read -r module; do
    if ! insmod "/modules/$module"; then
        echo "linux: failed: the module $module was not loaded"
        status=1
    fi
done </modules/order

if [ "$status" = 0 ]; then
    echo "linux: begin release=$(uname -r)"
    sh /script
    status=$?
fi
# After a script that succeeds, another first process can take over.
[ "$status" = 0 ] && [ -x /next ] && exec /next
echo "linux: end status=$status"
poweroff -f
