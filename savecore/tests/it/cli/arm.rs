//! `savecore boot` and `savecore drill` on a Linux of files whose kernel has the diskdump module.

use std::fs;

use super::{Place, json, run};
use crate::common::{Machine, partition as formatted, write_dump};
use crate::linux::Linux;

/// A Linux with one dump partition, and a configuration with this [arm].
fn crashable(place: &Place, disk: &[u8], arm: &str) -> (Linux, String) {
    let linux = Linux::new(&place.path("linux"));
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

/// Lines that say something else than that the dump is a small one.
fn warnings(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| !line.contains("no CPU's page tables are known")).collect()
}

const ARM: &str = "sys/kernel/diskdump/arm";
const DISARM: &str = "sys/kernel/diskdump/disarm";

#[test]
fn booting_saves_what_waits_and_then_arms_if_it_is_told_to() {
    let place = Place::new();
    let (linux, config) =
        crashable(&place, &with_dump(), "boot = true\ntargets = [\"/dev/vdb\"]\nlevel = 17");
    let (code, stdout, stderr) = boot(&place, &config, &[]);
    assert_eq!((code, warnings(&stderr)), (0, Vec::new()));
    assert!(stdout.ends_with("the kernel is armed on /dev/vdb\n"), "{stdout}");
    assert!(linux.text(ARM).starts_with("target=/dev/vdb uuid=") && linux.text(ARM).contains(" level=17 "));
    assert_eq!((place.crashes("out").len(), linux.text(DISARM).as_str()), (1, ""));
    assert!(fs::read(linux.path("dev/vdb")).unwrap() == formatted(200));

    // Without a word about it, nothing is armed.
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "level = 17");
    assert_eq!(boot(&place, &config, &[]).0, 0);
    assert_eq!((linux.text(ARM).as_str(), linux.text(DISARM).as_str()), ("", ""));
}

#[test]
fn an_armed_kernel_is_disarmed_for_a_dump_and_for_nothing_less() {
    for (disk, waits) in [(with_dump(), true), (formatted(200), false)] {
        for arm in ["", "boot = true\ntargets = [\"/dev/vdb\"]"] {
            let place = Place::new();
            let (linux, config) = crashable(&place, &disk, arm);
            linux.module("armed", "", "target=/dev/vdb\n");
            let (code, stdout, stderr) = boot(&place, &config, &["--json"]);
            assert_eq!((code, warnings(&stderr)), (0, Vec::new()));
            let done = json(&stdout[stdout.find('{').unwrap()..]);
            let armed = done["armed"].as_array().unwrap();
            assert_eq!((linux.text(DISARM) == "1\n", armed.len()), (waits, usize::from(waits)), "{arm}");
            assert_eq!(linux.text(ARM).starts_with("target=/dev/vdb uuid="), waits, "{arm}");
            assert_eq!(place.path("out").exists() && !place.crashes("out").is_empty(), waits);
            assert!(fs::read(linux.path("dev/vdb")).unwrap() == formatted(200));
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

    // One that waits is newer, and the module has seen it itself.
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

    // A module that does not take it is armed all the same.
    linux.file("dev/vdb", formatted(200));
    linux.refuses(last);
    let (code, _, stderr) = run(["arm", "/dev/vdb", "--config", &config, "--system", &system]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_kernel_that_does_not_let_go_keeps_its_dump_and_the_store_gets_it_too() {
    let place = Place::new();
    let (linux, config) = crashable(&place, &with_dump(), "");
    linux.module("armed", "", "target=/dev/vdb\n");
    linux.refuses(DISARM);
    let (code, stdout, stderr) = boot(&place, &config, &[]);
    assert_eq!(code, 2, "{stdout}{stderr}");
    assert!(stderr.contains("the kernel does not let go of /dev/vdb: cannot write"), "{stderr}");
    assert_eq!(place.crashes("out").len(), 1);
    assert!(fs::read(linux.path("dev/vdb")).unwrap() == with_dump());
    assert_eq!(linux.text(ARM), "");
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
        stderr.contains("the kernel is not armed: the kernel does not arm /dev/vdb: its IOMMU has no room")
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
    assert!(stderr.contains("/dev/vdb: 1 dump waits there; the next goes behind"), "{stderr}");
    assert!(linux.text(ARM).starts_with("target=/dev/vdb"));
}

/// The marks of all lines of a drill about the kernel, with what they are about and say.
fn drill(place: &Place, config: &str) -> Vec<String> {
    let (code, stdout, stderr) =
        run(["drill", "--quick", "--json", "--config", config, "--system", &place.text("linux")]);
    assert!(code < 2 && stderr.is_empty(), "{stderr}");
    let drill = json(&stdout);
    let lines = drill["lines"].as_array().unwrap().iter();
    lines
        .filter(|line| {
            let about = line["about"].as_str().unwrap();
            about.starts_with("kernel") || about == "kdump" || about == "/dev/vdb"
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
        "ok kernel.panic the machine comes up again, also if a dump is refused",
    ];
    assert_eq!(drill(&place, &config), good);

    // A hardware watchdog that runs, and is quicker than a dump may be.
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
        "fail kdump a crash kernel is loaded and goes first",
    ] {
        assert!(bad.iter().any(|line| line.starts_with(part)), "{part}: {bad:#?}");
    }

    linux.module("armed", "", "target=/dev/vdz\n");
    let elsewhere = drill(&place, &config);
    assert!(
        elsewhere.iter().any(|line| line.starts_with("fail kernel what it is armed on cannot be used")),
        "{elsewhere:#?}"
    );
    linux.module("refused", "a CPU came", "");
    assert!(drill(&place, &config).contains(&"fail kernel it refused to be armed: a CPU came".to_owned()));
    fs::remove_dir_all(linux.path("sys/kernel/diskdump")).unwrap();
    assert!(drill(&place, &config)[0].starts_with("fail kernel the kernel's diskdump module is not loaded"));
    // A kernel that nobody wants to be armed from here is none of our business.
    let text = fs::read_to_string(&config).unwrap().replace("boot = true", "boot = false");
    fs::write(&config, text).unwrap();
    assert_eq!(drill(&place, &config), Vec::<String>::new());
}
