//! Finding dump partitions: `savecore list`, and disks without a named partition.

use super::*;
use crate::sources::dos_disk;

fn put(disk: &mut [u8], sector: usize, bytes: &[u8]) {
    disk[sector * 512..][..bytes.len()].copy_from_slice(bytes);
}

#[test]
fn list_says_of_each_dump_partition_what_a_quick_look_tells() {
    let place = Place::new();
    let mut damaged = formatted(50);
    block_mut(&mut damaged, 49).fill(7);
    let mut disk = dos_disk();
    put(&mut disk, 64, &formatted(20));
    let images = [
        place.image("ready", &formatted(60)),
        place.image("waiting", &with_dump(&Machine::small())),
        place.image("damaged", &damaged),
        place.image("disk", &disk),
        place.image("foreign", &vec![7; 100_000]),
        place.image("small", b"few bytes"),
    ];
    let mut arguments = vec!["list"];
    arguments.extend(images.iter().map(String::as_str));
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    for part in [
        format!("{}: ready\n  \"test\", 240 KiB, 60 blocks, uuid {}, nobody's\n", images[0], uuid_text()),
        format!("{}: 1 dump waits\n", images[1]),
        format!("{}: damaged: block 49 holds foreign data\n", images[2]),
        format!("{}, partition 1: ready\n", images[3]),
    ] {
        assert!(stdout.contains(&part), "{stdout} should contain {part}");
    }
    assert_eq!(stdout.lines().count(), 8, "{stdout}");
    assert!(stderr.contains(&format!("{} has the uuid of {}", images[1], images[0])), "{stderr}");
    arguments.push("--json");
    let result = json(&run(&arguments).1);
    let states: Vec<_> = result["partitions"].as_array().unwrap().iter().map(|at| &at["state"]).collect();
    assert_eq!(states, ["ready", "waiting", "damaged", "ready"]);
    assert_eq!(result["partitions"][3]["partition"], "1");
    assert_eq!(result["partitions"][1]["waiting"], 1);

    let (code, stdout, stderr) = run(["list", &images[4]]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("no dump partition found"), "{stderr}");
    fails(["list", "/nonexistent"], "cannot open /nonexistent");
    fails(["list", "/dev/null"], "neither a file nor a block device");
}

#[test]
fn a_hostile_label_cannot_play_with_the_terminal() {
    let place = Place::new();
    let mut disk = formatted(20);
    let mut label = dumpcore::format::label::Label::parse(crate::common::block(&disk, 0)).unwrap().clone();
    label.name[..12].copy_from_slice(b"a\x1b[31m\n\x07\x9b\"b\xff");
    label.to_block(block_mut(&mut disk, 0));
    let image = place.image("image", &disk);
    let (code, stdout, _) = run(["list", &image]);
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stdout:?}");
    assert!(stdout.chars().all(|character| character == '\n' || !character.is_control()), "{stdout:?}");
}

#[test]
fn list_without_targets_looks_at_this_machines_devices_and_harms_none() {
    // What it finds depends on the machine; the form of its output does not.
    let (code, stdout, _) = run(["list", "--json"]);
    assert!(code < 2 && json(&stdout)["partitions"].is_array(), "{stdout}");
}

#[test]
fn the_only_dump_partition_of_a_dos_disk_is_checked_and_saved_without_being_named() {
    let place = Place::new();
    let mut disk = dos_disk();
    let before = disk.clone();
    let mut slot = formatted(20);
    write_dump(&mut slot, 1, &Machine { log: String::new(), ..Machine::new() });
    put(&mut disk, 1240, &slot);
    let image = place.image("disk", &disk);
    assert_eq!(run(["info", &image]).0, 0);
    let (code, stdout, stderr) = run(["save", &image, "-o", &place.out()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("cleared on {image}, partition 6")), "{stdout}");
    let mut expected = before;
    put(&mut expected, 1240, &formatted(20));
    assert!(fs::read(&image).unwrap() == expected, "a byte outside of the partition was changed");
    fails(["format", &image, "--yes"], "say which with --partition; there are: 1, 3, 5, 6");
    assert_eq!(run(["format", &image, "--partition", "5f0e8a3c-06", "--yes"]).0, 0);
    assert_eq!(run(["check", &image]).0, 0);
}

/// Runs the command with `input` coming through a pipe.
fn piped(arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = savecore(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // savecore may have enough before the end.
        scope.spawn(move || stdin.write_all(input));
        finish(child.wait_with_output().unwrap())
    })
}

#[test]
fn a_dump_that_comes_through_standard_input_is_saved_as_one_from_a_file_is() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let directory = |name: &str| {
        fs::create_dir(place.path(name)).unwrap();
        place.text(name)
    };
    let file = |name: &str| fs::read(place.cores(name).pop().unwrap()).unwrap();
    assert_eq!(run(["save", &image, "-o", &directory("core"), "--keep"]).0, 0);
    assert_eq!(run(["save", &image, "-o", &directory("raw"), "--keep", "--format", "raw"]).0, 0);
    let (core, copy) = (file("core"), file("raw"));
    let mut whole_disk = dos_disk();
    whole_disk.truncate(1024 * 512);
    put(&mut whole_disk, 0, &[0; 446]);
    whole_disk[446..510].fill(0);
    // One partition, which begins at sector 1024.
    whole_disk[446 + 4] = 0x83;
    whole_disk[446 + 8..446 + 12].copy_from_slice(&1024_u32.to_le_bytes());
    whole_disk[446 + 12..446 + 16].copy_from_slice(&(disk.len() as u32 / 512).to_le_bytes());
    whole_disk.extend(&disk);
    let packed = zstd::encode_all(&disk[..], 1).unwrap();
    for (name, input) in [("plain", &disk), ("copy", &copy), ("disk", &whole_disk), ("packed", &packed)] {
        let (code, stdout, stderr) = piped(&["save", "-", "-o", &directory(name)], input);
        assert_eq!(code, 0, "{name}: {stderr}");
        assert!(stdout.contains("not cleared on standard input"), "{stdout}");
        assert!(file(name) == core, "{name}: another core");
        let (code, stdout, stderr) = piped(&["info", "-"], input);
        assert_eq!((code, stdout.contains("attempt to kill the idle task")), (0, true), "{name}: {stderr}");
        assert_eq!(piped(&["check", "-"], input).0, 0, "{name}");
    }
    // A file as standard input is read in place.
    let mut command = savecore(["info", "-"]);
    command.stdin(File::open(&image).unwrap()).env("TMPDIR", "/nonexistent");
    assert_eq!(finish(command.output().unwrap()).0, 0);
    assert!(fs::read(&image).unwrap() == disk);
}

#[test]
fn standard_input_that_cannot_be_used_is_an_error_in_one_line() {
    let place = Place::new();
    let packed = zstd::encode_all(&with_dump(&Machine::small())[..], 1).unwrap();
    let cut = &packed[..packed.len() / 2];
    let refused = |arguments: &[&str], input: &[u8], part: &str| {
        let (code, stdout, stderr) = piped(arguments, input);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
        assert!(stderr.contains(part), "{stderr} should contain {part}");
    };
    refused(&["info", "-"], b"", "standard input cannot be used: it is empty");
    refused(&["check", "-"], cut, "its zstd data ends early");
    refused(&["save", "-", "-o", &place.out()], b"\xfd7zXZ\0 and more", "put `xz -dc |` before it");
    refused(&["info", "-"], b"hello", "standard input is too small for a dump: 5 bytes");
    refused(
        &["info", "-"],
        &[7; 50_000],
        "standard input: it is not a dump partition, it holds unknown data",
    );
    refused(&["info", "-", "-"], &packed, "- was named twice");
    for command in ["format", "clear"] {
        refused(&[command, "-", "--yes"], &packed, "it can only be read");
    }
    let mut command = savecore(["info", "-"]);
    command.env("TMPDIR", "/nonexistent").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"something").unwrap();
    let (code, _, stderr) = finish(child.wait_with_output().unwrap());
    assert!(code == 2 && stderr.contains("cannot create a file in /nonexistent: No such file"), "{stderr}");
    let output = on_terminal(savecore(["info", "-"]), "");
    let (code, _, stderr) = finish(output);
    assert!(code == 2 && stderr.contains("it is a terminal: pipe a dump into it"), "{stderr}");
}

/// How the tests drop their privileges. They become another user. Where that user can reach nothing, as on a
/// machine whose root folder only its owner may enter, they stay the owner but drop all capabilities, so that
/// only the modes of files count.
const POWERLESS: [&[&str]; 2] = [
    &["--reuid", "65534", "--regid", "65534", "--clear-groups"],
    &["--bounding-set=-all", "--inh-caps=-all"],
];

/// The command as an unprivileged user, if the tests may change their user.
fn as_nobody(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    if !rustix::process::geteuid().is_root() {
        return run(arguments);
    }
    // An unprivileged user may be unable to reach root's build.
    let own = place.path("savecore");
    if !own.exists() {
        fs::copy(env!("CARGO_BIN_EXE_savecore"), &own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let command = |how: &&[&str]| {
        let mut command = Command::new("setpriv");
        command.args(*how).arg(&own).current_dir(place.path("")).stdin(Stdio::null());
        command
    };
    let works = |how: &&&[&str]| command(how).arg("--version").output().unwrap().status.success();
    let how = POWERLESS.iter().find(works).expect("one of the ways to have no privileges");
    finish(command(how).args(arguments).output().unwrap())
}

#[test]
fn who_may_only_read_a_target_gets_the_dump_and_is_told_that_it_stays() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let (code, stdout, stderr) = as_nobody(&place, &["info", &image]);
    assert_eq!((code, stdout.contains("attempt to kill the idle task")), (0, true), "{stderr}");
    assert_eq!(as_nobody(&place, &["check", &image]).0, 0);
    assert_eq!(as_nobody(&place, &["list", &image]).0, 0);
    for (directory, arguments) in [("kept", &["--keep"][..]), ("there", &[])] {
        let out = place.text(directory);
        fs::create_dir(&out).unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
        let (code, stdout, stderr) = as_nobody(&place, &[&["save", &image, "-o", &out], arguments].concat());
        assert_eq!(code, 0, "{stderr}");
        if arguments.is_empty() {
            let why = format!(
                "{image} cannot be written: Permission denied (os error 13); `savecore clear` frees it"
            );
            assert!(stdout.contains(&why), "{stdout}");
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = place.crashes(directory).remove(0);
        assert_eq!((mode(&folder), mode(&folder.join("vmcore.elf"))), (0o700, 0o600));
    }
    let (code, _, stderr) = as_nobody(&place, &["clear", &image, "--yes"]);
    assert!(code == 2 && stderr.contains("Permission denied"), "{stderr}");
    assert!(fs::read(&image).unwrap() == disk);
}
