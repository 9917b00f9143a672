//! Arming a Linux made of files: resolving devices, the module's parameters, and the rollback if it refuses.

use std::fs;

use dump_linux::config::Words;
use dumpcore::format::BLOCK_SIZE;
use proptest::prelude::*;
use savecore::arming::{
    self, ArmError, Kdump, Kernel, MAX_TARGETS, MAX_WORDS, Module, Options, Plan, State, System,
};
use savecore::boot::Config;
use savecore::partition;

use crate::common::{Machine, UUID, partition as formatted, write_dump};
use crate::linux::{Linux, STATUS};
use crate::sources::dos_disk;

struct Crashable {
    _folder: tempfile::TempDir,
    linux: Linux,
    system: System,
}

impl Crashable {
    fn new() -> Crashable {
        let folder = tempfile::tempdir().unwrap();
        let linux = Linux::new(folder.path());
        linux.owns(uuid::Uuid::from_bytes(UUID));
        let system = System::below(folder.path());
        Crashable { _folder: folder, linux, system }
    }

    /// One with a DOS disk whose partitions 5 and 6 the kernel shows; 5 is a dump partition.
    fn with_disk() -> Crashable {
        let crashable = Crashable::new();
        let mut disk = dos_disk();
        let label = formatted(20);
        disk[1032 * 512..][..label.len()].copy_from_slice(&label);
        crashable.linux.device("pci0/sda", (8, 0), &disk);
        for (number, sector) in [(5, 1032), (6, 1240)] {
            let bytes = &disk[sector * 512..][..160 * 512];
            crashable.linux.partition(&format!("pci0/sda/sda{number}"), (8, number), sector * 512, bytes);
        }
        crashable
    }

    fn plan(&self, names: &[&str], options: &Options) -> Result<Plan, ArmError> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        arming::plan(&self.system, &names, None, options)
    }

    fn told(&self) -> String {
        self.linux.text("sys/kernel/diskdump/arm")
    }

    fn waits(&self) -> String {
        self.linux.text("sys/module/kernel/parameters/crash_kexec_post_notifiers")
    }
}

fn options(text: &str) -> Options {
    Config::parse(&format!("[arm]\n{text}"), "test").arm
}

#[test]
fn one_partition_has_many_names_and_the_kernel_is_told_its_own() {
    let crashable = Crashable::with_disk();
    std::os::unix::fs::symlink("sda5", crashable.linux.path("dev/dump")).unwrap();
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID).to_string();
    let by_label = format!("UUID={}", uuid.to_uppercase());
    for name in [
        "/dev/sda5",
        "/dev/dump",
        "/dev/sda",
        "PARTUUID=5f0e8a3c-05",
        "partuuid=5F0E8A3C-05",
        &uuid,
        &by_label,
    ] {
        let plan = crashable.plan(&[name], &Options::default()).unwrap();
        assert_eq!(plan.names(), ["/dev/sda5"], "{name}");
        assert_eq!(
            plan.words,
            format!("target=/dev/sda5 uuid={uuid} serial=0x3f8 notes=0x7fc12000,0x7fd12000")
        );
        assert_eq!(plan.warnings, Vec::<String>::new());
    }
    assert_eq!(crashable.plan(&[], &Options::default()).unwrap().names(), ["/dev/sda5"]);
    for (name, why) in [
        ("PARTUUID=5f0e8a3c-06", "is not a dump partition"),
        ("PARTUUID=5f0e8a3c-01", "no such partition"),
        ("5f0e8a3c-05", "No such file"),
        ("", "No such file"),
        ("UUID=", "no such partition"),
    ] {
        let error = crashable.plan(&[name], &Options::default()).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains('\n'), "{name}: {error}");
    }
}

#[test]
fn a_disk_that_is_there_twice_has_to_be_named_by_its_device() {
    let crashable = Crashable::with_disk();
    let copy = fs::read(crashable.linux.path("dev/sda")).unwrap();
    crashable.linux.device("pci0/sdb", (8, 16), &copy);
    let bytes = &copy[1032 * 512..][..160 * 512];
    crashable.linux.partition("pci0/sdb/sdb5", (8, 21), 1032 * 512, bytes);
    let error = crashable.plan(&["PARTUUID=5f0e8a3c-05"], &Options::default()).unwrap_err();
    assert!(error.to_string().contains("there are several, /dev/sda5, /dev/sdb5"), "{error}");
    let plan = crashable.plan(&[], &Options::default()).unwrap();
    assert_eq!((plan.names(), plan.warnings.len()), (vec!["/dev/sda5"], 1));
    assert_eq!(crashable.plan(&["/dev/sdb5", "/dev/sda5"], &Options::default()).unwrap().targets.len(), 2);
}

#[test]
fn what_arming_writes_is_what_was_planned_and_nothing_else_changes() {
    let crashable = Crashable::with_disk();
    crashable.linux.module("armed", "", STATUS);
    let before = fs::read(crashable.linux.path("dev/sda5")).unwrap();
    let options = options("level = 17\nverify = \"ahead\"\nserial = \"0x2f8\"");
    let mut plan = crashable.plan(&["/dev/sda5"], &options).unwrap();
    let armed = arming::arm(&crashable.system, &mut plan, &options).unwrap();
    assert_eq!(crashable.told(), format!("{}\n", plan.words));
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID);
    assert_eq!(
        plan.words,
        format!(
            "target=/dev/sda5 uuid={uuid} level=17 verify=ahead serial=0x2f8 notes=0x7fc12000,0x7fd12000"
        )
    );
    assert!(!armed.kdump_put_behind && crashable.waits() == "N\n");
    assert_eq!(armed.status.get("device"), Some("virtio-blk 0000:00:05.0"));
    assert!(fs::read(crashable.linux.path("dev/sda5")).unwrap() == before);

    let module = Module::of(&crashable.system).unwrap();
    assert_eq!(
        (module.state().unwrap(), module.held().unwrap()),
        (State::Armed, vec!["/dev/vdb2".to_owned()])
    );
    module.disarm().unwrap();
    assert_eq!(crashable.linux.text("sys/kernel/diskdump/disarm"), "1\n");
}

#[test]
fn a_crash_kernel_is_put_behind_only_while_the_module_arms() {
    let crashable = Crashable::with_disk();
    crashable.linux.kdump(true, "N");
    let options = Options::default();
    let mut plan = crashable.plan(&["/dev/sda5"], &options).unwrap();
    crashable.linux.module("refused", "there is no memory \u{1b}[31mfor the arena", "");
    crashable.linux.refuses("sys/kernel/diskdump/arm");
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err().to_string();
    assert_eq!(error, "the kernel refused to arm /dev/sda5: there is no memory \\u{1b}[31mfor the arena");
    assert_eq!(crashable.waits(), "N\n");

    let crashable = Crashable::with_disk();
    crashable.linux.kdump(true, "N");
    let mut plan = crashable.plan(&["/dev/sda5"], &options).unwrap();
    assert!(arming::arm(&crashable.system, &mut plan, &options).unwrap().kdump_put_behind);
    assert_eq!((crashable.waits().as_str(), Kernel::of(&crashable.system).kdump()), ("Y\n", Kdump::Behind));
    // The second arming finds it set, so its failure does not undo it.
    crashable.linux.refuses("sys/kernel/diskdump/arm");
    assert!(arming::arm(&crashable.system, &mut plan, &options).is_err());
    assert_eq!(crashable.waits(), "Y\n");
}

#[test]
fn a_parameter_that_cannot_be_set_leaves_the_kernel_disarmed() {
    let crashable = Crashable::with_disk();
    crashable.linux.kdump(true, "N");
    crashable.linux.refuses("sys/module/kernel/parameters/crash_kexec_post_notifiers");
    let options = Options::default();
    let mut plan = crashable.plan(&["/dev/sda5"], &options).unwrap();
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err();
    assert!(matches!(error, ArmError::KdumpFirst { .. }), "{error}");
    assert_eq!(crashable.told(), "");
}

#[test]
fn a_dump_that_waits_is_told_of_and_is_no_obstacle() {
    let crashable = Crashable::new();
    let mut disk = formatted(200);
    write_dump(&mut disk, 1, &Machine::small());
    crashable.linux.device("pci0/sda", (8, 0), &disk);
    let plan = crashable.plan(&["/dev/sda"], &Options::default()).unwrap();
    assert_eq!((plan.targets[0].waiting, plan.warnings.len()), (1, 0), "{:?}", plan.warnings);
    let told: Vec<String> = plan.waiting().collect();
    assert_eq!(told, ["/dev/sda: 1 dump waits there; the next is written after it, into the free space"]);
}

#[test]
fn of_targets_that_were_found_one_that_the_module_refuses_is_left_out() {
    let reason = "/dev/sd1: there is no polled driver for it";
    let refusing = |state| {
        let crashable = with_partitions(3);
        crashable.linux.module(state, reason, STATUS);
        crashable.linux.refuses("sys/kernel/diskdump/arm");
        crashable
    };
    let options = Options::default();
    let crashable = refusing("refused");
    let mut plan = crashable.plan(&[], &options).unwrap();
    // This module refuses every attempt. After the first, its reason names none of the targets that are left.
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err().to_string();
    assert_eq!(error, format!("the kernel refused to arm /dev/sd0, /dev/sd2: {reason}"));
    assert_eq!(plan.names(), ["/dev/sd0", "/dev/sd2"]);
    assert!(!plan.words.contains("sd1") && plan.words.contains("target=/dev/sd2"), "{}", plan.words);
    assert_eq!(
        plan.warnings,
        ["/dev/sd1 is left out, because the kernel refused to arm it: there is no polled driver for it"]
    );
    // With only one target, its name is printed once.
    let mut plan = crashable.plan(&["/dev/sd1"], &options).unwrap();
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err().to_string();
    assert_eq!(error, format!("the kernel refused to arm {reason}"));
    // A target that was named is left out, too, unless the plan is all or nothing.
    let mut plan = crashable.plan(&["/dev/sd0", "/dev/sd1"], &options).unwrap();
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err().to_string();
    assert_eq!(error, format!("the kernel refused to arm /dev/sd0: {reason}"));
    assert_eq!(plan.left_out, ["the kernel refused to arm /dev/sd1: there is no polled driver for it"]);
    let mut plan = crashable.plan(&["/dev/sd0", "/dev/sd1"], &options).unwrap().strict().unwrap();
    let error = arming::arm(&crashable.system, &mut plan, &options).unwrap_err().to_string();
    assert_eq!(error, format!("the kernel refused to arm /dev/sd0, /dev/sd1: {reason}"));
}

#[test]
fn a_target_that_is_gone_or_unfit_does_not_take_the_others_with_it() {
    let crashable = with_partitions(2);
    crashable.linux.device("pci0/sdx", (9, 0), &vec![7; 20 * BLOCK_SIZE]);
    crashable.linux.device("virtual/block/dm-0", (253, 0), &formatted(20));
    let gone = "PARTUUID=5f0e8a3c-01";
    for (lost, why) in [
        (gone, "no such partition"),
        ("/dev/sdx", "it is not a dump partition"),
        ("/dev/dm-0", "made of other devices by the kernel"),
        ("/dev/nowhere", "No such file"),
        ("/dev/sd0", "named twice"),
    ] {
        for names in [["/dev/sd0", "/dev/sd1", lost], ["/dev/sd0", lost, "/dev/sd1"]] {
            let plan = crashable.plan(&names, &Options::default()).unwrap();
            assert_eq!(plan.names(), ["/dev/sd0", "/dev/sd1"], "{names:?}");
            assert!(plan.left_out.len() == 1 && plan.left_out[0].contains(why), "{:?}", plan.left_out);
            assert!(matches!(plan.strict(), Err(ArmError::NotAll { .. })));
        }
    }
    let error = crashable.plan(&[gone, "/dev/sdx"], &Options::default()).unwrap_err().to_string();
    assert!(error.contains("no such partition") && error.contains("it is not a dump partition"), "{error}");
}

#[test]
fn words_for_other_boots_have_no_addresses_of_this_one() {
    let crashable = Crashable::with_disk();
    let plan = crashable.plan(&["/dev/sda5"], &options("level = 17")).unwrap();
    assert!(plan.words.contains(" notes=0x"), "{}", plan.words);
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID);
    assert_eq!(plan.lasting_words(), format!("target=/dev/sda5 uuid={uuid} level=17 serial=0x3f8"));
}

/// A Linux with this many dump partitions, each with its own uuid.
fn with_partitions(number: u8) -> Crashable {
    let crashable = Crashable::new();
    for number in 0..number {
        let mut disk = vec![0; 20 * BLOCK_SIZE];
        let machine = Some(savecore::ownership::Machine::from_text(crate::linux::MACHINE).unwrap().id);
        let plan =
            partition::Plan { uuid: [number; 16], name: String::new(), created: 0, recipient: None, machine };
        partition::format(&mut disk, &plan, &mut ()).unwrap();
        crashable.linux.device(&format!("pci0/sd{number}"), (8, number.into()), &disk);
    }
    crashable
}

#[test]
fn of_many_partitions_the_first_few_are_armed() {
    let crashable = with_partitions(6);
    let plan = crashable.plan(&[], &Options::default()).unwrap();
    assert_eq!(plan.names(), ["/dev/sd0", "/dev/sd1", "/dev/sd2", "/dev/sd3"]);
    assert_eq!(plan.warnings.len(), 2);
    let names: Vec<String> = (0..=MAX_TARGETS).map(|number| format!("/dev/sd{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = crashable.plan(&names, &Options::default()).unwrap();
    assert_eq!(plan.names(), names[..MAX_TARGETS]);
    assert_eq!(plan.left_out, ["/dev/sd4: a kernel can be armed on at most 4 targets"]);
}

fn values() -> impl Strategy<Value = String> {
    let line = |key: &'static str, values: BoxedStrategy<String>| {
        proptest::option::of(values.prop_map(move |value| format!("{key} = {value}\n")))
            .prop_map(Option::unwrap_or_default)
    };
    let word = |words: &'static [&'static str]| {
        prop::sample::select(words).prop_map(|word| format!("{word:?}")).boxed()
    };
    let number =
        |numbers: std::ops::RangeInclusive<u64>| numbers.prop_map(|number| number.to_string()).boxed();
    let lines = (
        line("level", number(0..=63)),
        line("compress", word(&["lz4", "none"])),
        line("budget", number(1..=86_400)),
        line("timeout", number(1..=600_000)),
        line("verify", word(&["all", "ahead", "samples:1", "samples:4096"])),
        line("helpers", number(0..=8192)),
        line("risky", any::<bool>().prop_map(|yes| yes.to_string()).boxed()),
        line("clear_after_encrypted", any::<bool>().prop_map(|yes| yes.to_string()).boxed()),
        line("log", word(&["0B", "64KiB", "1GiB"])),
        line("then", word(&["reboot", "continue", "halt"])),
        line("notify", word(&["guarded", "always", "never"])),
        line("serial", word(&["console", "none", "0x100", "0xfff8"])),
    );
    lines.prop_map(|lines| {
        let (a, b, c, d, e, f, g, h, i, j, k, l) = lines;
        [a, b, c, d, e, f, g, h, i, j, k, l].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The module's own parser is the judge.
    #[test]
    fn the_module_understands_whatever_the_configuration_can_say(
        values in values(),
        targets in 1..=4_u8,
        cpus in 0..300_u64,
    ) {
        let crashable = with_partitions(targets);
        for cpu in 0..cpus {
            let note = format!("sys/devices/system/cpu/cpu{cpu}/crash_notes");
            crashable.linux.file(&note, format!("{:x}\n", (cpu + 1) << 44 | 0xff00));
        }
        let plan = crashable.plan(&[], &options(&values)).unwrap();
        prop_assert!(plan.words.len() < MAX_WORDS && !plan.words.contains('\n'));
        let words = Words::parse(&plan.words);
        prop_assert!(words.is_ok(), "{}: {}", plan.words, words.unwrap_err());
        let words = words.unwrap();
        prop_assert!(words.targets().map(|target| target.path).eq(plan.names()));
        prop_assert!(words.targets().all(|target| target.uuid.is_some()));
        let told = words.notes().count() as u64;
        // There are always two CPUs. If there are too many, their notes are left out: the module finds them
        // itself.
        prop_assert!(told == cpus.max(2) || (told == 0 && cpus > 150));
        prop_assert!(values.contains("level") || words.level.bits() == 31);
    }
}

#[test]
fn a_system_without_sysfs_is_an_error() {
    let crashable = Crashable::new();
    fs::remove_dir_all(crashable.linux.path("sys")).unwrap();
    for names in [&[][..], &["PARTUUID=5f0e8a3c-05"], &["UUID=30313233-3435-3637-3839-616263646566"]] {
        let error = crashable.plan(names, &Options::default()).unwrap_err();
        assert!(matches!(error, ArmError::Devices(_)), "{error}");
    }
    assert!(matches!(Module::of(&crashable.system), Err(ArmError::NotLoaded { .. })));
}
