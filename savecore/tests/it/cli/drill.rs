//! `savecore drill`: finds out what would fail, without a crash.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Place, json, run, with_dump};
use crate::common::{Machine, block_mut, partition as formatted};

/// Runs a drill; returns the exit code and each line's mark, subject and text.
fn drill(config: &str, more: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let (code, stdout, stderr) = run([&["drill", "--json", "--config", config], more].concat());
    assert_eq!(stderr, "");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let lines = json(&stdout)["lines"].as_array().unwrap().clone();
    let lines = lines.iter().map(|line| {
        let rest = format!("{}; {}", text(&line["found"]), text(&line["advice"]));
        (text(&line["mark"]), text(&line["about"]), rest)
    });
    (code, lines.collect())
}

/// The mark of the only line about `about` that contains `part`.
fn mark(lines: &[(String, String, String)], about: &str, part: &str) -> String {
    let found: Vec<_> = lines.iter().filter(|line| line.1.contains(about) && line.2.contains(part)).collect();
    let [line] = found.as_slice() else { panic!("{about}, {part}: {lines:#?}") };
    line.0.clone()
}

fn failures(lines: &[(String, String, String)]) -> Vec<&str> {
    // Whether the units are installed depends on where the test runs.
    let failed = lines.iter().filter(|line| line.0 == "fail" && !line.1.contains("savecore"));
    failed.map(|line| line.1.as_str()).collect()
}

#[test]
fn a_partition_in_order_passes_and_keeps_every_byte() {
    let place = Place::new();
    let image = place.image("image", &formatted(200));
    let config = place.config(&[&image], "min_free = \"1KiB\"");
    let before = fs::read(&image).unwrap();
    for more in [&[][..], &["--quick"], &["--write"]] {
        let (_, lines) = drill(&config, more);
        assert_eq!(failures(&lines), Vec::<&str>::new(), "{lines:#?}");
        assert_eq!(mark(&lines, "image", "the label is whole"), "ok");
        assert_eq!(mark(&lines, "image", "memory has"), "warn");
        assert_eq!(mark(&lines, "store", "takes files"), "ok");
        assert!(fs::read(&image).unwrap() == before, "{more:?}");
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0, "{more:?}");
        let rehearsed = lines.iter().any(|line| line.2.contains("written, saved, compared"));
        assert_eq!(rehearsed, more == ["--write"]);
    }
}

#[test]
fn what_would_fail_is_said_and_exits_with_1() {
    let place = Place::new();
    let mut disk = formatted(200);
    block_mut(&mut disk, 150).fill(7);
    let image = place.image("image", &disk);
    let foreign = place.image("foreign", &vec![7; 100_000]);
    fs::write(place.path("hook"), "").unwrap();
    fs::set_permissions(place.path("hook"), fs::Permissions::from_mode(0o644)).unwrap();
    let more = format!("pre = [{:?}]\npost = [\"/nonexistent\"]\nmin_free = \"1EiB\"", place.text("hook"));
    let config = place.config(&[&image, &foreign], &more);
    let (code, lines) = drill(&config, &[]);
    assert_eq!(code, 1);
    assert_eq!(mark(&lines, "image", "block 150 holds"), "fail");
    assert_eq!(mark(&lines, "foreign", "not a dump partition"), "fail");
    assert_eq!(mark(&lines, "pre hook", "cannot be executed; `chmod +x"), "fail");
    assert_eq!(mark(&lines, "post hook", "No such file"), "fail");
    assert_eq!(mark(&lines, "store", "must stay free"), "fail");

    fs::write(&config, "store = \"/nonexistent/crash\"\nidentity = \"/nonexistent/key\"").unwrap();
    let (code, lines) = drill(&config, &[&image, "--quick"]);
    assert_eq!(code, 1);
    assert_eq!(mark(&lines, "store", "No such file"), "fail");
    assert_eq!(mark(&lines, "key", "/nonexistent/key"), "fail");

    fs::write(&config, "limit = 0\nstroe = \"/data\"").unwrap();
    let (code, lines) = drill(&config, &[&image]);
    assert_eq!(code, 1);
    assert_eq!(mark(&lines, "configuration", "line 1: limit"), "fail");
    assert_eq!(
        mark(&lines, "configuration", "line 2: stroe: there is no such key; store may be meant"),
        "fail"
    );
}

#[test]
fn a_key_that_does_not_fit_the_label_is_told_of() {
    let place = Place::new();
    let key = |name: &str| run(["keygen", &place.text(name)]).1.trim().to_owned();
    let (public, _) = (key("key"), key("other"));
    let image = place.image("image", &[0; 400 * 4096]);
    assert_eq!(run(["format", &image, "--yes", "--recipient", &public]).0, 0);
    for (name, mark_of_it, part) in [("key", "ok", "decrypts the dumps"), ("other", "fail", "is the key to")]
    {
        let config = place.config(&[&image], &format!("identity = {:?}", place.text(name)));
        assert_eq!(mark(&drill(&config, &[]).1, "image", part), mark_of_it);
    }
    let (_, lines) = drill(&place.config(&[&image], ""), &[]);
    assert_eq!(mark(&lines, "image", "saved as they are"), "ok");
}

#[test]
fn a_dump_that_waits_is_neither_touched_nor_joined_by_another() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let (code, lines) = drill(&place.config(&[&image], ""), &["--write"]);
    assert_eq!(code, 1);
    assert_eq!(mark(&lines, "image", "1 dump waits"), "warn");
    assert_eq!(mark(&lines, "image", "nothing was written"), "fail");
    assert!(fs::read(&image).unwrap() == disk);
}

#[test]
fn a_person_reads_a_line_for_each_thing() {
    let place = Place::new();
    let image = place.image("image", &formatted(200));
    let (_, stdout, _) = run(["drill", "--config", &place.config(&[&image], "")]);
    for line in stdout.lines() {
        assert!(["ok    ", "warn  ", "fail  "].iter().any(|mark| line.starts_with(mark)), "{line}");
    }
    assert!(stdout.contains(&format!("ok    {image}: the label is whole")), "{stdout}");
}
