//! The whole command line, golden: every line that a person gets for what they typed. `TRYCMD=overwrite`
//! rewrites the files in `tests/cmd`; read what has changed before you keep it.

#[allow(dead_code)]
#[path = "it/common.rs"]
mod common;
#[allow(dead_code)]
#[path = "it/linux.rs"]
mod linux;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{
    Encrypt, Machine, Page, Stripe, block_mut, partition as formatted, stop_in_the_middle, write_dump,
    write_striped,
};
use dumpcore::format::frame;
use dumpcore::format::{BLOCK_SIZE, crypt::public_key};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition_types::LINUX_FS;
use linux::{Linux, STATUS};
use rustix::fs::{FlockOperation, flock};
use savecore::keys::{public_text, secret_text};
use savecore::partition::{self, Plan};

/// A disk whose table names these partitions, each 160 KiB, all with a label.
fn disk_image(path: &Path, names: &[&str]) {
    let sectors = 4096;
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(sectors * 512).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors as u32 - 1).overwrite_lba0(&mut file).unwrap();
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(file, None).unwrap();
    let mut starts = Vec::new();
    for (number, name) in (1..).zip(names) {
        let first = 80 + 400 * u64::from(number - 1) + u64::from(*name == "odd");
        disk.add_partition_at(name, number, first, 320, LINUX_FS, 0).unwrap();
        starts.push(first);
    }
    let mut file = disk.write().unwrap();
    file.flush().unwrap();
    let mut bytes = fs::read(path).unwrap();
    for (first, name) in starts.into_iter().zip(names) {
        if name.starts_with("dump") {
            let inside = formatted(40);
            bytes[first as usize * 512..][..inside.len()].copy_from_slice(&inside);
        }
    }
    fs::write(path, bytes).unwrap();
}

fn with_dump(machine: &Machine) -> Vec<u8> {
    let mut disk = formatted(200);
    write_dump(&mut disk, 1, machine);
    disk
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// All files that the commands in `tests/cmd` use.
fn make_images(folder: &Path) {
    let image = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    let whole = with_dump(&Machine::small());

    // These are not dump partitions.
    image("zeros.img", &vec![0; 60 * BLOCK_SIZE]);
    image("unknown.img", &vec![7; 60 * BLOCK_SIZE]);
    image("small.img", &vec![0; 5 * BLOCK_SIZE - 1]);
    let mut bytes = vec![0; 60 * BLOCK_SIZE];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    image("ext4.img", &bytes);

    // A partition that is ready, and ones with dumps.
    image("ready.img", &formatted(60));
    image("drilled.img", &formatted(100));
    // Each is a crash of its own.
    let machine = |nonce| Machine { nonce, ..Machine::small() };
    let names = ["dump.img", "keep.img", "raw.img", "kdump.img", "clear.img", "forced.img", "locked.img"];
    for (nonce, name) in (1..).zip(names) {
        image(name, &with_dump(&machine(nonce)));
    }
    let mut bytes = formatted(200);
    let written = write_dump(&mut bytes, 1, &machine(10));
    stop_in_the_middle(&mut bytes, &written, |number| number < 30);
    // The files in `tests/cmd` run side by side: a dump that one of them saves is gone for the others.
    image("unfinished.img", &bytes);
    image("begun.img", &bytes);
    for (nonce, name) in [(11, "damaged.img"), (12, "cleared.img")] {
        let mut bytes = with_dump(&machine(nonce));
        block_mut(&mut bytes, 20)[100] ^= 1;
        image(name, &bytes);
    }
    let mut two = formatted(200);
    let end = write_dump(&mut two, 1, &machine(13)).end;
    let mut second = Machine { sequence: 2, nonce: 14, message: "once more".to_owned(), ..Machine::new() };
    second.pages.insert(1, Page::of(1));
    write_dump(&mut two, end, &second);
    image("two.img", &two);
    image("pair.img", &two);
    let mut stripes = [formatted(100), formatted(100)];
    let mut parts: Vec<_> = stripes.iter_mut().map(|disk| Stripe { disk, first: 1 }).collect();
    write_striped(&mut parts, &machine(15));
    image("stripe1.img", &stripes[0]);
    image("stripe2.img", &stripes[1]);
    let mut far = machine(16);
    far.pages.insert(1 << 36, Page::of(5));
    image("far.img", &with_dump(&far));

    // Labels that do not match.
    let mut bytes = whole.clone();
    bytes[20] ^= 1;
    image("label.img", &bytes);
    let mut bytes = whole.clone();
    bytes.resize(220 * BLOCK_SIZE, 0);
    image("longer.img", &bytes);
    let mut bytes = formatted(60);
    bytes.resize(50 * BLOCK_SIZE, 0);
    image("shorter.img", &bytes);
    let mut bytes = formatted(60);
    bytes[8..12].copy_from_slice(&77_u32.to_le_bytes());
    frame::set_checksum(block_mut(&mut bytes, 0));
    image("version.img", &bytes);

    // Encrypted ones.
    let encrypt = Encrypt::new();
    let recipient = public_key(&encrypt.secret);
    let plan = Plan {
        uuid: common::UUID,
        name: "test".to_owned(),
        created: 1_795_000_000,
        recipient: Some(recipient),
        machine: None,
    };
    for (nonce, name) in [(17, "sealed.img"), (18, "sealed2.img")] {
        let mut bytes = vec![0; 200 * BLOCK_SIZE];
        partition::format(&mut bytes, &plan, &mut ()).unwrap();
        write_dump(&mut bytes, 1, &Machine { encrypt: Some(encrypt.clone()), ..machine(nonce) });
        image(name, &bytes);
    }
    image("secret.key", secret_text(&encrypt.identity()).as_bytes());
    image("other.key", secret_text(&savecore::Identity([8; 32])).as_bytes());
    image("public.key", public_text(&recipient).as_bytes());
    image("empty.key", b"\n");

    // Ones that come through standard input.
    image("dump.img.zst", &zstd::stream::encode_all(&whole[..], 1).unwrap());
    image("dump.img.gz", &gzip(&whole));
    image("cut.img.gz", &gzip(&whole)[..2000]);
    image("dump.img.xz", b"\xfd7zXZ\0 and so on");
    image("empty.img", b"");
    let mut end = whole.clone();
    end.truncate(62 * BLOCK_SIZE);
    image("carried.diskdump", &end);

    // Targets of `savecore boot`.
    for (nonce, name) in (20..).zip(["booted.img", "hooked.img", "stays.img", "remote.img"]) {
        image(name, &with_dump(&machine(nonce)));
    }
    let mut bytes = with_dump(&machine(30));
    block_mut(&mut bytes, 20)[100] ^= 1;
    image("broken.img", &bytes);
    for (name, targets, more) in [
        ("boot", &["booted.img"][..], ""),
        ("several", &["booted.img", "unknown.img", "nowhere.img", "broken.img"], ""),
        ("hooks", &["hooked.img"], "pre = [\"/bin/false\"]\npost = [\"/nonexistent/hook\"]\n"),
        ("late", &["hooked.img"], "pre = [\"/bin/sleep\", \"1000\"]\nhook_limit = 1\n"),
        ("stays", &["stays.img"], "rearm = false\n"),
        ("remote", &["remote.img"], "store = \"s3://bucket/crash\"\n"),
        ("wrong", &["booted.img"], "limit = \"soon\"\n"),
        ("drill", &["ready.img", "copies/damaged.img"], "pre = [\"/nonexistent/hook\"]\n"),
        ("lost", &["nowhere.img"], "store = \"/nonexistent/crash\"\nidentity = \"/nonexistent/key\"\n"),
    ] {
        let targets: Vec<_> = targets.iter().map(|target| folder.join(target)).collect();
        let store = match more.contains("store") {
            true => String::new(),
            false => format!("store = {:?}\n", folder.join("crash")),
        };
        let text = format!("targets = {targets:?}\n{store}host = \"rack-7\"\nmin_free = \"1KiB\"\n{more}");
        image(&format!("{name}.toml"), text.as_bytes());
    }

    // Roots of other systems.
    for path in ["system", "theirs/usr/local/bin", "configured/etc", "crash"] {
        fs::create_dir_all(folder.join(path)).unwrap();
    }
    image("theirs/usr/local/bin/savecore", b"theirs");
    image("configured/etc/savecore.toml", b"limit = 5\n");

    // The files in `tests/cmd` run side by side: what one of them changes or locks, others have copies of.
    fs::create_dir(folder.join("copies")).unwrap();
    for name in ["two.img", "unfinished.img", "stripe1.img", "stripe2.img", "damaged.img"] {
        fs::copy(folder.join(name), folder.join("copies").join(name)).unwrap();
    }

    disk_image(&folder.join("disk.img"), &["boot", "dump", "odd", "twin", "twin"]);
    disk_image(&folder.join("dumps.img"), &["dump", "dump2"]);
    let mut bytes = fs::read(folder.join("disk.img")).unwrap();
    // The checksums of both GUID headers are wrong.
    let backup = bytes.len() - 512;
    bytes[512 + 84..512 + 88].copy_from_slice(&[99; 4]);
    bytes[backup + 84..backup + 88].copy_from_slice(&[99; 4]);
    image("table.img", &bytes);
    // A DOS table whose only partition lies on the disk whether sectors have 512 or 4096 bytes.
    let mut bytes = vec![0; 1 << 20];
    bytes[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 16, 0, 0, 0, 48, 0, 0, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    image("sectors.img", &bytes);
    fs::create_dir(folder.join("out")).unwrap();
}

/// Kernels with the diskdump module, each with the same devices.
fn make_kernels(folder: &Path) {
    let disk = fs::read(folder.join("disk.img")).unwrap();
    let kernel = |name: &str| {
        let linux = Linux::new(&folder.join(name));
        linux.owns(uuid::Uuid::from_bytes(common::UUID));
        linux.device("pci0/vdb", (254, 16), &disk);
        let first = (80 + 400) * 512;
        linux.partition("pci0/vdb/vdb2", (254, 18), first, &disk[first..][..40 * BLOCK_SIZE]);
        linux.device("pci0/vdc", (254, 32), &fs::read(folder.join("dump.img")).unwrap());
        linux.device("pci0/vdd", (254, 48), &fs::read(folder.join("ext4.img")).unwrap());
        linux.device("pci0/vde", (254, 64), &fs::read(folder.join("longer.img")).unwrap());
        linux.device("virtual/block/dm-0", (253, 0), &formatted(60));
        linux.device("pci0/vdf", (254, 80), &formatted(60));
        linux.file("sys/devices/pci0/vdf/holders/dm-0", "");
        linux
    };
    kernel("linux").module("disarmed", "", STATUS);
    fs::remove_dir_all(kernel("without").path("sys/kernel/diskdump")).unwrap();
    kernel("armed").module("armed", "", STATUS);
    let lowered = kernel("lowered");
    lowered.module(
        "armed",
        "",
        &STATUS.replace("level=31", "level=1\nlevel_note=VMCOREINFO lacks OFFSET(page.flags)"),
    );
    let dumping = kernel("dumping");
    let uuid = uuid::Uuid::from_bytes(common::UUID);
    dumping.module("armed", "", &STATUS.replace("/dev/vdb2\n", &format!("/dev/vdb2\nuuid={uuid}\n")));
    let formatted_since = kernel("formatted-since");
    let other = uuid::Uuid::from_bytes([9; 16]);
    formatted_since.module(
        "armed",
        "",
        &format!("target=/dev/vdb2\nuuid={other}\ntarget=/dev/vdc\nuuid={uuid}\n"),
    );
    let refusing = kernel("refusing");
    refusing.module("refused", "/dev/vdb2: behind an IOMMU that cannot be passed", "");
    refusing.refuses("sys/kernel/diskdump/arm");
    let silent = kernel("silent");
    silent.refuses("sys/kernel/diskdump/arm");
    silent.module("armed", "", STATUS);
    silent.refuses("sys/kernel/diskdump/disarm");
    let strange = kernel("strange");
    strange.module("hibernating", "", "");
    kernel("kdump").kdump(true, "N");
    let stubborn = kernel("stubborn");
    stubborn.kdump(true, "N");
    stubborn.refuses("sys/module/kernel/parameters/crash_kexec_post_notifiers");
    let behind = kernel("behind");
    behind.kdump(true, "Y");
    behind.module("armed", "", STATUS);
    let empty = Linux::new(&folder.join("empty"));
    empty.device("virtual/block/dm-0", (253, 0), &formatted(60));
    let large = kernel("large");
    large.file("sys/class/tty/console/active", "ttyS0 ttyS4\n");
    for cpu in 2..400 {
        large.file(
            &format!("sys/devices/system/cpu/cpu{cpu}/crash_notes"),
            format!("{:x}\n", 0x10_0000_0000_u64 + cpu),
        );
    }
    let config = "[arm]\ntargets = [\"/dev/vdc\"]\nlevel = 17\nverify = \"samples:64\"\nthen = \"halt\"\nhelpers = 0\nrisky = true\nlog = \"64KiB\"\nserial = \"none\"\ncompress = \"none\"\nbudget = 60\ntimeout = 500\ncrash_kexec_post_notifiers = false\n";
    fs::write(folder.join("arm.toml"), config).unwrap();
}

#[test]
fn every_command_says_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    make_images(folder.path());
    make_kernels(folder.path());
    // As if another savecore held it.
    let locked = File::open(folder.path().join("locked.img")).unwrap();
    flock(&locked, FlockOperation::LockExclusive).unwrap();
    // `piped FILE ARGUMENTS` is savecore with the file in a pipe at its standard input.
    let piped = folder.path().join("piped");
    let script =
        format!("#!/bin/sh\nfile=$1\nshift\ncat \"$file\" | {} \"$@\"\n", env!("CARGO_BIN_EXE_savecore"));
    fs::write(&piped, script).unwrap();
    fs::set_permissions(&piped, fs::Permissions::from_mode(0o755)).unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    let cases = trycmd::TestCases::new();
    cases.register_bin("piped", piped.as_path());
    cases.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "0");
    cases.insert_var("[UUID]", uuid::Uuid::from_bytes(common::UUID).to_string()).unwrap();
    cases.case(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cmd/*.md"));
    cases.run();
}

/// Errors that no command line causes on every machine, and where they are tested.
const ELSEWHERE: &[(&str, &str)] = &[
    ("InUse", "takes a mounted device: tests of source"),
    ("ReadOnly", "takes a medium that cannot be written: cli::faults"),
    ("Changed", "takes somebody who changes a target meanwhile: tests of source"),
    ("Read", "takes a medium that fails: cli::faults"),
    ("Write", "takes a medium that fails: cli::faults"),
    ("Sync", "takes a medium that fails: cli::faults"),
    ("Unsteady", "takes a medium that changes while it is read: core::raw, pages"),
    ("Encrypted", "the command saves such a dump raw"),
    ("Core", "a store tells it as its own: cli::faults"),
    ("TooLarge", "takes a dump of petabytes: core"),
    ("NoMemory", "takes a dump of a much larger machine: dump::large"),
    ("Kernel", "a warning of info and save: tests of backtraces"),
    ("Foreign", "takes a pattern that changes between two looks of the drill: boot::rehearsal"),
    ("TooSparse", "takes gigabytes that are claimed to be there: kdump"),
    ("RoomEnded", "takes a store that fills up while it is written: cli::faults"),
    (
        "Marked",
        "takes stripes marked in part, saved raw, of which the store has lost the copy: no test does that",
    ),
    ("Configuration", "takes a configuration of which nobody understands the targets: cli::boot"),
    ("Replaced", "takes somebody who writes while another is asked: cli::tables"),
    ("Moved", "takes somebody who moves the store meanwhile: cli::faults"),
    ("Taken", "takes 9999 crashes in one second: store::directory"),
    ("Busy", "takes another savecore at the same moment: store"),
    ("Devices", "takes a system without sysfs: arming"),
    ("TooMany", "takes five dump partitions: arming"),
];

/// The variants of an error in a source file, each with the longest part of its message that stays the same.
fn messages(source: &str) -> Vec<(String, String)> {
    let mut messages = Vec::new();
    for part in source.split("#[error(").skip(1) {
        let Some((_, text)) = part.split_once('"') else { continue };
        let Some((_, behind)) = part.split_once(")]\n") else { continue };
        if part.trim_start().starts_with("transparent") {
            continue;
        }
        let mut text = text.replace("\\\"", "\u{1}");
        text.truncate(text.find('"').unwrap());
        let pieces = text.split(['{', '}']).step_by(2);
        let longest = pieces.max_by_key(|piece| piece.len()).unwrap_or_default().replace('\u{1}', "\"");
        let name = behind.trim_start().split(|character: char| !character.is_alphanumeric()).next().unwrap();
        messages.push((name.to_owned(), longest));
    }
    messages
}

#[test]
fn every_error_is_in_a_golden_file_or_told_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(folder.join("tests/cmd")).unwrap();
    let golden: String = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let sources = [
        "src/error.rs",
        "src/store/error.rs",
        "src/boot/config.rs",
        "src/boot/hooks.rs",
        "src/arming/error.rs",
    ];
    let all: Vec<_> =
        sources.iter().flat_map(|path| messages(&fs::read_to_string(folder.join(path)).unwrap())).collect();
    assert!(all.len() > 25, "{all:?}");
    let nowhere = all.iter().filter(|(name, text)| {
        let elsewhere = name == "On" || ELSEWHERE.iter().any(|(other, _)| other == name);
        !elsewhere && !golden.contains(text.trim())
    });
    let nowhere: Vec<_> = nowhere.collect();
    assert!(nowhere.is_empty(), "{nowhere:?}");
    for (name, why) in ELSEWHERE {
        assert!(all.iter().any(|(other, _)| other == name), "{name} is no more ({why})");
    }
}
