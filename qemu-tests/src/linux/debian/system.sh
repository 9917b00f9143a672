#!/bin/sh
# Makes a Debian system in a folder, with everything that the walk through the guide later installs without a
# network.
#
#   system.sh SUITE FOLDER FIRST SECOND
#
# It runs as root in mount and PID namespaces of its own, so that nothing stays mounted. FIRST is a pattern
# for the release of its kernel, SECOND for the one that the walk upgrades to. The folder /built in the system
# holds what the walk needs to know.
set -eu

suite=$1
root=$2
kernel=$3
second=$4
mirror=http://deb.debian.org/debian
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

mount --make-rprivate /
debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,kmod,procps "$suite" "$root" "$mirror"

cat >"$root/etc/apt/sources.list" <<END
deb $mirror $suite main
deb $mirror $suite-updates main
deb http://deb.debian.org/debian-security $suite-security main
END
# How this machine reaches packages is its own affair, and is removed from the system at the end.
apt-config dump | grep -E '^Acquire::(http|https|ftp|Check|Retries)' >"$root/etc/apt/apt.conf.d/99build" || true
for file in /etc/resolv.conf /etc/hosts; do
    [ -e "$root$file" ] || : >"$root$file"
    mount --bind "$file" "$root$file"
done
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
# The symbols of the modules take 3 GB, and crash needs only those of the kernel.
echo 'path-exclude=/usr/lib/debug/lib/modules/*' >"$root/etc/dpkg/dpkg.cfg.d/symbols"
# Downloaded packages stay in apt's archive, where the system finds them later.
echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' >"$root/etc/apt/apt.conf.d/50keep"

run() {
    chroot "$root" "$@"
}

# newest PATTERN PACKAGE…: prints `VERSION RELEASE` of the newest kernel whose release matches, and of which
# all these packages have the same version. Debian may already have newer versions of some.
newest() {
    pattern=$1
    shift
    run apt-cache search --names-only "^linux-image-$pattern\$" | sed 's/^linux-image-\([^ ]*\) .*/\1/' |
        while read -r release; do
            versions "linux-image-$release" | while read -r version; do
                for name in "$@"; do
                    versions "$(echo "$name" | sed "s/RELEASE/$release/")" | grep -qxF "$version" || continue 2
                done
                echo "$version $release"
            done
        done | sort -V | tail -n 1
}

# Prints the versions of a package that Debian has.
versions() {
    run apt-cache madison "$1" | cut -d'|' -f2 | tr -d ' ' | sort -u
}

run apt-get -q update
first=$(newest "$kernel" linux-headers-RELEASE linux-image-RELEASE-dbg)
[ -n "$first" ] || { echo "the archive has no kernel of which image, headers and symbols are of one version" >&2; exit 1; }
version=${first% *} release=${first#* }
next=$(newest "$second" linux-headers-RELEASE)
[ -n "$next" ] || { echo "the archive has no second kernel: none matches $second" >&2; exit 1; }
next_version=${next% *} next_release=${next#* }

run apt-get -q -y dist-upgrade
run apt-get -q -y install --no-install-recommends initramfs-tools zstd
run apt-get -q -y install --no-install-recommends \
    "linux-image-$release=$version" "linux-headers-$release=$version" "linux-image-$release-dbg=$version" \
    linux-headers-cloud-amd64 dkms gcc make binutils libc6-dev gdisk parted crash \
    e2fsprogs xfsprogs btrfs-progs dosfstools exfatprogs nfs-kernel-server samba smbclient cifs-utils
# The servers start when the walk starts them, and are not part of the machine until then.
run systemctl disable nfs-server rpcbind.service rpcbind.socket nfs-blkmap smbd nmbd samba-ad-dc || true
run apt-get -q -y clean
# With recommended packages, as apt does by default.
run apt-get -q -y install --download-only "linux-image-$next_release=$next_version" "linux-headers-$next_release=$next_version"

# The serial console logs in as root, and apt asks no questions.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf" <<END
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I dumb
END
echo 'APT::Get::Assume-Yes "true";' >"$root/etc/apt/apt.conf.d/50yes"
# These timers would take apt's lock in the middle of the walk.
for timer in apt-daily apt-daily-upgrade; do
    ln -sf /dev/null "$root/etc/systemd/system/$timer.timer"
done
echo pelican >"$root/etc/hostname"
echo '/dev/vda1 / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
rm "$root/usr/sbin/policy-rc.d" "$root/etc/apt/apt.conf.d/99build"
mkdir "$root/built"
echo "$release" >"$root/built/release"
echo "$next_release" >"$root/built/next"
echo "$version, then $next_version; archive of $(date -u +%F)" >"$root/built/about"
