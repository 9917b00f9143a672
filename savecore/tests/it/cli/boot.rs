//! `savecore boot`: follows the configuration, within the time limit.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use savecore::partition::{self, Verdict};
use serde_json::Value;

use super::{Place, finish, json, run, savecore, traced, with_dump};
use crate::common::{Machine, block_mut, partition as formatted};

impl Place {
    /// Writes a configuration for these targets and the store `out`.
    pub(super) fn config(&self, targets: &[&str], more: &str) -> String {
        let text = format!("targets = {targets:?}\nstore = {:?}\n{more}\n", self.out());
        fs::write(self.path("savecore.toml"), text).unwrap();
        self.text("savecore.toml")
    }

    fn is_ready(&self, image: &str) -> bool {
        partition::check(&fs::read(self.path(image)).unwrap(), &mut ()).unwrap().verdict == Verdict::Ready
    }
}

fn boot(config: &str) -> (i32, String, String) {
    run(["boot", "--config", config])
}

#[test]
fn what_waits_is_saved_and_freed_also_beside_targets_that_cannot_be_used() {
    let place = Place::new();
    let machine = Machine::small();
    let first = place.image("first", &with_dump(&machine));
    let foreign = place.image("foreign", &vec![7; 100_000]);
    let last = place.image("last", &with_dump(&Machine { nonce: 77, ..machine }));
    let absent = place.text("absent");
    let config = place.config(&[&first, &foreign, &absent, &last, &first], "");
    let (code, stdout, stderr) = boot(&config);
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(stderr.matches("savecore: error: ").count(), 2, "{stderr}");
    assert!(
        stderr.contains("foreign: it is not a dump partition") && stderr.contains("cannot open"),
        "{stderr}"
    );
    assert_eq!(stdout.lines().filter(|line| line.contains("dump 1 saved in ")).count(), 2, "{stdout}");
    assert_eq!(place.crashes("out").len(), 2);
    assert!(place.is_ready("first") && place.is_ready("last"));
    assert_eq!(fs::read(&foreign).unwrap(), vec![7; 100_000]);

    let config = place.config(&[&first, &last], "");
    let (code, stdout, stderr) = boot(&config);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("no dump waits on {first}, {last}\n"));
    assert_eq!(place.crashes("out").len(), 2);
}

#[test]
fn with_json_nothing_else_is_on_standard_output() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let config = place.config(&[&image], "");
    for saved in [1, 0] {
        let (code, stdout, _) = run(["boot", "--config", &config, "--json"]);
        assert_eq!((code, json(&stdout)["dumps"].as_array().unwrap().len()), (0, saved));
    }
}

#[test]
fn a_mistake_in_the_configuration_is_told_and_dumps_are_saved_all_the_same() {
    let disk = with_dump(&Machine::small());
    // The mistake, the lines that report it, and whether the dump is freed.
    for (more, told, is_freed) in [
        (
            "limit = \"soon\"\nspeed = 1",
            &["line 3: limit: invalid type", "line 4: speed: there is no such key"][..],
            true,
        ),
        ("identity = \"/nonexistent/key\"", &["cannot use the identity: cannot open /nonexistent/key"], true),
        (
            "rearm = \"no\"",
            &["line 3: rearm: ", "still takes up its blocks: the configuration has a mistake"],
            false,
        ),
        ("pre = 7", &["line 3: pre: ", "still takes up its blocks"], false),
        ("[arm", &["line 3: ", "still takes up its blocks"], false),
        ("host = \"web", &["line 3: ", "still takes up its blocks"], false),
        ("max_kept = \"many\"", &["line 3: max_kept: "], true),
    ] {
        let place = Place::new();
        let image = place.image("image", &disk);
        let config = place.config(&[&image], more);
        let (code, stdout, stderr) = boot(&config);
        assert_eq!(code, 1, "{more}: {stderr}");
        let lines = stderr.lines().filter(|line| !line.contains("page tables are known"));
        assert_eq!(lines.count(), told.len(), "{more}: {stderr}");
        assert!(told.iter().all(|told| stderr.contains(told)), "{more}: {stderr}");
        assert!(stdout.contains("dump 1 saved in"), "{more}: {stdout}");
        assert_eq!(place.crashes("out").len(), 1, "{more}");
        assert_eq!(place.is_ready("image"), is_freed, "{more}");
        // The next run saves nothing twice.
        assert_eq!(boot(&config).0, 1, "{more}");
        assert_eq!(place.crashes("out").len(), 1, "{more}");
    }
    super::fails(["boot", "--config", &Place::new().text("absent")], "absent: No such file");
}

#[test]
fn targets_that_nobody_understands_are_none_and_those_that_are_understood_are_harvested() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let out = place.out();
    for targets in [format!("{image:?}"), "[7]".to_owned(), "[".to_owned()] {
        let text = format!("store = {out:?}\ntargets = {targets}\n");
        fs::write(place.path("savecore.toml"), text).unwrap();
        let (code, _, stderr) = boot(&place.text("savecore.toml"));
        assert_eq!(code, 2, "{stderr}");
        assert!(
            stderr.contains("line 2: ") && stderr.contains("nothing is saved until it is corrected"),
            "{stderr}"
        );
        assert!(place.crashes("out").is_empty());
    }
    fs::write(place.path("savecore.toml"), format!("store = {out:?}\ntargets = [{image:?}, 7]\n")).unwrap();
    let (code, _, stderr) = boot(&place.text("savecore.toml"));
    let of_file = stderr.lines().filter(|line| line.contains("savecore.toml: ")).count();
    assert_eq!((code, of_file), (1, 1), "{stderr}");
    assert!(place.is_ready("image"));
}

#[test]
fn a_machine_that_crashes_again_and_again_keeps_the_first_crash_and_the_newest_ones() {
    let place = Place::new();
    let mut folders = Vec::new();
    for number in 0..25 {
        let machine = Machine { nonce: number, wall_clock: 1_795_329_162 + number * 300, ..Machine::small() };
        let image = place.image("image", &with_dump(&machine));
        let config = place.config(&[&image], "host = \"h\"");
        assert_eq!(boot(&config).0, 0);
        folders.push(fs::read_link(place.path("out/latest")).unwrap());
    }
    let kept: Vec<bool> = folders.iter().map(|folder| place.path("out").join(folder).exists()).collect();
    let expected: Vec<bool> = (0..25).map(|number| number == 0 || number > 15).collect();
    assert_eq!(kept, expected, "the first and the newest nine");
    // All of them, if configured.
    let machine = Machine { nonce: 99, ..Machine::small() };
    let image = place.image("image", &with_dump(&machine));
    assert_eq!(boot(&place.config(&[&image], "host = \"h\"\nmax_kept = \"all\"\nmax_used = \"all\"")).0, 0);
    assert_eq!(place.crashes("out").len(), 11);
}

#[test]
fn without_rearming_the_dump_stays() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let before = fs::read(&image).unwrap();
    let config = place.config(&[&image], "rearm = false\nformat = \"raw\"\nhost = \"other\"");
    let (code, _, stderr) = boot(&config);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(fs::read(&image).unwrap(), before);
    let cores = place.cores("out");
    assert!(cores[1].ends_with("vmcore.diskdump"), "{cores:?}");
    assert!(cores[1].to_str().unwrap().contains("/other-"), "{cores:?}");
}

#[test]
fn hooks_run_only_when_a_dump_waits_and_get_to_know_what_was_saved() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let out = place.text("hooks");
    let hook =
        format!("[\"/bin/sh\", \"-c\", 'echo $SAVECORE_STAGE >> \"$1\"; cat >> \"$1\"', \"sh\", {out:?}]");
    let config = place.config(&[&image], &format!("pre = {hook}\npost = {hook}"));
    let (code, _, stderr) = boot(&config);
    assert_eq!(code, 0, "{stderr}");
    let text = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [pre, nothing, post, all] = lines.as_slice() else { panic!("{text}") };
    assert_eq!((*pre, *post), ("pre", "post"));
    assert_eq!(json(nothing)["dumps"], Value::Array(Vec::new()));
    let folder = json(all)["dumps"][0]["folder"].as_str().unwrap().to_owned();
    assert_eq!(place.crashes("out"), [std::path::PathBuf::from(folder)]);

    assert_eq!(boot(&config).0, 0);
    assert_eq!(fs::read_to_string(&out).unwrap(), text, "nothing waits, no hook");
}

#[test]
fn a_hook_that_fails_keeps_no_dump_from_being_saved() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let config = place.config(&[&image], "pre = [\"/bin/false\"]\npost = [\"/nonexistent\"]");
    let (code, _, stderr) = boot(&config);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("the pre hook /bin/false failed")
            && stderr.contains("/nonexistent cannot be started")
    );
    // The dump stays: the hook may have been meant to mount the store.
    assert_eq!(place.crashes("out").len(), 1);
    assert!(!place.is_ready("image"));
    assert_eq!(boot(&place.config(&[&image], "")).0, 0);
    assert_eq!(place.crashes("out").len(), 1);
    assert!(place.is_ready("image"));
}

#[test]
fn a_damaged_dump_is_saved_and_kept_and_told_of() {
    let place = Place::new();
    let mut disk = with_dump(&Machine::small());
    block_mut(&mut disk, 3)[100] ^= 1;
    let image = place.image("image", &disk);
    let config = place.config(&[&image], "");
    let (code, _, stderr) = boot(&config);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("still takes up its blocks: it is damaged"), "{stderr}");
    assert_eq!(place.crashes("out").len(), 1);
}

#[test]
fn a_partition_that_cannot_take_the_next_dump_is_told_of() {
    let place = Place::new();
    let mut disk = formatted(100);
    block_mut(&mut disk, 99).fill(7);
    let image = place.image("image", &disk);
    let (code, _, stderr) = boot(&place.config(&[&image], ""));
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot take the next dump as it should: block 99 holds"), "{stderr}");
}

#[test]
fn what_is_not_done_in_time_is_noted_stays_and_is_done_later() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let late = place.text("late");
    let config = place.config(&[&image], "limit = 1\nhook_limit = 2\npre = [\"/bin/sleep\", \"1000\"]");
    let begin = Instant::now();
    let (code, stdout, stderr) = run(["boot", "--config", &config, "--note", &late]);
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(stderr.contains("sleep did not finish in"), "{stderr}");
    assert!(fs::exists(&late).unwrap());
    assert_eq!(fs::read(&image).unwrap(), disk);
    assert!(place.crashes("out").is_empty());

    let (code, _, stderr) = run(["boot", "--config", &config, "--note", &late, "--late"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(!fs::exists(&late).unwrap());
    // The dump stays: the hook did not finish this time either, and the store may depend on it.
    assert!(!place.is_ready("image"));
    assert_eq!(place.crashes("out").len(), 1);
    assert_eq!(run(["boot", "--config", &place.config(&[&image], "")]).0, 0);
    assert!(place.is_ready("image"));
    assert_eq!(place.crashes("out").len(), 1);
}

#[test]
fn the_post_hook_that_runs_late_is_told_of_what_was_saved_in_time() {
    let place = Place::new();
    let first = place.image("first", &with_dump(&Machine::small()));
    let last = place.image("last", &with_dump(&Machine { nonce: 77, ..Machine::small() }));
    let (told, late) = (place.text("told"), place.text("late"));
    let hook = format!("[\"/bin/sh\", \"-c\", 'cat >> \"$1\"', \"sh\", {told:?}]");
    let config = place.config(&[&first, &last], &format!("limit = 5\npost = {hook}"));
    let arguments = ["boot", "--config", &config, "--note", &late].map(str::to_owned).to_vec();
    // The first folder gets its name when it is too late to start anything, but before the process is ended.
    let rule = "inject=renameat2:delay_exit=4300000:when=1";
    let Some(output) = traced(&place, rule, arguments.clone()) else { return };
    let (code, stdout, stderr) = finish(output);
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(stdout.contains("first: dump 1 saved in") && stderr.contains("last: dump 1 is left"), "{stdout}");
    assert!(!fs::exists(&told).unwrap() && place.is_ready("first") && !place.is_ready("last"));
    assert_eq!(fs::metadata(&late).unwrap().mode() & 0o777, 0o600);

    let arguments = [arguments, vec!["--late".to_owned()]].concat();
    assert_eq!(run(&arguments).0, 0);
    let dumps = json(&fs::read_to_string(&told).unwrap())["dumps"].as_array().unwrap().clone();
    let on: Vec<_> = dumps.iter().map(|dump| dump["on"][0].as_str().unwrap()).collect();
    assert_eq!(on, [&first, &last]);
    assert!(place.is_ready("last") && !fs::exists(&late).unwrap());

    // Everything was saved in time, and only the hook is left.
    fs::remove_file(&told).unwrap();
    fs::write(&late, serde_json::json!({ "dumps": dumps }).to_string()).unwrap();
    assert_eq!(run(&arguments).0, 0);
    assert_eq!(json(&fs::read_to_string(&told).unwrap())["dumps"].as_array().unwrap(), &dumps);
    // A note written by hand, or partially written, only says that work is left.
    for note in ["", "{\"dumps\":[{\"on\"", "7"] {
        fs::remove_file(&told).unwrap_or_default();
        fs::write(&late, note).unwrap();
        assert_eq!(run(&arguments).0, 0, "{note}");
        assert!(!fs::exists(&late).unwrap() && !fs::exists(&told).unwrap(), "{note}");
    }
}

#[test]
fn what_hangs_is_ended_at_the_limit() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    // Opening it blocks until there is a writer.
    let pipe = place.text("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let late = place.text("late");
    let arms = "[arm]\nboot = true";
    let config = place.config(&[&image], &format!("limit = 1\nidentity = {pipe:?}\n{arms}"));
    let begin = Instant::now();
    let (code, _, stderr) = run(["boot", "--config", &config, "--note", &late]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("the time limit is over"), "{stderr}");
    // The missing module is reported before anything can hang.
    assert!(
        stderr.contains("the kernel is not armed: the kernel's diskdump module is not loaded"),
        "{stderr}"
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(fs::exists(&late).unwrap());
}

#[test]
fn what_goes_to_a_url_is_left_for_when_the_network_is_up() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let config = place.text("savecore.toml");
    fs::write(&config, format!("targets = [{image:?}]\nstore = \"s3://bucket/crash\"\n")).unwrap();
    let late = place.text("late");
    let (code, stdout, stderr) = run(["boot", "--config", &config, "--note", &late]);
    assert_eq!((code, stderr.as_str()), (3, ""));
    assert_eq!(stdout, "dumps wait; they go to s3://bucket/crash when the network is up\n");
    assert!(fs::exists(&late).unwrap());
    assert_eq!(fs::read(&image).unwrap(), disk);
}

#[test]
fn the_journal_gets_levels_instead_of_colours_and_names() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let foreign = place.image("foreign", &vec![7; 100_000]);
    let config = place.config(&[&image, &foreign], "pre = [\"/bin/false\"]");
    let journal = File::create(place.path("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let mut command = savecore(["boot", "--config", &config]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    let (code, stdout, _) = finish(command.env("CLICOLOR_FORCE", "1").stderr(journal).output().unwrap());
    assert_eq!((code, stdout.as_str()), (2, ""));
    let text = fs::read_to_string(place.path("journal")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [failed, hook, saved, stays, _] = lines.as_slice() else { panic!("{text}") };
    assert!(failed.starts_with("<3>/") && failed.contains("not a dump partition"), "{text}");
    assert!(hook.starts_with("<4>the pre hook"), "{text}");
    assert!(saved.starts_with("<6>") && saved.contains("saved in"), "{text}");
    assert!(
        stays.starts_with("<4>") && stays.ends_with("still takes up its blocks: the pre hook failed"),
        "{text}"
    );
    assert!(!text.contains('\x1b') && !text.contains("savecore: "), "{text}");
}
