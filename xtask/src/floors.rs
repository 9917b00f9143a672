//! Checks that each crate is built in floors: a file uses only files on lower floors, and files do not use
//! each other in a circle. The floors are listed in ARCHITECTURE.md, section `Floors`:
//!
//! ```text
//! ### linux/core
//!
//! - `lib`: what a person reads first
//! - `classes` `notes`: ...
//! ```
//!
//! The heading is the crate's folder. Each line is a floor, from top to bottom, with its modules in backticks
//! before the first colon. A module is a file, or a folder with everything in it, without `.rs`; a module
//! with a line of its own does not belong to its folder's line. A folder's own file can be listed as
//! `folder/mod`. Modules of one floor do not use each other.
//!
//! A use is a `use`, or any path in code, macros and attributes. Paths are resolved as by the compiler,
//! through `pub use` to the file that defines the item. Re-exporting an item of a child module is not a use.
//! Code that only `cargo test` compiles does not count. The check misses uses through method calls alone, and
//! names that a macro makes up.

mod circle;
mod resolve;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::folders::root;
use crate::ui;
use resolve::Imports;
use tree::Tree;

/// The page that lists the floors.
const PAGE: &str = "ARCHITECTURE.md";

/// The section of the page.
const SECTION: &str = "## Floors";

/// A crate, or a module of the kernel's.
struct Crate {
    /// Its folder, which is its name here.
    folder: &'static str,
    /// The name by which its programs use its library.
    library: &'static str,
    /// The folder of its modules, in its own folder.
    sources: &'static str,
    /// The crate roots in `sources`, the library first. Of a folder, all files.
    roots: &'static [&'static str],
}

const fn package(folder: &'static str, library: &'static str, roots: &'static [&'static str]) -> Crate {
    Crate { folder, library, sources: "src", roots }
}

/// All of them.
const CRATES: [Crate; 11] = [
    package("dumpcore", "dumpcore", &["lib.rs"]),
    package("drivers", "dump_drivers", &["lib.rs"]),
    package("savecore", "savecore", &["lib.rs", "main.rs"]),
    package("linux/core", "dump_linux", &["lib.rs"]),
    package("linux/module", "dump_linux_module", &["lib.rs"]),
    Crate { folder: "linux/rust", library: "", sources: "", roots: &["shim.rs"] },
    package("qemu-tests", "qemu_tests", &["lib.rs"]),
    package("qemu-tests/kernel", "", &["main.rs"]),
    package("qemu-tests/panic-free", "", &["main.rs"]),
    package("xtask", "", &["main.rs"]),
    Crate { folder: "fuzz", library: "dump_fuzz", sources: "", roots: &["src/lib.rs", "fuzz_targets"] },
];

/// The floors of a crate, from top to bottom.
type Floors = Vec<Vec<String>>;

/// The task: prints the floors of each crate with their numbers of files, then the violations.
///
/// # Errors
/// A source, or the page, that cannot be read.
pub(crate) fn task() -> Result<bool> {
    let listed = listed()?;
    for Crate { folder, .. } in &CRATES {
        ui::section(folder);
        let floors = listed.get(*folder).map_or(&[][..], Vec::as_slice);
        for (number, floor) in floors.iter().enumerate() {
            ui::text(&format!("{:>3}  {}", floors.len() - number, floor.join("  ")));
        }
    }
    match check() {
        Ok(facts) => ui::text(&format!("\n{facts}")),
        Err(error) => {
            ui::text("");
            ui::error(&format!("{error:#}"));
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks the imports of all crates. Returns how many there are.
///
/// # Errors
/// The violations, and their places.
pub(crate) fn check() -> Result<String> {
    let listed = listed()?;
    let mut findings = strangers(&listed)?;
    let (mut files, mut uses) = (0, 0);
    for this in &CRATES {
        let read = Read::new(&root().join(this.folder), this)?;
        files += read.names.len();
        uses += read.imports.len();
        let mut found = Vec::new();
        match listed.get(this.folder) {
            Some(floors) => {
                found.extend(read.circles());
                found.extend(read.against(floors));
            }
            None => found.push(format!("no floors of it are in {PAGE}")),
        }
        findings.extend(found.into_iter().map(|what| format!("{}: {what}", this.folder)));
    }
    if !findings.is_empty() {
        bail!("{} places break the order of floors:\n    {}", findings.len(), findings.join("\n    "));
    }
    Ok(format!("{uses} imports of {files} files in {} crates", CRATES.len()))
}

/// The floors on the page, by the crates' folders.
fn listed() -> Result<BTreeMap<String, Floors>> {
    let path = root().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("the section {SECTION:?} of {PAGE}"))
}

/// Crates that are only in one of the page, the workspace and this file.
fn strangers(listed: &BTreeMap<String, Floors>) -> Result<Vec<String>> {
    let known: BTreeSet<&str> = CRATES.iter().map(|known| known.folder).collect();
    let text = fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let members = text
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .context("no members in Cargo.toml")?
        .0;
    let members = members.split(',').map(|member| member.trim().trim_matches('"'));
    let mut found: Vec<String> = members
        .filter(|member| !member.is_empty() && !known.contains(member))
        .map(|member| format!("{member}: a crate of the workspace that is not in xtask/src/floors.rs"))
        .collect();
    let unknown = listed.keys().filter(|name| !known.contains(name.as_str()));
    found.extend(unknown.map(|name| format!("{name}: floors of a crate that there is not")));
    Ok(found)
}

/// Reads the floors from the page.
fn parse(page: &str) -> Result<BTreeMap<String, Floors>> {
    let section =
        page.lines().skip_while(|line| *line != SECTION).skip(1).take_while(|line| !line.starts_with("## "));
    let mut listed: BTreeMap<String, Floors> = BTreeMap::new();
    let mut name: Option<String> = None;
    // The line of a floor with its continuation lines.
    let mut floor: Option<String> = None;
    let end = |name: &Option<String>, floor: Option<String>, listed: &mut BTreeMap<String, Floors>| {
        let Some(text) = floor else { return Ok(()) };
        let Some(floors) = name.as_ref().and_then(|name| listed.get_mut(name)) else {
            bail!("a floor before the first crate: {text}");
        };
        let head = text.split(':').next().unwrap_or_default();
        let modules: Vec<String> = head.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if modules.is_empty() {
            bail!("a floor without modules in backticks: {text}");
        }
        floors.push(modules);
        Ok(())
    };
    for line in section {
        if let Some(head) = line.strip_prefix("### ") {
            end(&name, floor.take(), &mut listed)?;
            let head = head.trim().trim_matches('`').to_owned();
            if listed.insert(head.clone(), Floors::new()).is_some() {
                bail!("two lists of {head}");
            }
            name = Some(head);
        } else if let Some(begin) = line.strip_prefix("- ") {
            end(&name, floor.replace(begin.to_owned()), &mut listed)?;
        } else if line.starts_with("  ")
            && let Some(floor) = &mut floor
        {
            floor.push(' ');
            floor.push_str(line.trim());
        } else {
            end(&name, floor.take(), &mut listed)?;
        }
    }
    end(&name, floor, &mut listed)?;
    Ok(listed)
}

/// The parsed sources of a crate.
struct Read {
    /// For each file: its path in the crate without `.rs`, which is its name on the page.
    names: Vec<String>,
    imports: Imports,
}

impl Read {
    fn new(folder: &Path, this: &Crate) -> Result<Self> {
        let folder = folder.join(this.sources);
        let mut roots = Vec::new();
        for root in this.roots {
            if folder.join(root).is_dir() {
                let mut all = Vec::new();
                for entry in fs::read_dir(folder.join(root)).with_context(|| format!("cannot read {root}"))? {
                    all.push(Path::new(root).join(entry?.file_name()));
                }
                all.sort();
                roots.extend(all);
            } else {
                roots.push(PathBuf::from(root));
            }
        }
        let tree = Tree::read(&folder, &roots)?;
        let names = tree.files.iter().map(|file| file.with_extension("").display().to_string()).collect();
        Ok(Self { names, imports: resolve::imports(&tree, this.library) })
    }

    /// The place of a use: a file and a line.
    fn place(&self, from: usize, to: usize) -> String {
        let line = self.imports.get(&(from, to)).copied().unwrap_or_default();
        format!("{}.rs:{line}", self.names[from])
    }

    /// The circles, each with the lines that form it.
    fn circles(&self) -> Vec<String> {
        let describe = |circle: Vec<usize>| {
            let steps: Vec<String> = circle
                .iter()
                .zip(circle.iter().cycle().skip(1))
                .map(|(&from, &to)| format!("{} uses {}", self.place(from, to), self.names[to]))
                .collect();
            format!("a circle of {} files: {}", circle.len(), steps.join(", "))
        };
        circle::circles(&self.imports).into_iter().map(describe).collect()
    }

    /// Violations of the floors.
    fn against(&self, floors: &[Vec<String>]) -> Vec<String> {
        let mut findings = Vec::new();
        // Each module's floor, counted from the top.
        let mut modules: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, floor) in floors.iter().enumerate() {
            for module in floor {
                if modules.insert(module, number).is_some() {
                    findings.push(format!("{module} stands on two floors"));
                }
            }
        }
        let of: Vec<Option<(&str, usize)>> =
            self.names.iter().map(|name| module_of(name, &modules)).collect();
        for (name, of) in self.names.iter().zip(&of) {
            if of.is_none() {
                findings.push(format!("{name}.rs stands on no floor"));
            }
        }
        let filled: BTreeSet<&str> = of.iter().flatten().map(|(module, _)| *module).collect();
        let empty = modules.keys().filter(|module| !filled.contains(*module));
        findings.extend(empty.map(|module| format!("{module} stands on a floor, but there is no such file")));
        for &(from, to) in self.imports.keys() {
            let (Some((user, above)), Some((used, below))) = (of[from], of[to]) else { continue };
            if user != used && above >= below {
                let floor = if above == below { "the same floor" } else { "a higher floor" };
                let place = self.place(from, to);
                findings.push(format!("{place} uses {}, which stands on {floor}", self.names[to]));
            }
        }
        findings
    }
}

/// The module on the page that a file belongs to, and its floor: its own, or that of the nearest folder that
/// has one.
fn module_of<'m>(file: &str, modules: &BTreeMap<&'m str, usize>) -> Option<(&'m str, usize)> {
    let found = |name: &str| modules.get_key_value(name).map(|(module, floor)| (*module, *floor));
    if let Some(itself) = found(file) {
        return Some(itself);
    }
    let mut folder = file;
    while let Some((outer, _)) = folder.rsplit_once('/') {
        if let Some(module) = found(outer) {
            return Some(module);
        }
        folder = outer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings in a crate with these files and floors.
    fn findings(files: &[(&str, &str)], page: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join("src").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let programs: &'static [&'static str] = match files.iter().any(|(name, _)| *name == "main.rs") {
            true => &["lib.rs", "main.rs"],
            false => &["lib.rs"],
        };
        let read = Read::new(folder.path(), &package("made-up", "made_up", programs)).unwrap();
        let page = format!("# Page\n\n{SECTION}\n\n### made-up\n\n{page}\n## Next\n\n- `x`\n");
        let listed = parse(&page).unwrap();
        let mut found = read.circles();
        found.extend(read.against(&listed["made-up"]));
        found
    }

    const LIB: (&str, &str) = ("lib.rs", "mod top;\nmod low;\n");
    const PAGE_OF_TWO: &str = "- `lib`: the story\n- `top`\n- `low`\n";

    #[test]
    fn floors_in_order_are_good() {
        let top = ("top.rs", "use crate::low::Thing;\nfn f(thing: Thing) {}\n");
        let low = ("low.rs", "pub struct Thing;\n");
        assert_eq!(findings(&[LIB, top, low], PAGE_OF_TWO), Vec::<String>::new());
    }

    #[test]
    fn a_circle_is_named_with_its_lines() {
        let lib = ("lib.rs", "mod a;\nmod b;\nmod c;\n");
        let files = [
            lib,
            ("a.rs", "\nuse crate::b::b;\npub fn a() { b() }\n"),
            ("b.rs", "pub fn b() {\n    super::c::c()\n}\n"),
            ("c.rs", "pub fn c() {\n\n    println!(\"{}\", crate::a::a());\n}\n"),
        ];
        let found = findings(&files, "- `lib`\n- `a`\n- `b`\n- `c`\n");
        let circle = "a circle of 3 files: a.rs:2 uses b, b.rs:2 uses c, c.rs:3 uses a";
        let upward = "c.rs:3 uses a, which stands on a higher floor";
        assert_eq!(found, [circle, upward]);
    }

    #[test]
    fn a_folder_and_its_files_can_make_a_circle() {
        let files = [
            ("lib.rs", "mod store;\n"),
            ("store/mod.rs", "mod disk;\npub struct Name;\npub fn open() { disk::open() }\n"),
            ("store/disk.rs", "use super::Name;\npub(super) fn open() {}\n"),
        ];
        let found = findings(&files, "- `lib`\n- `store`\n");
        assert_eq!(
            found,
            ["a circle of 2 files: store/mod.rs:3 uses store/disk, store/disk.rs:1 uses store/mod"]
        );
    }

    #[test]
    fn an_import_from_a_higher_floor_is_found_wherever_it_stands() {
        let top = ("top.rs", "pub struct Thing;\n#[macro_export]\nmacro_rules! thing { () => {} }\n");
        let upward = "low.rs:2 uses top, which stands on a higher floor";
        for low in [
            "\nuse crate::top::Thing;",
            "\nuse super::{top::{self, Thing as Other}};",
            "\nfn f() -> crate::top::Thing { make() }",
            "\nimpl From<super::top::Thing> for u8 {}",
            "use crate::top;\nfn f() { top::Thing; }",
            "\nfn f() { assert!(matches!(x, crate::top::Thing)); }",
            "\n#[derive(with = crate::top::Thing)] struct Own;",
            "\ncrate::thing!();",
            "mod inner {\nuse super::super::top::Thing; }",
            "use crate::top::*;\nfn f(thing: Thing) {}",
        ] {
            let found = findings(&[LIB, top, ("low.rs", low)], PAGE_OF_TWO);
            assert_eq!(found, [upward], "{low}");
        }
    }

    #[test]
    fn what_only_looks_like_an_import_is_none() {
        let top = ("top.rs", "pub struct Thing;\npub fn low() {}\n");
        for low in [
            "/// As [`crate::top::Thing`].\npub struct Own;",
            "#[cfg(test)] mod tests { use crate::top::Thing; }",
            "#[cfg(test)] use crate::top::Thing;",
            "use std::top::Thing;",
            "use ::top::Thing;",
            "const TEXT: &str = \"crate::top::Thing\";",
            "fn f(x: X) { debug!(x.top, x.low()); }",
            "fn f() { crate::top::MADE_UP_BY_A_MACRO; }",
            "use crate::top::*; fn f() { let low = 1; g(low); }",
            "pub(crate) fn f() {} pub(in crate::top) fn g() {}",
        ] {
            assert_eq!(findings(&[LIB, top, ("low.rs", low)], PAGE_OF_TWO), Vec::<String>::new(), "{low}");
        }
    }

    #[test]
    fn a_name_that_is_passed_on_counts_where_it_is_defined() {
        let files = [
            ("lib.rs", "mod hub;\nmod other;\npub use hub::Thing;\n"),
            ("hub/mod.rs", "mod thing;\nmod user;\npub use thing::Thing;\npub use user::*;\n"),
            ("hub/thing.rs", "pub struct Thing;\n"),
            ("hub/user.rs", "pub struct User(crate::Thing, super::Thing);\n"),
            ("other.rs", "fn f(_: crate::hub::User) {}\n"),
        ];
        let good = "- `lib`\n- `other`\n- `hub/mod`\n- `hub/user`\n- `hub/thing`\n";
        assert_eq!(findings(&files, good), Vec::<String>::new());
        let bad = "- `lib`\n- `hub/mod`\n- `hub/user`\n- `other` `hub/thing`\n";
        assert_eq!(findings(&files, bad), ["other.rs:1 uses hub/user, which stands on a higher floor"]);
        // Using a re-export counts as using the item.
        let mut uses = files;
        uses[1].1 = "mod thing;\nmod user;\npub use thing::Thing;\npub use user::*;\nfn f(_: Thing) {}\n";
        let upside_down = "- `lib`\n- `other`\n- `hub/user`\n- `hub/thing`\n- `hub/mod`\n";
        assert_eq!(
            findings(&uses, upside_down),
            ["hub/mod.rs:5 uses hub/thing, which stands on a higher floor"]
        );
    }

    #[test]
    fn a_program_uses_its_library() {
        let main = ("main.rs", "mod low;\nfn main() { made_up::top::f() }\n");
        let lib = ("lib.rs", "pub mod top;\n");
        let top = ("top.rs", "pub fn f() {}\n");
        let found = findings(&[lib, main, top, ("low.rs", "")], "- `top`\n- `lib` `main`\n- `low`\n");
        assert_eq!(found, ["main.rs:2 uses top, which stands on a higher floor"]);
    }

    #[test]
    fn modules_of_one_floor_do_not_use_each_other_but_those_of_one_folder_do() {
        let files = [
            ("lib.rs", "mod a;\nmod f;\n"),
            ("a.rs", "use crate::f::b::B;\n"),
            ("f/mod.rs", "pub mod b;\nmod c;\n"),
            ("f/b.rs", "pub struct B(super::c::C);\n"),
            ("f/c.rs", "pub struct C;\n"),
        ];
        assert_eq!(findings(&files, "- `lib`\n- `a`\n- `f`\n"), Vec::<String>::new());
        let found = findings(&files, "- `lib`\n- `a` `f`\n");
        assert_eq!(found, ["a.rs:1 uses f/b, which stands on the same floor"]);
        let found = findings(&files, "- `lib`\n- `f/c`\n- `a`\n- `f`\n");
        assert_eq!(found, ["f/b.rs:1 uses f/c, which stands on a higher floor"]);
    }

    #[test]
    fn each_file_stands_on_one_floor() {
        let files = [LIB, ("top.rs", ""), ("low.rs", "")];
        assert_eq!(findings(&files, "- `lib`\n- `top`\n"), ["low.rs stands on no floor"]);
        let found = findings(&files, "- `lib`\n- `top` `gone`\n- `low`\n");
        assert_eq!(found, ["gone stands on a floor, but there is no such file"]);
        let found = findings(&files, "- `lib`\n- `top`\n- `low` `top`\n");
        assert_eq!(found, ["top stands on two floors"]);
    }

    #[test]
    fn the_page_is_read_line_by_line() {
        let page = format!(
            "- `no`\n{SECTION}\n\nText with `code`.\n\n### a/b\n\n- `x` `y/z`: as `q` says\n- `long`\n  `longer`:\n  more\n\n\
             ### c\n- `x`\n\n## Other\n### d\n- `x`\n"
        );
        let listed = parse(&page).unwrap();
        let floors: Vec<(&str, String)> =
            listed.iter().map(|(name, floors)| (name.as_str(), format!("{floors:?}"))).collect();
        let of_a = r#"[["x", "y/z"], ["long", "longer"]]"#.to_owned();
        assert_eq!(floors, [("a/b", of_a), ("c", r#"[["x"]]"#.to_owned())]);
        assert!(parse(&format!("{SECTION}\n- `x`\n")).is_err());
        assert!(parse(&format!("{SECTION}\n### a\n- nothing: `x`\n")).is_err());
        assert!(parse(&format!("{SECTION}\n### a\n- `x`\n### a\n")).is_err());
    }

    #[test]
    fn each_crate_of_the_workspace_is_known() {
        assert_eq!(strangers(&BTreeMap::new()).unwrap(), Vec::<String>::new());
        let unknown = BTreeMap::from([("attic".to_owned(), Floors::new())]);
        assert_eq!(strangers(&unknown).unwrap().len(), 1);
    }
}
