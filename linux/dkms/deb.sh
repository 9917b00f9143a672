#!/bin/sh
# Makes the Debian package diskdump-dkms: the module's sources, and the prebuilt library that they are linked
# with.
#
#   dkms/deb.sh FOLDER                 builds the library with cargo first
#   RUSTLIB=/…/libdump_linux_module.a dkms/deb.sh FOLDER
#
# Prints the package's path. It needs dpkg-deb and strip and, without RUSTLIB, what `make rustlib` needs (see
# Makefile).
set -eu

linux=$(cd "$(dirname "$0")/.." && pwd)
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"$/\1/p' "$linux/dkms.conf")
if [ -z "${RUSTLIB:-}" ]; then
    make -C "$linux" BUILD="$folder/build" rustlib >&2
    RUSTLIB="$folder/build/rust/x86_64-unknown-none/release/libdump_linux_module.a"
fi

tree="$folder/diskdump-dkms"
rm -rf "$tree"
source="$tree/usr/src/diskdump-$version"
doc="$tree/usr/share/doc/diskdump-dkms"
install -d "$source" "$doc" "$tree/DEBIAN"
for file in Kbuild Makefile merge.lds rustlib.mk shim.c shim.h stack.S dkms.conf; do
    install -m 644 "$linux/$file" "$source/$file"
done
# The library is mostly debug sections, and the module is linked without them.
strip --strip-debug -o "$source/libdump_linux_module.a" "$RUSTLIB"
chmod 644 "$source/libdump_linux_module.a"
install -D -m 644 "$linux/dkms/modules-load.conf" "$tree/usr/lib/modules-load.d/diskdump.conf"
install -m 644 "$linux/README.md" "$doc/README.md"
{
    echo "The module is licensed under the terms of the MIT licence or of the GNU General Public License, version 2,"
    echo "at your choice. On Debian systems the latter is in /usr/share/common-licenses/GPL-2."
    echo
    cat "$linux/../LICENSE-MIT"
} >"$doc/copyright"
chmod 644 "$doc/copyright"

cat >"$tree/DEBIAN/control" <<CONTROL
Package: diskdump-dkms
Version: $version
Architecture: amd64
Maintainer: The diskdump authors <diskdump@example.invalid>
Section: kernel
Priority: optional
Depends: dkms (>= 2.8), gcc, make, binutils
Recommends: savecore, linux-headers-amd64 | linux-headers-cloud-amd64
Suggests: crash
Description: crash dumps to a partition, without a reserved crash kernel
 When the kernel panics, this module stops the other CPUs, takes the disk over by drivers
 that only poll, and writes memory to a dump partition. When the machine is up again,
 savecore makes a core of it, for crash and drgn.
CONTROL
# The maintainer scripts, as DKMS's own helper (dh_dkms) writes them.
cat >"$tree/DEBIAN/postinst" <<POSTINST
#!/bin/sh
set -e
if [ "\$1" = configure ] && [ -x /usr/lib/dkms/common.postinst ]; then
    # DKMS reports a kernel without headers. That must not fail the installation.
    /usr/lib/dkms/common.postinst diskdump $version /usr/share/diskdump-dkms "" "\$2" || true
fi
POSTINST
cat >"$tree/DEBIAN/prerm" <<PRERM
#!/bin/sh
set -e
if [ "\$(dkms status -m diskdump -v $version 2>/dev/null)" ]; then
    dkms remove -m diskdump -v $version --all
fi
if [ "\$1" = remove ] && [ -d /sys/module/diskdump ]; then
    echo "diskdump: the module stays loaded, and armed, until the next reboot; to end that now: savecore disarm; rmmod diskdump"
fi
PRERM
chmod 755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm"
package="$folder/diskdump-dkms_${version}_amd64.deb"
dpkg-deb --root-owner-group --build "$tree" "$package" >&2
echo "$package"
