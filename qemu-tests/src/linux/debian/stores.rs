//! Stores other than the machine's own disk: one dump is saved to each Linux file system and to each kind of
//! server on which people keep cores. After each save the file system is remounted, so that the comparison
//! sees what really arrived.

use anyhow::Result;

use super::walker::{DEAD, Expected, GOOD, Then, Walk};

/// A store to save to.
struct Store {
    /// Its name.
    name: &'static str,
    /// The required kernel modules.
    modules: &'static str,
    /// Creates it.
    make: &'static str,
    /// Mounts it at `/mnt/NAME`.
    mount: &'static str,
}

/// A server on this machine, with its exports. Root is mapped to nobody, as usual.
const NFS: &str = "mkdir -p /srv/nfs && chown nobody:nogroup /srv/nfs && systemctl start nfs-server && \
                   exportfs -o rw,sync,no_subtree_check,insecure 127.0.0.1:/srv/nfs";
const CIFS: &str = "mkdir -p /srv/smb && \
                    printf '[global]\\nserver role = standalone server\\ninterfaces = lo\\n[crash]\\npath = /srv/smb\\nread only = no\\n' \
                    >/etc/samba/smb.conf && (echo walk; echo walk) | smbpasswd -s -a root && systemctl start smbd && \
                    until smbclient -U root%walk -c ls //127.0.0.1/crash; do sleep 1; done";

const STORES: [Store; 8] = [
    Store {
        name: "xfs",
        modules: "xfs",
        make: "mkfs.xfs -q /root/xfs.img",
        mount: "mount -o loop /root/xfs.img /mnt/xfs",
    },
    Store {
        name: "btrfs",
        modules: "btrfs",
        make: "mkfs.btrfs -q /root/btrfs.img",
        mount: "mount -o loop,compress=zstd /root/btrfs.img /mnt/btrfs",
    },
    Store {
        name: "vfat",
        modules: "vfat",
        make: "mkfs.vfat -F 32 /root/vfat.img",
        mount: "mount -o loop /root/vfat.img /mnt/vfat",
    },
    Store {
        name: "exfat",
        modules: "exfat",
        make: "mkfs.exfat /root/exfat.img",
        mount: "mount -o loop /root/exfat.img /mnt/exfat",
    },
    Store {
        name: "nfs",
        modules: "nfsd nfsv4",
        make: NFS,
        mount: "mount -t nfs 127.0.0.1:/srv/nfs /mnt/nfs",
    },
    Store {
        name: "nfs3",
        modules: "nfsd nfsv3",
        make: NFS,
        mount: "mount -t nfs -o vers=3,nolock 127.0.0.1:/srv/nfs /mnt/nfs3",
    },
    Store {
        name: "cifs",
        modules: "cifs",
        make: CIFS,
        mount: "mount -t cifs -o username=root,password=walk //127.0.0.1/crash /mnt/cifs",
    },
    Store {
        name: "overlay",
        modules: "overlay",
        make: "mkdir -p /root/lower /root/upper /root/work",
        mount: "mount -t overlay -o lowerdir=/root/lower,upperdir=/root/upper,workdir=/root/work overlay /mnt/overlay",
    },
];

/// An NFS mount on which a request fails if the server does not answer for some seconds.
const SOFT: &str = "mount -t nfs -o soft,timeo=10,retrans=1,vers=4.2 127.0.0.1:/srv/nfs /mnt/nfs";

/// Crashes the machine once more, with a harvest that leaves the dump on `target`, and saves that dump to
/// every store.
pub(super) fn stores(walk: &mut Walk<'_>, target: &str) -> Result<()> {
    // Only listed targets are harvested; the kernel stays armed as before.
    let keep = format!("sed -i '1i targets = [\"{DEAD}\"]' /etc/savecore.toml");
    walk.run("stores: no dump is harvested at boot", &keep, &GOOD)?;
    walk.crash("stores: a dump for all of them", Then::ComesUp)?;
    walk.come_up("stores: up again", true)?;
    let reference = format!(
        "mkdir -p /root/elf /root/kdump && savecore save --keep {target} -o /root/elf && \
         savecore save --keep --format kdump {target} -o /root/kdump && \
         sha256sum </root/elf/latest/vmcore.elf >/root/sums && sha256sum </root/kdump/latest/vmcore.kdump >>/root/sums"
    );
    walk.run("stores: the dump, saved on ext4", &reference, &Expected { says: &["saved in"], ..GOOD })?;
    for store in &STORES {
        one(walk, store, target)?;
    }
    full(walk, target)?;
    away(walk, target)?;
    walk.run(
        "stores: the harvest is as before",
        "sed -i 1d /etc/savecore.toml && rm -r /root/elf /root/kdump",
        &GOOD,
    )?;
    Ok(())
}

/// Saves to one store, and compares the result with that on ext4.
fn one(walk: &mut Walk<'_>, store: &Store, target: &str) -> Result<()> {
    let Store { name, modules, make, mount } = store;
    let there = walk.ask(&format!("modprobe -a {modules} 2>&1 && echo all of them || true"))?;
    if there != "all of them" {
        walk.pass_over(&format!("{name}: {there}"));
        return Ok(());
    }
    let make = format!("mkdir -p /mnt/{name} && truncate -s 1G /root/{name}.img && {make} && {mount}");
    walk.run(&format!("{name}: mounted"), &make, &GOOD)?;
    let save = format!("savecore save --keep {target} -o /mnt/{name}");
    walk.run(&format!("{name}: saved"), &save, &Expected { says: &["saved in"], ..GOOD })?;
    let same = format!(
        "umount /mnt/{name} && {mount} && cat /mnt/{name}/pelican-*/info.json >/dev/null && \
         test $(ls /mnt/{name} | grep -vc ^latest) = 1 && grep \"$(sha256sum </mnt/{name}/pelican-*/vmcore.*)\" /root/sums"
    );
    walk.run(&format!("{name}: mounted anew, it is all there"), &same, &GOOD)?;
    // Saving the same dump again must detect it, which depends on names and locks in the store.
    let again = Expected { says: &["already saved in"], ..GOOD };
    walk.run(&format!("{name}: a second time"), &save, &again)?;
    let end = format!("rm -r /mnt/{name}/* && umount /mnt/{name} && rm -f /root/{name}.img");
    walk.run(&format!("{name}: gone again"), &end, &GOOD)?;
    Ok(())
}

/// A file system that is too small, and one that is read-only.
fn full(walk: &mut Walk<'_>, target: &str) -> Result<()> {
    let small = "mkdir -p /mnt/small && truncate -s 12M /root/small.img && mkfs.ext4 -q /root/small.img && \
                 mount -o loop /root/small.img /mnt/small";
    walk.run("full: a small file system", small, &GOOD)?;
    let save = format!("savecore save {target} -o /mnt/small --min-free 0B");
    walk.run("full: said, and nothing is lost", &save, &Expected { code: 2, says: &["/mnt/small"], ..GOOD })?;
    walk.run(
        "full: nothing is left there",
        "ls -A /mnt/small | grep -v lost+found",
        &Expected { code: 1, ..GOOD },
    )?;
    walk.run("read-only: mounted", "mount -o remount,ro /mnt/small", &GOOD)?;
    walk.run("read-only: said", &save, &Expected { code: 2, says: &["/mnt/small"], ..GOOD })?;
    walk.run("full: gone again", "umount /mnt/small && rm /root/small.img", &GOOD)?;
    Ok(())
}

/// A server that disappears while a core is written, and comes back.
fn away(walk: &mut Walk<'_>, target: &str) -> Result<()> {
    let Ok(_) = walk.ask("modprobe -a nfsd nfsv4") else {
        walk.pass_over("a server that goes away: there is no NFS here");
        return Ok(());
    };
    walk.run("server goes away: mounted", &format!("{NFS} && {SOFT}"), &GOOD)?;
    let save = format!("savecore save {target} -o /mnt/nfs");
    let stopped = format!(
        "(until find /srv/nfs -name 'vmcore*' | grep -q .; do :; done; systemctl stop nfs-server) & {save}; code=$?; wait; (exit $code)"
    );
    walk.run("server goes away: said", &stopped, &Expected { code: 2, says: &["/mnt/nfs"], ..GOOD })?;
    let still = format!("savecore list {target}");
    walk.run("server goes away: the dump stays", &still, &Expected { says: &["1 dump waits"], ..GOOD })?;
    walk.run("server goes away: it comes back", NFS, &GOOD)?;
    walk.run(
        "server goes away: saved and freed",
        &save,
        &Expected { says: &["saved in", "cleared on"], ..GOOD },
    )?;
    let same = "grep \"$(sha256sum </srv/nfs/pelican-*/vmcore.elf)\" /root/sums && umount /mnt/nfs && rm -r /srv/nfs";
    walk.run("server goes away: it is all there", same, &GOOD)?;
    Ok(())
}
