//! `savecore install` and `uninstall` under a root of their own, and the units as systemd sees them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::faults::in_namespace;
use super::{Place, fails, json, run, traced};

/// All files below a directory: path, mode and content.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            let content = fs::read(&path).unwrap();
            files.insert(path, (mode, content));
        }
    }
    files
}

fn install(root: &str) -> (i32, String, String) {
    run(["install", "--root", root])
}

fn root(place: &Place) -> String {
    fs::create_dir(place.path("root")).unwrap();
    place.text("root")
}

#[test]
fn what_was_installed_is_listed_and_goes_again_and_nothing_else() {
    let place = Place::new();
    let root = root(&place);
    fs::create_dir_all(place.path("root/usr/local/bin")).unwrap();
    fs::write(place.path("root/usr/local/bin/other"), "other").unwrap();
    let before = tree(&place.path("root"));
    let (code, stdout, stderr) = install(&root);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let files = tree(&place.path("root"));
    for line in stdout.lines() {
        let path = line.strip_prefix("installed ").unwrap();
        assert!(files.contains_key(Path::new(path)), "{path}");
    }
    // There are two more files: the record, and the one that was there before.
    assert_eq!(stdout.lines().count() + 2, files.len());
    let program = &files[&place.path("root/usr/local/bin/savecore")];
    assert_eq!(program.0, 0o755);
    assert_eq!(program.1, fs::read(env!("CARGO_BIN_EXE_savecore")).unwrap());
    for wanted in ["etc/savecore.toml", "usr/local/share/man/man8/savecore-boot.8"] {
        assert_eq!(files[&place.path("root").join(wanted)].0, 0o644, "{wanted}");
    }
    let unit = &files[&place.path("root/usr/local/lib/systemd/system/savecore.service")].1;
    assert!(String::from_utf8_lossy(unit).contains("ExecStart=/usr/local/bin/savecore boot"));

    // A second install changes nothing.
    let (code, stdout, stderr) = install(&root);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
    assert!(tree(&place.path("root")) == files);

    let (code, stdout, stderr) = run(["uninstall", "--root", &root, "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(json(&stdout)["files"].as_array().unwrap().len(), files.len() - 1);
    assert!(tree(&place.path("root")) == before);
    let directories = |path: &str| fs::read_dir(place.path(path)).unwrap().count();
    assert_eq!(
        (directories("root"), directories("root/usr/local")),
        (1, 1),
        "directories that were made are gone"
    );

    let (code, _, stderr) = run(["uninstall", "--root", &root]);
    assert_eq!(code, 1);
    assert!(stderr.contains("nothing is installed"), "{stderr}");
}

#[test]
fn a_changed_configuration_is_neither_replaced_nor_removed() {
    let place = Place::new();
    let root = root(&place);
    assert_eq!(install(&root).0, 0);
    let config = place.path("root/etc/savecore.toml");
    fs::write(&config, "limit = 5\n").unwrap();
    let (code, _, stderr) = install(&root);
    assert_eq!(code, 0);
    assert!(stderr.contains("savecore.toml was changed and stays as it is"), "{stderr}");
    let (code, _, stderr) = run(["uninstall", "--root", &root]);
    assert_eq!(code, 1);
    assert!(stderr.contains("savecore.toml was changed since"), "{stderr}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "limit = 5\n");
    assert_eq!(tree(&place.path("root")).len(), 1);
}

#[test]
fn files_of_others_are_not_replaced() {
    let place = Place::new();
    let root = root(&place);
    let unit = place.path("root/usr/local/lib/systemd/system/savecore.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, "theirs").unwrap();
    fails(["install", "--root", &root], "savecore.service is there already and is not from");
    assert_eq!(tree(&place.path("root")), BTreeMap::from([(unit, (0o644, b"theirs".to_vec()))]));
}

/// Turns some files into what an earlier version of savecore would have installed.
fn make_older(place: &Place) {
    let record = place.path("root/usr/local/lib/savecore/installed.json");
    let mut all = json(&fs::read_to_string(&record).unwrap());
    for name in ["usr/local/share/man/man8/savecore.8", "usr/local/bin/savecore", "etc/savecore.toml"] {
        fs::write(place.path("root").join(name), "older").unwrap();
        let files = all["files"].as_array_mut().unwrap();
        let entry = files.iter_mut().find(|entry| entry["path"] == name).unwrap();
        (entry["bytes"], entry["crc32"]) = (5.into(), crc32fast::hash(b"older").into());
    }
    fs::write(record, all.to_string()).unwrap();
}

#[test]
fn an_older_version_of_a_file_is_replaced_and_goes_with_the_rest() {
    let place = Place::new();
    let root = root(&place);
    assert_eq!(install(&root).0, 0);
    let files = tree(&place.path("root"));
    make_older(&place);
    let (code, stdout, stderr) = install(&root);
    assert_eq!((code, stdout.lines().count(), stderr.as_str()), (0, 3, ""));
    assert!(tree(&place.path("root")) == files);
    assert_eq!(run(["uninstall", "--root", &root]).0, 0);
    assert!(tree(&place.path("root")).is_empty());
}

#[test]
fn killed_in_front_of_any_file_an_installation_can_be_finished_or_taken_back() {
    let expected = Place::new();
    assert_eq!(install(&root(&expected)).0, 0);
    let strip = |place: &Place| {
        let files = tree(&place.path("root")).into_iter();
        let strip = |path: PathBuf| path.strip_prefix(place.path("root")).unwrap().to_owned();
        files.map(|(path, file)| (strip(path), file)).collect::<BTreeMap<_, _>>()
    };
    for number in 1.. {
        let mut done = false;
        for next in ["install", "uninstall"] {
            let place = Place::new();
            let root = root(&place);
            assert_eq!(install(&root).0, 0);
            make_older(&place);
            let rule = format!("inject=rename:signal=KILL:when={number}");
            let arguments = ["install", "--root", &root].map(str::to_owned).to_vec();
            let Some(output) = traced(&place, &rule, arguments) else { return };
            done |= output.status.success();
            let (code, _, stderr) = run([next, "--root", &root]);
            assert_eq!((code, stderr.as_str()), (0, ""), "{rule}, {next}");
            match next {
                "install" => assert!(strip(&place) == strip(&expected), "{rule}"),
                _ => assert!(strip(&place).is_empty(), "{rule}"),
            }
        }
        if done {
            assert_eq!(number, 6, "three files, and the record twice");
            return;
        }
    }
}

#[test]
fn a_changed_unit_is_neither_replaced_nor_removed() {
    let place = Place::new();
    let root = root(&place);
    assert_eq!(install(&root).0, 0);
    let unit = place.path("root/usr/local/lib/systemd/system/savecore.service");
    fs::write(&unit, "[Unit]\n").unwrap();
    for _ in 0..2 {
        let (code, stdout, stderr) = install(&root);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (0, "", 1));
        assert!(stderr.contains("savecore.service was changed and stays as it is; remove it"), "{stderr}");
    }
    fs::remove_file(&unit).unwrap();
    let (code, stdout, _) = install(&root);
    assert_eq!((code, stdout), (0, format!("installed {}\n", unit.display())));
    fs::write(&unit, "[Unit]\n").unwrap();
    assert_eq!(run(["uninstall", "--root", &root]).0, 1);
    assert_eq!(tree(&place.path("root")).into_keys().collect::<Vec<_>>(), [unit]);
}

#[test]
fn links_and_records_lead_nowhere_out_of_the_root() {
    let place = Place::new();
    let root = root(&place);
    fs::create_dir(place.path("outside")).unwrap();
    fs::create_dir(place.path("root/usr")).unwrap();
    symlink(place.path("outside"), place.path("root/usr/local")).unwrap();
    fails(["install", "--root", &root], "leads out of");
    assert!(tree(&place.path("outside")).is_empty() && !fs::exists(place.path("root/etc")).unwrap());
    fs::remove_file(place.path("root/usr/local")).unwrap();

    let record = place.path("root/usr/local/lib/savecore/installed.json");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(place.path("outside/file"), "").unwrap();
    for path in ["../outside/file", "/etc/passwd"] {
        let text =
            format!("{{\"files\":[{{\"path\":{path:?},\"bytes\":0,\"crc32\":0}}],\"directories\":[]}}");
        fs::write(&record, text).unwrap();
        fails(["uninstall", "--root", &root], "is not what `savecore install` wrote");
    }
    assert!(fs::exists(place.path("outside/file")).unwrap());

    // The same for folders, and for the record itself.
    fs::create_dir_all(place.path("outside/folder/empty")).unwrap();
    symlink(place.path("outside"), place.path("root/link")).unwrap();
    let text =
        "{\"files\":[{\"path\":\"etc/x\",\"bytes\":0,\"crc32\":0}],\"directories\":[\"link/folder/empty\"]}";
    fs::write(&record, text).unwrap();
    fails(["uninstall", "--root", &root], "leads out of");
    fs::remove_dir_all(place.path("root/usr/local/lib/savecore")).unwrap();
    symlink(place.path("outside"), place.path("root/usr/local/lib/savecore")).unwrap();
    fs::write(place.path("outside/installed.json"), text).unwrap();
    for command in ["install", "uninstall"] {
        fails([command, "--root", &root], "leads out of");
    }
    assert!(fs::exists(place.path("outside/folder/empty")).unwrap());
    assert_eq!(fs::read_to_string(place.path("outside/installed.json")).unwrap(), text);
}

#[test]
fn units_are_enabled_and_stopped_where_systemd_runs() {
    let place = Place::new();
    fs::create_dir(place.path("bin")).unwrap();
    for name in ["systemctl", "systemd-tmpfiles", "udevadm"] {
        let program = place.path("bin").join(name);
        // The order matters: units stop first, while the program is still there.
        let script = format!(
            "#!/bin/sh\necho \"$(test -e /usr/local/bin/savecore && echo with || echo without) {name} $*\" >> {:?}\n",
            place.text("calls")
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = format!(
        "for name in /usr/local /etc /run; do mount -t tmpfs none $name; done; \
         mkdir -p /run/systemd/system; PATH={:?}:$PATH; \"$1\" install --now",
        place.text("bin")
    );
    let Some((code, stdout, stderr)) = in_namespace(&place, &script, &["uninstall"]) else { return };
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (installed, removed): (Vec<_>, Vec<_>) =
        stdout.lines().partition(|line| line.starts_with("installed /"));
    assert!(removed.iter().all(|line| line.starts_with("removed /")), "{stdout}");
    assert_eq!(removed.len(), installed.len() + 1);
    let calls = fs::read_to_string(place.path("calls")).unwrap();
    assert_eq!(
        calls.lines().collect::<Vec<_>>(),
        [
            "with systemctl daemon-reload",
            "with udevadm control --reload",
            "with systemd-tmpfiles --create savecore.conf",
            "with systemctl enable --now savecore.service savecore-later.path",
            "with systemctl disable --now savecore.service savecore-later.path",
            "with systemctl stop savecore-later.service",
            "without systemctl daemon-reload",
            "without udevadm control --reload",
        ]
    );
}

#[test]
fn the_unit_of_a_disk_that_comes_late_is_confined_as_that_of_the_machine() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let confines = |name: &str| {
        let text = fs::read_to_string(dist.join(name)).unwrap();
        let from = text.find("RuntimeDirectory=").unwrap();
        text[from..].split("\n[Install]").next().unwrap().trim_end().to_owned()
    };
    assert_eq!(confines("savecore@.service"), confines("savecore.service"));
}

#[test]
#[ignore = "needs systemd-analyze; `cargo xtask test` runs it"]
fn systemd_takes_the_units_and_finds_them_well_confined() {
    let place = Place::new();
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let mut units = Vec::new();
    for name in ["savecore.service", "savecore@.service", "savecore-later.service", "savecore-later.path"] {
        // The command need not be installed here.
        let text = fs::read_to_string(dist.join(name)).unwrap().replace("/usr/bin/savecore", "/bin/true");
        let name = name.replace('@', "@vda2");
        fs::write(place.path(&name), text).unwrap();
        units.push(place.text(&name));
    }
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    // It also reports other units of this machine.
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("savecore")).collect();
    assert!(output.status.success() && ours.is_empty(), "{told}");
    for unit in units.iter().filter(|unit| unit.ends_with(".service")) {
        // Exposure: 0 is fully confined, 100 is not confined at all.
        let mut security = Command::new("systemd-analyze");
        let output = security.args(["security", "--offline=yes", "--threshold=30", unit]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
