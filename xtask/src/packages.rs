//! `cargo xtask packages`: tests the crates as they would be published. It packs them, unpacks them into a workspace
//! with nothing else from the repository, and builds, tests and documents them there.
//!
//! With `--tools`, three programs that nothing else needs check them too: cargo-deny (advisories, licences,
//! sources), typos, and cargo-semver-checks against the last release.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::folders::{root, target_folder};
use crate::setup::in_path;
use crate::step::{Count, SECTION_LIMIT, Step, counted, step, why_failed};
use crate::toolchain::{TARGETS, Toolchain, host_cargo, logged};
use crate::{CannotBegin, ui};

/// The crates that are published, each after those that it needs.
pub(crate) const PUBLISHED: [&str; 4] = ["dumpcore", "dump-linux", "dump-drivers", "savecore"];

/// The crates for bare metal. docs.rs documents them for such targets, so this does.
const BARE: [&str; 3] = ["dumpcore", "dump-linux", "dump-drivers"];

/// The features that the crates' tests need, with the fakes. In the repository each crate enables its own by
/// a test dependency on itself, which cargo leaves out of a package.
const TEST_FEATURES: &str = "dumpcore/_test-utils,dump-drivers/_test-utils";

/// Cases per property. The first shows what a package lacks; the unit tests run all of them on the same code.
const CASES: &str = "8";

/// The empty crate that depends on what the rest of the repository depends on.
const OTHERS: &str = "others";

/// Enough for a tool that has to fetch a list of advisories.
const TOOL_LIMIT: Duration = Duration::from_secs(900);

/// The task.
pub(crate) fn task(tools: bool) -> Result<bool> {
    let mut count = Count::default();
    ui::section("crates as they are published");
    run(&mut count, Tests::All);
    if tools {
        ui::section("other checks before a release");
        for tool in TOOLS {
            if !in_path(tool.program) {
                let why = format!("{} is missing: cargo install --locked {}", tool.program, tool.package);
                return Err(CannotBegin(why).into());
            }
        }
        for tool in TOOLS {
            step(&mut count, tool.name, || check(&tool));
        }
    }
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// Which tests of the packages are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tests {
    /// All of them.
    All,
    /// Those of all crates but savecore, which is only checked, its tests included: to build them again takes
    /// minutes.
    Quick,
}

/// Packs the crates, and tests what was packed.
pub(crate) fn run(count: &mut Count, which: Tests) {
    let mut packed = false;
    step(count, "packages", || {
        let facts = pack()?;
        packed = true;
        Ok(Step::Done(facts))
    });
    if !packed {
        return;
    }
    step(count, "tests of the packages", || Ok(Step::Done(tests(which)?)));
    for target in TARGETS {
        step(count, &format!("documentation for {target}"), || match Toolchain::find(target) {
            Some(Toolchain::Installed) => documentation(target).map(Step::Done),
            _ => Ok(Step::Skipped(format!("no core library for {target}; `cargo xtask setup`"))),
        });
    }
}

/// Where they are unpacked.
fn folder() -> std::path::PathBuf {
    target_folder().join("packages")
}

/// Packs and unpacks them.
fn pack() -> Result<String> {
    let mut cargo = host_cargo();
    // Uncommitted changes are tested too.
    cargo.args(["package", "--no-verify", "--allow-dirty", "--locked", "--quiet"]);
    for name in PUBLISHED {
        cargo.args(["--package", name]);
    }
    logged(cargo, "package", SECTION_LIMIT)?.success("cargo package")?;
    let folder = folder();
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
        }
        _ => fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?,
    }
    let version = env!("CARGO_PKG_VERSION");
    let mut bytes = 0;
    for name in PUBLISHED {
        let file = target_folder().join(format!("package/{name}-{version}.crate"));
        bytes += fs::metadata(&file).with_context(|| format!("cargo made no {}", file.display()))?.len();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&file).arg("-C").arg(&folder);
        logged(tar, "unpack", SECTION_LIMIT)?.success("tar")?;
    }
    let others = folder.join(OTHERS);
    fs::create_dir(&others).with_context(|| format!("cannot create {}", others.display()))?;
    write(&others.join("Cargo.toml"), &needs_of_others()?)?;
    write(&others.join("lib.rs"), "")?;
    let members: Vec<String> = PUBLISHED.iter().map(|name| format!("\"{name}-{version}\"")).collect();
    let patches: Vec<String> =
        PUBLISHED.iter().map(|name| format!("{name} = {{ path = \"{name}-{version}\" }}")).collect();
    // The crates name each other by version, and no registry has them yet.
    let manifest = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"{OTHERS}\", {}]\n\n[patch.crates-io]\n{}\n\n{}",
        members.join(", "),
        patches.join("\n"),
        profiles()?
    );
    write(&folder.join("Cargo.toml"), &manifest)?;
    // The same versions as in all other tests, and they are fetched already.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    Ok(format!("{}, {} KiB", PUBLISHED.join(", "), bytes / 1024))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The repository's profiles.
fn profiles() -> Result<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let at = text.find("[profile.").context("Cargo.toml has no profiles")?;
    Ok(text.split_at(at).1.to_owned())
}

/// The manifest of an empty crate that depends on what the repository's other default members depend on.
/// Cargo enables the features that any crate of a workspace asks for, so without it everything would be
/// compiled again.
fn needs_of_others() -> Result<String> {
    let mut cargo = host_cargo();
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = logged(cargo, "metadata", SECTION_LIMIT)?.success("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&output.stdout).context("cargo metadata is not JSON")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let defaults: BTreeSet<String> = list(&metadata["workspace_default_members"]).iter().map(text).collect();
    let mut needs: BTreeMap<String, Need> = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        if !defaults.contains(&text(&package["id"])) || PUBLISHED.contains(&name.as_str()) {
            continue;
        }
        for dependency in list(&package["dependencies"]) {
            if dependency["source"].is_null() || !dependency["target"].is_null() {
                continue;
            }
            let need = needs.entry(text(&dependency["name"])).or_default();
            need.version = text(&dependency["req"]);
            need.default_features |= dependency["uses_default_features"].as_bool().unwrap_or(true);
            need.features.extend(list(&dependency["features"]).iter().map(text));
        }
    }
    ensure!(!needs.is_empty(), "cargo metadata names no dependencies of xtask");
    let lines: Vec<String> = needs
        .iter()
        .map(|(name, need)| {
            let features: Vec<String> =
                need.features.iter().map(|feature| format!("\"{feature}\"")).collect();
            format!(
                "{name} = {{ version = \"{}\", default-features = {}, features = [{}] }}",
                need.version,
                need.default_features,
                features.join(", ")
            )
        })
        .collect();
    Ok(format!(
        "[package]\nname = \"{OTHERS}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [lib]\npath = \"lib.rs\"\n\n[dependencies]\n{}\n",
        lines.join("\n")
    ))
}

/// What is asked of a dependency.
#[derive(Default)]
struct Need {
    version: String,
    default_features: bool,
    features: BTreeSet<String>,
}

/// Cargo in the unpacked workspace. It uses the repository's target folder, which has the dependencies
/// already.
fn cargo() -> Command {
    let mut cargo = host_cargo();
    cargo.current_dir(folder()).env("CARGO_TARGET_DIR", target_folder()).env("CARGO_TERM_COLOR", "never");
    cargo
}

/// Builds and tests what was unpacked.
fn tests(which: Tests) -> Result<String> {
    match which {
        Tests::All => Ok(format!("{} tests run", tests_of(&[])?)),
        Tests::Quick => {
            let mut cargo = cargo();
            // A file that the package lacks is missed by now, whether a test or the program includes it.
            cargo.args(["check", "--offline", "--workspace", "--all-targets", "--quiet"]);
            cargo.args(["--features", TEST_FEATURES]);
            logged(cargo, "packages check", SECTION_LIMIT)?.success("cargo check")?;
            let passed = tests_of(&["--exclude", "savecore", "--lib", "--tests"])?;
            Ok(format!("{passed} tests run; savecore checked"))
        }
    }
}

/// Builds and tests what cargo's arguments select. Returns how many tests passed.
fn tests_of(words: &[&str]) -> Result<usize> {
    let mut cargo = cargo();
    cargo
        .args(["test", "--offline", "--workspace", "--no-fail-fast", "--features", TEST_FEATURES])
        .args(words);
    cargo.env("PROPTEST_CASES", CASES);
    let output = logged(cargo, "packages tests", SECTION_LIMIT)?;
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let found = counted(&said);
    if !output.status.success() {
        bail!("{}; log: {1} and {1}.err", why_failed(&said), output.log.display());
    }
    ensure!(found.passed > 0, "no test was run; log: {}", output.log.display());
    Ok(found.passed)
}

/// Documents the crates for bare metal, as docs.rs does.
fn documentation(target: &str) -> Result<String> {
    let mut cargo = cargo();
    cargo.args(["doc", "--offline", "--no-deps", "--quiet", "--target", target]);
    for name in BARE {
        cargo.args(["--package", name]);
    }
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    logged(cargo, &format!("packages doc {target}"), SECTION_LIMIT)?.success("cargo doc")?;
    Ok(BARE.join(", "))
}

/// A program that checks the crates before a release.
struct Tool {
    name: &'static str,
    program: &'static str,
    /// The crate that brings it.
    package: &'static str,
    arguments: &'static [&'static str],
    /// Whether it compares with the last release.
    compares: bool,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "cargo deny",
        program: "cargo-deny",
        package: "cargo-deny",
        arguments: &["check"],
        compares: false,
    },
    Tool { name: "typos", program: "typos", package: "typos-cli", arguments: &[], compares: false },
    Tool {
        name: "cargo semver-checks",
        program: "cargo-semver-checks",
        package: "cargo-semver-checks",
        arguments: &["semver-checks", "check-release"],
        compares: true,
    },
];

/// Runs a tool.
fn check(tool: &Tool) -> Result<Step> {
    let mut command = match tool.program.strip_prefix("cargo-") {
        Some(_) => host_cargo(),
        None => Command::new(tool.program),
    };
    if tool.program == "cargo-deny" {
        command.arg("deny");
    }
    command.current_dir(root()).args(tool.arguments);
    if tool.compares {
        let Some(tag) = last_release()? else {
            return Ok(Step::Done(
                "there is no tag v*: nothing was released that it could compare".to_owned(),
            ));
        };
        command.args(["--baseline-rev", &tag]);
        for name in PUBLISHED {
            command.args(["--package", name]);
        }
    }
    logged(command, tool.name, TOOL_LIMIT)?.success(tool.name)?;
    Ok(Step::Done(String::new()))
}

/// The tag of the last release, if there was one.
fn last_release() -> Result<Option<String>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["describe", "--tags", "--abbrev=0", "--match", "v*"]).stderr(Stdio::null());
    let output = git.output().context("cannot run git")?;
    let tag = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((output.status.success() && !tag.is_empty()).then_some(tag))
}
