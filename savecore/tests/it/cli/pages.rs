//! Manual pages and completions.

use std::fs;
use std::process::{Command, Stdio};

use super::{Place, run};

/// The subcommands, as the help lists them.
fn subcommands() -> Vec<String> {
    let (_, help, _) = run(["--help"]);
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Lines that continue a description are indented further.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

fn is_there(program: &str) -> bool {
    let command = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok()
}

#[test]
fn every_subcommand_has_a_page_that_tells_its_options_and_exit_codes() {
    let place = Place::new();
    let (code, _, stderr) = run(["man", &place.text("")]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let names = subcommands();
    assert!(names.len() > 6, "{names:?}");
    let mut pages: Vec<String> = names.iter().map(|name| format!("savecore-{name}.8")).collect();
    pages.push("savecore.8".to_owned());
    for page in &pages {
        let text = fs::read_to_string(place.path(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS", ".SH \"EXIT STATUS\""] {
            assert!(text.contains(section), "{page}: {section}");
        }
    }
    let mut written: Vec<String> = fs::read_dir(place.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    written.sort();
    pages.sort();
    assert_eq!(written, pages);
    if !is_there("groff") {
        return;
    }
    for page in &pages {
        let mut groff = Command::new("groff");
        groff.args(["-K", "utf8", "-man", "-ww", "-Tutf8", "-z"]).arg(place.path(page));
        let output = groff.output().unwrap();
        assert!(output.status.success(), "{page}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{page}");
    }
}

#[test]
fn completions_know_every_subcommand_and_are_good_for_the_shell() {
    for (shell, check) in
        [("bash", Some("bash")), ("zsh", Some("zsh")), ("fish", Some("fish")), ("elvish", None)]
    {
        let (code, script, stderr) = run(["completions", shell]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        for name in subcommands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
        let Some(program) = check.filter(|program| is_there(program)) else { continue };
        let place = Place::new();
        fs::write(place.path("script"), &script).unwrap();
        let output = Command::new(program).arg("-n").arg(place.path("script")).output().unwrap();
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    }
    super::fails(["completions", "command.com"], "command.com");
}
