//! Reports: pages about a dump.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{Place, fails, run, with_dump};
use crate::common::Machine;

/// Texts that an attacker could put into a dump.
const EVIL: &str = "</h1></pre></title><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\
                    <a href=javascript:alert(1)>&amp;\"'\u{202e}txt\u{1b}[2J<svg onload=alert(2)><style>body{display:none}</style>";

/// The parts of a report.
const PARTS: [&str; 8] = ["crash", "where", "missing", "processors", "log", "memory", "making", "dump"];

fn hostile() -> Machine {
    let mut machine = Machine::small();
    machine.message = EVIL.to_owned();
    machine.log = format!("[0.1] fine\n{EVIL}\n[0.2] Kernel panic: {EVIL}\n");
    machine
}

/// Makes sure that a page, as written or as a browser has read it, has all parts, and no markup or control
/// characters from the dump.
fn is_whole_and_clean(page: &str) {
    for part in PARTS {
        assert!(page.contains(&format!("id=\"{part}\"")), "no part {part}");
    }
    for bad in [
        "<script",
        "<img",
        "<a ",
        "<iframe",
        "<svg onload",
        "javascript:alert(1)>&amp;\"",
        "\u{202e}",
        "\u{1b}",
    ] {
        assert!(!page.contains(bad), "{bad:?} is in the page");
    }
    assert_eq!(page.matches("<style").count(), 1);
    assert!(page.contains("&lt;script&gt;"), "the message is shown");
    assert!(page.contains("default-src 'none'"), "no policy");
    assert!(!page.contains("http://") && !page.contains("https://"), "something is elsewhere");
    assert!(page.matches("<rect").count() < 2100);
}

#[test]
fn a_report_of_a_hostile_dump_is_nothing_but_text() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&hostile()));
    let page = place.text("page.html");
    assert_eq!(run(["report", &image, "-o", &page]).0, 0);
    is_whole_and_clean(&fs::read_to_string(&page).unwrap());
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, stdout, _) = run(["report", &image, "-o", "-"]);
    assert_eq!((code, stdout), (0, fs::read_to_string(&page).unwrap()));
}

#[test]
fn a_report_is_a_new_file_that_only_its_owner_reads_and_goes_through_no_link() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let page = place.text("page.html");
    fs::write(&page, "old").unwrap();
    fs::set_permissions(&page, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(run(["report", &image, "-o", &page]).0, 0);
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    std::os::unix::fs::symlink(&page, place.path("link")).unwrap();
    let before = fs::read(&page).unwrap();
    fails(["report", &image, "-o", &place.text("link")], "it is a link, and none is followed");
    assert!(fs::read(&page).unwrap() == before);
    let (code, stdout, _) = run(["report", &image, "-o", "/dev/stdout"]);
    assert_eq!((code, stdout.as_bytes()), (0, before.as_slice()));
}

#[test]
fn the_dump_is_chosen_by_its_number_and_the_lack_of_one_is_told() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&Machine::small()));
    let page = place.text("page.html");
    fails(["report", &image, "-o", &page, "--dump", "7"], "there is no dump 7: --dump takes 1");
    fails(["report", &image, "-o", &place.text("nowhere/page.html")], "cannot be written to");
    assert!(!Path::new(&page).exists());
    assert_eq!(run(["report", &image, "-o", &page, "--dump", "1"]).0, 0);
    let empty = place.image("empty", &crate::common::partition(50));
    let (code, _, stderr) = run(["report", &empty, "-o", &page]);
    assert_eq!((code, stderr.contains("no dump")), (1, true), "{stderr}");
}

#[test]
fn the_heading_of_a_report_is_what_happened_where_rust_says_first_where() {
    let mut machine = Machine::small();
    machine.message = "panicked at src/disk.rs:16:9:\nthe disk is <gone>\n".to_owned();
    let place = Place::new();
    let image = place.image("image", &with_dump(&machine));
    let (code, page, _) = run(["report", &image, "-o", "-"]);
    assert_eq!(code, 0);
    assert!(page.contains("<h1>the disk is &lt;gone&gt;</h1>"), "{page}");
    assert!(page.contains(": the disk is &lt;gone&gt;</title>"));
    assert!(page.contains("<pre>panicked at src/disk.rs:16:9:\nthe disk is &lt;gone&gt;</pre>"));
}

#[test]
fn a_large_log_and_a_large_message_do_not_make_a_large_page() {
    let place = Place::new();
    let mut machine = Machine::small();
    // As much as fits in a test's notes.
    machine.message = "\u{1}".repeat(20_000);
    machine.log = "<\n".repeat(20_000);
    let image = place.image("image", &with_dump(&machine));
    let (code, stdout, stderr) = run(["report", &image, "-o", "-"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.len() < 1 << 20, "{}", stdout.len());
    assert!(stdout.contains("and 3.5 KiB more"));
}

#[test]
#[ignore = "needs a browser: `cargo xtask test` runs it where chromium is"]
fn a_browser_shows_all_parts_and_runs_nothing_of_a_hostile_dump() {
    let place = Place::new();
    let image = place.image("image", &with_dump(&hostile()));
    let page = place.text("page.html");
    assert_eq!(run(["report", &image, "-o", &page]).0, 0);
    let browse = |more: &[&str]| {
        let mut browser = Command::new("chromium");
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        browser.arg(format!("--user-data-dir={}", place.text("profile"))).args(more);
        let output = browser.arg(format!("file://{page}")).output().expect("chromium can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = browse(&["--dump-dom"]);
    is_whole_and_clean(&shown);
    assert!(shown.contains("<title>panic on CPU 0: "), "the title was taken");
    let picture = place.text("page.png");
    browse(&["--window-size=1280,2000", &format!("--screenshot={picture}")]);
    assert!(fs::metadata(&picture).unwrap().len() > 20_000, "the page is empty");
}
