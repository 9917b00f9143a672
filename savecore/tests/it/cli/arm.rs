//! `savecore boot` and `savecore drill` on a Linux made of files whose kernel has the diskdump module.
//!
//! One file: a list of independent tests.

use std::fs;

use super::{Place, json, run};
use crate::common::{Machine, UUID, partition as formatted, write_dump};
use crate::linux::Linux;

/// A Linux with one dump partition, and a configuration with this `[arm]` section.
fn crashable(place: &Place, disk: &[u8], arm: &str) -> (Linux, String) {
    let linux = Linux::new(&place.path("linux"));
    linux.owns(uuid::Uuid::from_bytes(UUID));
    linux.device("pci0/vdb", (254, 16), disk);
    linux.module("disarmed", "", "target=/dev/vdb\nlevel=31\nlevel_asked=31\n");
    let target = linux.path("dev/vdb");
    let config = place.config(&[target.to_str().unwrap()], &format!("min_free = \"1KiB\"\n[arm]\n{arm}"));
    (linux, config)
}

fn with_dump() -> Vec<u8> {
    let mut disk = formatted(200);
    write_dump(&mut disk, 1, &Machine::small());
    disk
}

fn boot(place: &Place, config: &str, more: &[&str]) -> (i32, String, String) {
    run([&["boot", "--config", config, "--system", &place.text("linux")], more].concat())
}

/// All lines except the warning that every small dump of these tests causes.
fn warnings(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| !line.contains("no CPU's page tables are known")).collect()
}

const ARM: &str = "sys/kernel/diskdump/arm";
const DISARM: &str = "sys/kernel/diskdump/disarm";

/// Adds a hook that copies the module's file just before dumps are saved.
fn looking_at(linux: &Linux, place: &Place, name: &str, config: &str) -> String {
    let (file, seen) = (linux.path(name), place.text("seen"));
    let text = fs::read_to_string(config).unwrap();
    let hook = format!("pre = [\"/bin/cp\", {file:?}, {seen:?}]\n[arm]");
    fs::write(config, text.replace("[arm]", &hook)).unwrap();
    seen
}

#[test]
fn booting_arms_first_and_then_saves_what_waits() {
    let place = Place::new();
    let (linux, config) =
        crashable(&place, &with_dump(), "boot = true\ntargets = [\"/dev/vdb\"]\nlevel = 17");
    let seen = looking_at(&linux, &place, ARM, &config);
    let (code, stdout, stderr) = boot(&place, &config, &[]);
    assert_eq!((code, warnings(&stderr)), (0, Vec::new()));
    assert!(stdout.starts_with("the kernel is armed on /dev/vdb\n"), "{stdout}");
    assert!(linux.text(ARM).starts_with("target=/dev/vdb uuid=") && linux.text(ARM).contains(" level=17 "));
    assert_eq!(fs::read_to_string(seen).unwrap(), linux.text(ARM), "it was armed before anything was saved");
    assert_eq!((place.crashes("out").len(), linux.text(DISARM).as_str()), (1, ""));
    assert!(fs::read(linux.path("dev/vdb")).unwrap() == formatted(200));

    // Nothing is armed if the configuration says so.
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "boot = false\nlevel = 17");
    let (code, stdout, _) = boot(&place, &config, &[]);
    assert_eq!((code, linux.text(ARM).as_str(), linux.text(DISARM).as_str()), (0, "", ""));
    assert!(stdout.starts_with("the kernel is not armed: [arm] says boot = false\n"), "{stdout}");
}

/// The state after a reboot: /run is empty, and the module is newly loaded.
fn reboot(linux: &Linux) {
    let _ = fs::remove_dir_all(linux.path("run"));
    linux.module("disarmed", "", "");
    linux.file(ARM, "");
    linux.file(DISARM, "");
}

#[test]
fn without_a_word_in_the_configuration_the_kernel_is_armed_after_a_reboot_as_it_was_told_before() {
    let place = Place::new();
    let linux = Linux::new(&place.path("linux"));
    linux.device("pci0/vdb", (254, 16), &formatted(200));
    let mut other = vec![0; 60 * dumpcore::format::BLOCK_SIZE];
    let plan = savecore::partition::Plan {
        uuid: [9; 16],
        name: String::new(),
        created: 0,
        recipient: None,
        machine: None,
    };
    savecore::partition::format(&mut other, &plan, &mut ()).unwrap();
    linux.device("pci0/vdc", (254, 32), &other);
    let own = [crate::common::UUID, plan.uuid].map(uuid::Uuid::from_bytes);
    linux.file("var/lib/savecore/partitions", own.map(|uuid| format!("{uuid}\n")).concat());
    let config = place.config(&[], "min_free = \"1KiB\"");
    let text = fs::read_to_string(&config).unwrap().replace("targets = []\n", "");
    fs::write(&config, text).unwrap();
    let system = place.text("linux");
    let tell = |words: &[&str]| run([words, &["--config", &config, "--system", &system]].concat());
    let boots = || {
        reboot(&linux);
        let (code, stdout, stderr) = boot(&place, &config, &[]);
        (code, stdout.lines().find(|line| line.contains("kernel")).unwrap_or_default().to_owned(), stderr)
    };

    // Without instructions, everything that was found is armed.
    assert_eq!(boots().1, "the kernel is armed on /dev/vdb, /dev/vdc");
    // One is chosen.
    assert_eq!(tell(&["arm", "/dev/vdc"]).0, 0);
    assert_eq!(boots(), (0, "the kernel is armed on /dev/vdc".to_owned(), String::new()));
    // That one gets another name.
    fs::rename(linux.path("dev/vdc"), linux.path("dev/vdd")).unwrap();
    fs::remove_file(linux.path("sys/class/block/vdc")).unwrap();
    linux.device("pci0/vdd", (254, 48), &other);
    assert_eq!(boots(), (0, "the kernel is armed on /dev/vdd".to_owned(), String::new()));
    // It was disarmed on purpose: `boot` leaves it so, and says so.
    let (code, stdout, _) = tell(&["disarm"]);
    assert!(code == 0 && stdout.contains("it stays disarmed until `savecore arm`"), "{stdout}");
    let (code, line, _) = boots();
    assert!(
        code == 0 && line.starts_with("the kernel is not armed: `savecore disarm` was called on 2"),
        "{line}"
    );
    assert_eq!(linux.text(ARM), "");
    // Both are armed again, then one is gone: the other is armed, and the missing one is reported.
    assert_eq!(tell(&["arm", "/dev/vdb", "/dev/vdd"]).0, 0);
    fs::remove_file(linux.path("sys/class/block/vdd")).unwrap();
    fs::remove_file(linux.path("dev/vdd")).unwrap();
    let (code, line, stderr) = boots();
    assert_eq!((code, line.as_str()), (1, "the kernel is armed on /dev/vdb"), "{stderr}");
    assert!(
        stderr.contains("the kernel should be armed on one more target: cannot open /dev/vdd"),
        "{stderr}"
    );
    // Without the module that is an error, because it should have been armed.
    fs::remove_dir_all(linux.path("sys/kernel/diskdump")).unwrap();
    let (code, _, stderr) = boot(&place, &config, &[]);
    assert!(
        code == 1 && stderr.contains("the kernel is not armed: the kernel's diskdump module"),
        "{stderr}"
    );
}

#[test]
fn a_kernel_that_somebody_else_has_armed_is_armed_anew_since_its_words_may_be_of_another_boot() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &formatted(200), "");
    linux.module("armed", "", "target=/dev/vdb\n");
    let (code, stdout, stderr) = boot(&place, &config, &[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("the kernel is armed on /dev/vdb\n"), "{stdout}");
    assert!(linux.text(ARM).contains(" notes=0x7fc12000,"));
    assert_eq!(linux.text(DISARM), "");
}

#[test]
fn a_kernel_that_stays_armed_tells_at_each_boot_of_a_target_that_is_gone() {
    let place = Place::new();
    let (linux, config) =
        crashable(&place, &formatted(200), "boot = true\ntargets = [\"/dev/gone\", \"/dev/vdb\"]");
    for (how, told) in [("is armed", "disarmed"), ("stays armed", "armed")] {
        let uuid = uuid::Uuid::from_bytes(UUID);
        linux.module(told, "", &format!("target=/dev/vdb\nuuid={uuid}\nlevel=31\nlevel_asked=31\n"));
        let (code, stdout, stderr) = boot(&place, &config, &[]);
        assert!(code == 1 && stdout.contains(&format!("the kernel {how} on /dev/vdb\n")), "{stdout}{stderr}");
        assert!(stderr.contains("should be armed on one more target: cannot open /dev/gone"), "{stderr}");
    }
}

#[test]
fn a_target_that_lost_its_label_is_told_of_by_armed() {
    let place = Place::new();
    let (linux, _) = crashable(&place, &formatted(200), "");
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID);
    linux.module("armed", "", &format!("target=/dev/vdb\nuuid={uuid}\n"));
    let armed = || run(["armed", "--system", &place.text("linux")]);
    assert_eq!(armed().0, 0);
    let mut disk = formatted(200);
    disk[..4096].fill(0);
    linux.file("dev/vdb", &disk);
    let (code, stdout, _) = armed();
    assert!(code == 1 && stdout.contains("a dump there is refused"), "{stdout}");
}

#[test]
fn a_kernel_that_is_armed_stays_armed_while_its_dumps_are_saved_and_freed() {
    for disk in [with_dump(), formatted(200)] {
        let waits = disk != formatted(200);
        for arm in ["", "boot = true\ntargets = [\"/dev/vdb\"]"] {
            let place = Place::new();
            let (linux, config) = crashable(&place, &disk, arm);
            linux.module("armed", "", "target=/dev/vdb\n");
            let (code, stdout, stderr) = boot(&place, &config, &["--json"]);
            assert_eq!((code, warnings(&stderr)), (0, Vec::new()));
            assert_eq!(json(&stdout)["armed"].as_array().unwrap().len(), 1);
            assert_eq!(linux.text(DISARM), "", "{arm}");
            assert_eq!(place.path("out").exists() && !place.crashes("out").is_empty(), waits);
            assert!(fs::read(linux.path("dev/vdb")).unwrap() == formatted(200));
            let last = linux.text("sys/kernel/diskdump/last");
            assert_eq!(last.starts_with("result=complete\n"), waits, "the module is told what became of it");
        }
    }
}

#[test]
fn the_module_is_told_what_became_of_the_last_dump_unless_a_newer_one_waits() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "boot = true\ntargets = [\"/dev/vdb\"]");
    let last = "sys/kernel/diskdump/last";
    let (code, stdout, stderr) = boot(&place, &config, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let told = linux.text(last);
    let folder = place.crashes("out").remove(0);
    assert!(
        told.starts_with("result=complete\n") && told.trim_end().ends_with(folder.to_str().unwrap()),
        "{told}"
    );

    // A waiting dump is newer, and the module has seen it itself.
    linux.file("dev/vdb", with_dump());
    linux.file(last, "result=incomplete\nwhy=the partition was full\ntime=0\nplace=/dev/vdb\n");
    let system = place.text("linux");
    let (code, _, stderr) = run(["arm", "/dev/vdb", "--config", &config, "--system", &system]);
    assert_eq!(code, 0, "{stderr}");
    assert!(linux.text(last).starts_with("result=incomplete"));
    let (_, stdout, _) = run(["armed", "--system", &system]);
    assert!(
        stdout.contains("last dump    incomplete, since the partition was full, in /dev/vdb"),
        "{stdout}"
    );

    // A module that does not accept the result is armed all the same.
    linux.file("dev/vdb", formatted(200));
    linux.refuses(last);
    let (code, _, stderr) = run(["arm", "/dev/vdb", "--config", &config, "--system", &system]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_kernel_that_cannot_be_armed_is_told_of_and_the_dump_is_safe() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "boot = true\ntargets = [\"/dev/vdb\"]");
    linux.module("refused", "its IOMMU has no room", "");
    linux.refuses(ARM);
    let (code, _, stderr) = boot(&place, &config, &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("the kernel is not armed: the kernel refused to arm /dev/vdb: its IOMMU has no room")
    );
    assert_eq!(place.crashes("out").len(), 1);

    fs::remove_dir_all(linux.path("sys/kernel/diskdump")).unwrap();
    let (code, _, stderr) = boot(&place, &config, &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("the kernel is not armed: the kernel's diskdump module is not loaded"),
        "{stderr}"
    );
}

#[test]
fn a_dump_that_is_left_for_later_does_not_keep_the_kernel_from_being_armed() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "boot = true\ntargets = [\"/dev/vdb\"]");
    let text = fs::read_to_string(&config).unwrap().replace("store = ", "store = \"s3://nowhere/crash\" # ");
    fs::write(&config, text).unwrap();
    let (code, stdout, stderr) = boot(&place, &config, &["--note", &place.text("later")]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stdout.contains("the kernel is armed on /dev/vdb") && place.path("later").exists(), "{stdout}");
    assert_eq!(stderr, "");
    assert!(linux.text(ARM).starts_with("target=/dev/vdb"));
}

/// The second disk appears late; the configuration names both.
fn with_a_late_disk(place: &Place) -> (Linux, String) {
    let (linux, config) =
        crashable(place, &formatted(200), "boot = true\ntargets = [\"/dev/vdb\", \"/dev/vdc\"]");
    let text = fs::read_to_string(&config).unwrap();
    let late = linux.path("dev/vdc");
    fs::write(&config, text.replacen("targets = [\"/", &format!("targets = [{late:?}, \"/"), 1)).unwrap();
    (linux, config)
}

#[test]
fn a_disk_that_comes_late_is_waited_for_and_then_saved_and_armed_once() {
    let place = Place::new();
    let (linux, config) = with_a_late_disk(&place);
    let (code, _, stderr) = boot(&place, &config, &[]);
    assert!(code < 2, "{stderr}");
    assert!(stderr.contains("waiting for ") && stderr.contains("/dev/vdc: its dumps are saved"), "{stderr}");

    linux.device("pci0/vdc", (254, 32), &with_dump());
    let device = linux.path("dev/vdc");
    let late = ["--device", device.to_str().unwrap()];
    let (code, stdout, stderr) = boot(&place, &config, &late);
    assert_eq!((code, warnings(&stderr)), (0, Vec::new()));
    assert!(stdout.starts_with("the kernel is armed on /dev/vdb, /dev/vdc\n"), "{stdout}");
    assert_eq!(place.crashes("out").len(), 1);
    assert!(fs::read(&device).unwrap() == formatted(200));

    // The next run finds that everything is done.
    linux.module("armed", "", "target=/dev/vdb\ntarget=/dev/vdc\n");
    linux.file(ARM, "");
    assert_eq!(boot(&place, &config, &late).0, 0);
    assert_eq!((linux.text(ARM).as_str(), place.crashes("out").len()), ("", 1));
    // A kernel that is armed on fewer targets than it should be is armed again. A disk that is not a target
    // is left alone.
    linux.module("armed", "", "target=/dev/vdb\n");
    linux.device("pci0/vdd", (254, 48), &with_dump());
    let other = linux.path("dev/vdd");
    let (code, stdout, _) = boot(&place, &config, &["--device", other.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(
        linux.text(ARM).starts_with("target=/dev/vdb uuid=") && stdout.contains("not one of the targets"),
        "{stdout}"
    );
    assert!(fs::read(&other).unwrap() == with_dump());
}

#[test]
fn a_probe_tells_udev_of_a_label_and_of_nothing_else() {
    let place = Place::new();
    let image = place.image("image", &with_dump());
    let (code, stdout, _) = run(["probe", &image]);
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID);
    assert_eq!((code, stdout), (0, format!("DISKDUMP_LABEL={uuid}\n")));
    for bytes in [&[0; 4096][..], b"DISKDMPL"] {
        let (code, stdout, _) = run(["probe", &place.image("other", bytes)]);
        assert!(code > 0 && stdout.is_empty());
    }
}

/// A drill's lines about the kernel and its target: mark, subject and text.
fn drill(place: &Place, config: &str) -> Vec<String> {
    let (code, stdout, stderr) =
        run(["drill", "--quick", "--json", "--config", config, "--system", &place.text("linux")]);
    assert!(code < 2 && stderr.is_empty(), "{stderr}");
    let drill = json(&stdout);
    let lines = drill["lines"].as_array().unwrap().iter();
    lines
        .filter(|line| {
            let about = line["about"].as_str().unwrap();
            about.starts_with("kernel") || ["kdump", "pvpanic", "/dev/vdb"].contains(&about)
        })
        .map(|line| ["mark", "about", "found"].map(|key| line[key].as_str().unwrap()).join(" "))
        .collect()
}

#[test]
fn a_drill_says_what_would_keep_the_kernel_from_dumping() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &formatted(200), "boot = true\ntargets = [\"/dev/vdb\"]");
    linux.file("etc/modules-load.d/diskdump.conf", "# comes first\ndiskdump\n");
    let uuid = uuid::Uuid::from_bytes(crate::common::UUID);
    linux.module(
        "armed",
        "",
        &format!("target=/dev/vdb\nuuid={}\nlevel=31\nlevel_asked=31\n", uuid.simple()),
    );
    let good = [
        "ok kernel it is armed on /dev/vdb",
        "ok /dev/vdb its label is the one that the kernel looks for",
        "ok kernel.panic_on_oops an oops is a panic, and is dumped",
        "ok kernel.panic the machine comes up again even if a dump is refused",
    ];
    assert_eq!(drill(&place, &config), good);

    // A running hardware watchdog whose timeout is shorter than a dump may take.
    for (file, text) in [("state", "active\n"), ("timeout", "30\n"), ("identity", "iTCO_wdt\n")] {
        linux.file(&format!("sys/class/watchdog/watchdog0/{file}"), text);
    }
    let says = |budget: u32| {
        let status =
            format!("target=/dev/vdb\nuuid={}\nlevel=31\nlevel_asked=31\nbudget={budget}\n", uuid.simple());
        linux.module("armed", "", &status);
        let (_, _, stderr) = run(["arm", "/dev/vdb", "--config", &config, "--system", &place.text("linux")]);
        (drill(&place, &config), stderr)
    };
    let (lines, stderr) = says(15);
    let line = "warn kernel watchdog0 (iTCO_wdt) resets the machine after 30 s";
    assert!(lines.iter().any(|found| found.starts_with(line)), "{lines:#?}");
    assert!(stderr.contains("watchdog0 (iTCO_wdt) resets the machine after 30 s"), "{stderr}");
    let (lines, stderr) = says(14);
    assert_eq!((lines.len(), stderr.as_str()), (good.len(), ""));
    linux.file("sys/class/watchdog/watchdog0/state", "inactive\n");
    assert_eq!(says(15).0.len(), good.len());
    // A management controller's watchdog, which is not in /sys/class/watchdog.
    for (file, text) in [("refcnt", "1\n"), ("parameters/timeout", "30\n"), ("parameters/action", "reset\n")]
    {
        linux.file(&format!("sys/module/ipmi_watchdog/{file}"), text);
    }
    let (lines, stderr) = says(15);
    let line = "warn kernel ipmi_watchdog resets the machine after 30 s";
    assert!(lines.iter().any(|found| found.starts_with(line)), "{lines:#?}");
    assert!(stderr.contains("ipmi_watchdog resets the machine after 30 s"), "{stderr}");
    linux.file("sys/module/ipmi_watchdog/refcnt", "0\n");
    assert_eq!(says(15).0.len(), good.len());

    // A host that receives panic events.
    let events = "sys/bus/pci/drivers/pvpanic-pci/0000:00:05.0/events";
    linux.file(events, "0x3\n");
    for (more, line) in [
        ("notify=guarded\ncpus=2\n", "ok pvpanic the host hears of a panic after the dump"),
        ("notify=always\ncpus=1\n", "ok pvpanic the host hears of a panic after the dump"),
        ("notify=guarded\ncpus=1\n", "warn pvpanic the host does not hear of a panic that was dumped"),
        ("notify=never\ncpus=2\n", "warn pvpanic the host does not hear of a panic that was dumped"),
        ("notify=always\nthen=halt\n", "warn pvpanic the host does not hear of a panic that was dumped"),
        ("", "warn pvpanic the host hears of a panic first"),
    ] {
        let status = format!("target=/dev/vdb\nuuid={}\nlevel=31\nlevel_asked=31\n{more}", uuid.simple());
        linux.module("armed", "", &status);
        let lines = drill(&place, &config);
        assert!(lines.iter().any(|found| found.starts_with(line)), "{more}: {lines:#?}");
    }
    linux.file(events, "0x2\n");
    assert_eq!(drill(&place, &config), good);

    linux.file("proc/sys/kernel/panic_on_oops", "0\n");
    linux.file("proc/sys/kernel/panic", "0\n");
    linux.file("etc/modules-load.d/diskdump.conf", "#diskdump\n");
    linux.kdump(true, "N");
    linux.module("armed", "", "target=/dev/vdb\nuuid=00000000000000000000000000000000\nlevel=1\nlevel_asked=31\nlevel_note=it lacks something\n");
    let bad = drill(&place, &config);
    for part in [
        "warn kernel nothing says that the diskdump module is to be loaded",
        "warn kernel it dumps at level 1, not 31: it lacks something",
        "fail /dev/vdb its label is not the one",
        "warn kernel.panic_on_oops it is 0",
        "warn kernel.panic it is 0",
        "fail kdump a crash kernel is loaded and runs first",
    ] {
        assert!(bad.iter().any(|line| line.starts_with(part)), "{part}: {bad:#?}");
    }

    linux.module("armed", "", "target=/dev/vdz\n");
    let elsewhere = drill(&place, &config);
    assert!(
        elsewhere.iter().any(|line| line.starts_with("fail kernel its target can no longer be used")),
        "{elsewhere:#?}"
    );
    linux.module("refused", "a CPU came", "");
    assert!(drill(&place, &config).contains(&"fail kernel it refused to be armed: a CPU came".to_owned()));
    fs::remove_dir_all(linux.path("sys/kernel/diskdump")).unwrap();
    let loaded = "fail kernel this kernel dumps nothing: the kernel's diskdump module is not loaded";
    assert!(drill(&place, &config)[0].starts_with(loaded));
    // Nobody asked savecore to arm it, so this is only a warning.
    let text = fs::read_to_string(&config).unwrap().replace("boot = true", "boot = false");
    fs::write(&config, text).unwrap();
    assert!(drill(&place, &config)[0].starts_with("warn kernel this kernel dumps nothing"));
}

#[test]
fn a_drill_tells_of_disks_that_a_crashed_kernel_may_not_get_to() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &formatted(200), "targets = [\"/dev/vdb\"]");
    linux.device("virtual/nvme-subsystem/nvme-subsys0/nvme0n1", (259, 1), &formatted(200));
    linux.device("virtual/block/dm-0", (253, 0), &formatted(200));
    let says = |name: &str, part: &str| {
        let target = linux.path(&format!("dev/{name}"));
        let system = place.text("linux");
        let (_, stdout, _) =
            run(["drill", "--quick", "--config", &config, "--system", &system, target.to_str().unwrap()]);
        stdout.lines().any(|line| line.starts_with(&format!("warn  /dev/{name}: ")) && line.contains(part))
    };
    assert!(says(
        "nvme0n1",
        "(NVMe multipath), and may not be able to dump there; if `savecore arm` refuses it: boot with"
    ));
    assert!(says("dm-0", "made of other devices, and no crashed kernel can write there"));
    assert!(!says("vdb", "multipath") && !says("vdb", "made of other devices"));
    // The module was able to arm there.
    linux.module("armed", "", "target=/dev/nvme0n1\nlevel=31\nlevel_asked=31\n");
    assert!(!says("nvme0n1", "multipath"));
}

#[test]
fn a_drill_counts_what_the_armed_kernel_would_dump() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &formatted(2000), "targets = [\"/dev/vdb\"]");
    let room = || {
        let (_, stdout, _) = run(["drill", "--quick", "--config", &config, "--system", &place.text("linux")]);
        let line = stdout.lines().find(|line| line.contains("vdb: ") && line.contains("are free"));
        line.unwrap_or_else(|| panic!("{stdout}")).to_owned()
    };
    let meminfo = |free: u32| {
        linux.file(
            "proc/meminfo",
            format!("MemTotal: 102400 kB\nMemFree: {free} kB\nCached: 9216 kB\nAnonPages: 10240 kB\n"),
        );
    };
    meminfo(81920);
    assert!(
        room().starts_with("ok ") && room().contains("a dump at level 31 would have 1 MiB"),
        "{}",
        room()
    );
    meminfo(71680);
    assert!(
        room().starts_with("warn") && room().contains("a dump at level 31 would have 11 MiB"),
        "{}",
        room()
    );
    // Level 1 excludes nothing that can be counted.
    linux.module("disarmed", "", "level=1\n");
    meminfo(81920);
    assert!(room().starts_with("warn") && room().contains("at level 1 would have 100 MiB"), "{}", room());
}

#[test]
fn a_check_without_a_target_reads_all_of_this_machines_own() {
    let place = Place::new();
    let (linux, _) = crashable(&place, &formatted(200), "");
    let system = place.text("linux");
    let (code, stdout, stderr) = run(["check", "--system", &system]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with(&format!("{}: ready", linux.path("dev/vdb").display())), "{stdout}");
    // A list, because no target was named.
    assert_eq!(json(&run(["check", "--json", "--system", &system]).1).as_array().unwrap().len(), 1);
    // The worst verdict counts, and a target that cannot be read does not hide the others.
    let damaged = {
        let mut disk = formatted(200);
        crate::common::block_mut(&mut disk, 150).fill(7);
        place.image("damaged", &disk)
    };
    let good = place.image("good", &formatted(200));
    let (code, stdout, _) = run(["check", &damaged, &good]);
    assert!(
        code == 1 && stdout.contains("damaged: damaged: block 150") && stdout.contains("good: ready"),
        "{stdout}"
    );
    let (code, stdout, stderr) = run(["check", &place.text("nothing"), &good, "--json"]);
    assert_eq!((code, stderr.lines().count(), json(&stdout)[0]["verdict"].as_str()), (2, 1, Some("ready")));
}

#[test]
fn formatting_what_is_made_of_other_devices_says_that_no_kernel_dumps_there() {
    let place = Place::new();
    let (linux, _) = crashable(&place, &formatted(200), "");
    linux.device("virtual/block/dm-0", (253, 0), &[0; 200 * 4096]);
    let format = |name: &str| {
        let target = linux.path(&format!("dev/{name}"));
        run(["format", "--yes", target.to_str().unwrap(), "--system", &place.text("linux")])
    };
    let (code, _, stderr) = format("dm-0");
    assert!(code == 0 && stderr.contains("made of other devices (LVM, RAID, dm-crypt, loop)"), "{stderr}");
    let (code, _, stderr) = format("vdb");
    assert_eq!((code, stderr.as_str()), (0, ""));
}
