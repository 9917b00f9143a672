//! `cargo xtask book`: checks the documents (README, the book in docs/, and the others) against the code.
//!
//! - Every page of the book is in its table of contents, and every entry there has a page.
//! - Relative links lead to a file, and to a heading in it. A page of the book links only to the book: a
//!   rendered book comes without the sources.
//! - Prose is at most [`WIDTH`] columns wide, and the README fits a front page.
//! - `path.rs::function` in backticks names a function (or a type) in that file, and a path in backticks that
//!   begins with a folder of the workspace exists.
//! - `cargo xtask …` in shell blocks is a command that this program accepts.
//!
//! The list of tasks is generated from this program's own help; `--write` updates it.
//!
//! One file: each check is a few lines, and all of them go over the same pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{CommandFactory, Parser};
use syn::visit::{self, Visit};

use crate::arguments::Arguments;
use crate::folders::{files, root};
use crate::ui;

/// The longest line of prose, in characters. Tables and code may be wider.
const WIDTH: usize = 110;

/// The longest README, in lines.
const FRONT_PAGE: usize = 150;

/// The folder with the book's pages, and its table of contents.
const BOOK: &str = "docs/src";
const SUMMARY: &str = "docs/src/SUMMARY.md";

/// Documents outside the book.
const OUTSIDE: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "linux/README.md",
    ".github/pull_request_template.md",
];

/// Folders of the workspace: a path in backticks that begins with one of them must exist.
const FOLDERS: [&str; 8] =
    ["dumpcore/", "drivers/", "savecore/", "linux/", "qemu-tests/", "xtask/", "fuzz/", "docs/"];

/// The page with the tasks, and the marks around them.
const TASKS_PAGE: &str = "docs/src/reference/tasks.md";
const TASKS: [&str; 2] = ["<!-- tasks: cargo xtask book --write -->", "<!-- end of the tasks -->"];

/// The task: checks the documents; with `write`, first updates the generated text.
pub(crate) fn task(write: bool) -> Result<bool> {
    if write {
        let path = root().join(TASKS_PAGE);
        let text = replaced(&read(&path)?, TASKS, &tasks())
            .with_context(|| format!("{TASKS_PAGE} has no place for the tasks, between {TASKS:?}"))?;
        fs::write(&path, text).with_context(|| format!("cannot write {TASKS_PAGE}"))?;
    }
    ui::text(&check()?);
    Ok(true)
}

/// Checks all documents. Returns how many there are, and how much was checked.
///
/// # Errors
/// All findings, each with its place.
pub(crate) fn check() -> Result<String> {
    let mut documents = Documents::read(&root())?;
    documents.contents();
    documents.links();
    documents.widths();
    documents.names()?;
    documents.commands();
    let Documents { pages, findings, counts, .. } = &mut documents;
    if pages.get("README.md").is_some_and(|text| text.lines().count() > FRONT_PAGE) {
        findings.insert(format!("README.md: a front page has at most {FRONT_PAGE} lines"));
    }
    let listed = pages.get(TASKS_PAGE).and_then(|text| between(text, TASKS));
    if listed.map(str::trim) != Some(tasks().trim()) {
        findings.insert(format!("{TASKS_PAGE}: the tasks are out of date; run `cargo xtask book --write`"));
    }
    if !findings.is_empty() {
        let lines: Vec<&str> = findings.iter().map(String::as_str).collect();
        bail!("{} findings in the documents:\n    {}", lines.len(), lines.join("\n    "));
    }
    ensure!(
        counts.links > 0 && counts.functions > 0 && counts.commands > 0,
        "nothing was checked: {counts:?}"
    );
    Ok(format!(
        "{} documents: {} links, {} functions, {} paths, {} commands",
        pages.len(),
        counts.links,
        counts.functions,
        counts.paths,
        counts.commands
    ))
}

/// Counts of what was checked.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    links: usize,
    functions: usize,
    paths: usize,
    commands: usize,
}

/// All documents, and the findings.
struct Documents {
    root: PathBuf,
    /// The text of each, by its path from the root.
    pages: BTreeMap<String, String>,
    /// Findings, each preceded by its place.
    findings: BTreeSet<String>,
    counts: Counts,
}

impl Documents {
    fn read(root: &Path) -> Result<Documents> {
        let mut pages = BTreeMap::new();
        for name in OUTSIDE {
            if let Ok(text) = fs::read_to_string(root.join(name)) {
                pages.insert(name.to_owned(), text);
            }
        }
        for path in files(&root.join(BOOK), "md")? {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            pages.insert(name, read(&path)?);
        }
        Ok(Documents {
            root: root.to_path_buf(),
            pages,
            findings: BTreeSet::new(),
            counts: Counts::default(),
        })
    }

    /// Checks that the table of contents lists each page of the book once.
    fn contents(&mut self) {
        let Some(summary) = self.pages.get(SUMMARY) else {
            self.findings.insert(format!("{SUMMARY} is missing"));
            return;
        };
        let mut listed = BTreeSet::new();
        for link in prose(summary).flat_map(|(_, line)| links(&line)) {
            if !listed.insert(format!("{BOOK}/{link}")) {
                self.findings.insert(format!("{SUMMARY}: {link} is listed twice"));
            }
        }
        let pages = self.pages.keys().filter(|name| name.starts_with(BOOK) && *name != SUMMARY);
        let pages: BTreeSet<String> = pages.cloned().collect();
        for page in pages.difference(&listed) {
            self.findings.insert(format!("{SUMMARY}: {page} is not in the table of contents"));
        }
        for page in listed.difference(&pages) {
            self.findings.insert(format!("{SUMMARY}: there is no {page}"));
        }
    }

    /// Checks that each relative link leads to a file and a heading, and that each include has its text.
    fn links(&mut self) {
        let mut findings = BTreeSet::new();
        for name in self.pages.keys() {
            let text = match self.expanded(name) {
                Ok(text) => text,
                Err(error) => {
                    findings.insert(format!("{name}: {error:#}"));
                    continue;
                }
            };
            for link in prose(&text).flat_map(|(_, line)| links(&line)) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                self.counts.links += 1;
                if let Err(error) = self.follow(name, &link) {
                    findings.insert(format!("{name}: {error:#}"));
                }
            }
        }
        self.findings.extend(findings);
    }

    /// A document with its includes expanded.
    fn expanded(&self, name: &str) -> Result<String> {
        let text = self.pages.get(name).with_context(|| format!("there is no {name}"))?;
        let mut expanded = String::new();
        for line in text.lines() {
            let include = line.trim().strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}"));
            let Some(include) = include else {
                expanded.push_str(line);
                expanded.push('\n');
                continue;
            };
            let (path, anchor) = include.split_once(':').unwrap_or((include, ""));
            let path = beside(name, path);
            let included = fs::read_to_string(self.root.join(&path))
                .with_context(|| format!("cannot read {path}, which it includes"))?;
            let part = if anchor.is_empty() {
                &included
            } else {
                between(
                    &included,
                    [&format!("<!-- ANCHOR: {anchor} -->"), &format!("<!-- ANCHOR_END: {anchor} -->")],
                )
                .with_context(|| format!("{path} has no part {anchor}, which it includes"))?
            };
            expanded.push_str(part);
        }
        Ok(expanded)
    }

    /// Follows a link of a document.
    fn follow(&self, from: &str, link: &str) -> Result<()> {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let to = if path.is_empty() { from.to_owned() } else { beside(from, path) };
        if from.starts_with(BOOK) && !to.starts_with(BOOK) {
            bail!("the link to {link} leaves the book; name the file in backticks");
        }
        ensure!(self.root.join(&to).exists(), "the link to {link} leads nowhere");
        if heading.is_empty() {
            return Ok(());
        }
        let there = headings(&self.expanded(&to)?);
        ensure!(there.contains(heading), "the link to {link} leads to no heading of {to}");
        Ok(())
    }

    /// Checks the width of prose.
    fn widths(&mut self) {
        for (name, text) in &self.pages {
            for (number, line) in prose(text) {
                let wide = line.chars().count() > WIDTH;
                if wide && !line.trim_start().starts_with(['|', '<']) {
                    self.findings.insert(format!("{name}:{number}: a line of more than {WIDTH} columns"));
                }
            }
        }
    }

    /// Checks that functions and files named in backticks exist.
    fn names(&mut self) -> Result<()> {
        let mut sources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, text) in &self.pages {
            // The list of floors names modules in its own way; `crate::floors` checks it.
            for (number, line) in prose(text).take_while(|(_, line)| line.trim() != "## Floors") {
                for code in line.split('`').skip(1).step_by(2) {
                    let (path, item) = code
                        .split_once(".rs::")
                        .map_or((code, None), |(path, item)| (path, Some((format!("{path}.rs"), item))));
                    if let Some((path, item)) = item {
                        self.counts.functions += 1;
                        if !sources.contains_key(&path) {
                            let file = self.root.join(&path);
                            let items = if file.is_file() { items(&read(&file)?)? } else { BTreeSet::new() };
                            sources.insert(path.clone(), items);
                        }
                        if !sources.get(&path).is_some_and(|items| items.contains(item)) {
                            self.findings.insert(format!("{name}:{number}: there is no {item} in {path}"));
                        }
                        continue;
                    }
                    let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder))
                        && !path.contains([' ', '*', '…', '<']);
                    if is_path {
                        self.counts.paths += 1;
                        if !self.root.join(path).exists() {
                            self.findings.insert(format!("{name}:{number}: there is no {path}"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that this program accepts the commands in shell blocks.
    fn commands(&mut self) {
        for (name, text) in &self.pages {
            for (number, line) in blocks(text, "sh") {
                let Some((_, command)) = line.split_once("cargo xtask ") else { continue };
                let command = command.split(['#', '&', ';', '|']).next().unwrap_or_default();
                if command.contains(['[', '…']) {
                    continue;
                }
                self.counts.commands += 1;
                let words = std::iter::once("cargo xtask").chain(command.split_whitespace());
                if let Err(error) = Arguments::try_parse_from(words) {
                    let error = error.to_string();
                    let error = error.lines().next().unwrap_or_default();
                    self.findings.insert(format!("{name}:{number}: `cargo xtask {command}`: {error}"));
                }
            }
        }
    }
}

/// The tasks and their options, from this program's help.
fn tasks() -> String {
    let mut program = Arguments::command().term_width(100);
    program.build();
    let mut text = String::new();
    for task in program.get_subcommands_mut() {
        let name = task.get_name().to_owned();
        if name != "help" {
            text.push_str(&format!(
                "## {name}\n\n```text\n{}\n```\n\n",
                task.render_help().to_string().trim()
            ));
        }
    }
    text
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The text between two marks.
fn between<'t>(text: &'t str, [begin, end]: [&str; 2]) -> Option<&'t str> {
    Some(text.split_once(begin)?.1.split_once(end)?.0)
}

/// A text with the part between two marks replaced.
fn replaced(text: &str, marks: [&str; 2], with: &str) -> Option<String> {
    let before = text.split_once(marks[0])?.0;
    let after = text.split_once(marks[1])?.1;
    Some(format!("{before}{}\n\n{}\n\n{}{after}", marks[0], with.trim(), marks[1]))
}

/// Resolves a path in a document, relative to it, to one from the root.
fn beside(document: &str, path: &str) -> String {
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let mut parts: Vec<String> = Vec::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// The lines of a text with their numbers, from 1, and whether each is code; the lines that open or close a
/// block count as code.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut open = false;
    text.lines().enumerate().map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        let code = open || is_fence;
        open ^= is_fence;
        (index + 1, line, code)
    })
}

/// The lines of a text that are not code.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    lines(text).filter(|(_, _, code)| !code).map(|(number, line, _)| (number, line.to_owned()))
}

/// The lines in blocks of this language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<(usize, &'t str)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line, code) in lines(text) {
        if line.trim_start().starts_with("```") {
            inside = line.trim() == format!("```{language}");
        } else if code && inside {
            found.push((number, line));
        }
    }
    found
}

/// The targets of the links in a line, except links in code.
fn links(line: &str) -> Vec<String> {
    let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
    let mut found = Vec::new();
    let mut rest = outside.as_str();
    // Each turn takes one link off the line.
    while let Some((_, after)) = rest.split_once("](") {
        let Some((link, after)) = after.split_once(')') else { break };
        found.push(link.to_owned());
        rest = after;
    }
    found
}

/// The anchors of a text's headings, as GitHub and mdBook make them.
fn headings(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let name: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                _ => character.is_alphanumeric().then_some(character),
            })
            .collect();
        let mut number = 0;
        let mut unique = name.clone();
        // Each turn tries the next number; at most as many names are taken as there are headings.
        while !found.insert(unique.clone()) {
            number += 1;
            unique = format!("{name}-{number}");
        }
    }
    found
}

/// The functions and types in a source; methods also as `Type::method`.
fn items(text: &str) -> Result<BTreeSet<String>> {
    #[derive(Default)]
    struct Items {
        found: BTreeSet<String>,
    }
    impl Items {
        fn method(&mut self, owner: &str, name: &syn::Ident) {
            self.found.insert(name.to_string());
            self.found.insert(format!("{owner}::{name}"));
        }
    }
    impl<'s> Visit<'s> for Items {
        fn visit_item_fn(&mut self, item: &'s syn::ItemFn) {
            self.found.insert(item.sig.ident.to_string());
            visit::visit_item_fn(self, item);
        }
        fn visit_item_struct(&mut self, item: &'s syn::ItemStruct) {
            self.found.insert(item.ident.to_string());
        }
        fn visit_item_enum(&mut self, item: &'s syn::ItemEnum) {
            self.found.insert(item.ident.to_string());
        }
        fn visit_item_trait(&mut self, item: &'s syn::ItemTrait) {
            self.found.insert(item.ident.to_string());
            for member in &item.items {
                if let syn::TraitItem::Fn(method) = member {
                    self.method(&item.ident.to_string(), &method.sig.ident);
                }
            }
        }
        fn visit_item_impl(&mut self, item: &'s syn::ItemImpl) {
            let owner = match item.self_ty.as_ref() {
                syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
                _ => None,
            };
            for member in &item.items {
                if let syn::ImplItem::Fn(method) = member {
                    self.method(owner.as_deref().unwrap_or_default(), &method.sig.ident);
                }
            }
        }
    }
    let mut items = Items::default();
    items.visit_file(&syn::parse_file(text)?);
    Ok(items.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents that exist only in memory, next to a source and a folder that exist.
    fn documents(folder: &Path, pages: &[(&str, &str)]) -> Documents {
        fs::create_dir_all(folder.join("dumpcore")).unwrap();
        fs::write(folder.join("dumpcore/a.rs"), "struct S; impl S { fn go(&self) {} } fn free() {}").unwrap();
        for (name, text) in pages {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Documents::read(folder).unwrap()
    }

    fn findings(documents: &Documents) -> Vec<&str> {
        documents.findings.iter().map(String::as_str).collect()
    }

    #[test]
    fn the_documents_are_in_order() {
        check().unwrap();
    }

    #[test]
    fn a_page_that_is_not_listed_and_an_entry_without_a_page_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let pages = [("docs/src/SUMMARY.md", "- [A](a.md)\n- [B](b.md)\n- [A](a.md)"), ("docs/src/a.md", "")];
        let mut all = documents(folder.path(), &[&pages[..], &[("docs/src/c/d.md", "")]].concat());
        all.contents();
        assert_eq!(
            findings(&all),
            [
                "docs/src/SUMMARY.md: a.md is listed twice",
                "docs/src/SUMMARY.md: docs/src/c/d.md is not in the table of contents",
                "docs/src/SUMMARY.md: there is no docs/src/b.md",
            ]
        );
    }

    #[test]
    fn links_lead_to_a_file_and_a_heading_and_stay_in_the_book() {
        let folder = tempfile::tempdir().unwrap();
        let readme =
            "[a](docs/src/a.md#two-words) [b](nowhere.md) [c](#one) [d](https://x.y) `[e](f)`\n# One\n";
        let page =
            "# Two words\n```sh\n# no heading\n[no](link)\n```\n[out](../../README.md) [x](#no-heading)\n";
        let mut all = documents(folder.path(), &[("README.md", readme), ("docs/src/a.md", page)]);
        all.links();
        assert_eq!(
            findings(&all),
            [
                "README.md: the link to nowhere.md leads nowhere",
                "docs/src/a.md: the link to #no-heading leads to no heading of docs/src/a.md",
                "docs/src/a.md: the link to ../../README.md leaves the book; name the file in backticks",
            ]
        );
        assert_eq!(all.counts.links, 5);
    }

    #[test]
    fn what_a_page_includes_is_read_as_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let source = "# Out\n<!-- ANCHOR: x -->\n# In\n[l](gone.md)\n<!-- ANCHOR_END: x -->\n";
        let page = "{{#include ../../ARCHITECTURE.md:x}}\n[h](#in) [o](#out)\n";
        let all = [("ARCHITECTURE.md", source), ("docs/src/a.md", page)];
        let mut all =
            documents(folder.path(), &[&all[..], &[("docs/src/b.md", "{{#include gone.rs}}")]].concat());
        all.links();
        let found = findings(&all).join("\n");
        assert!(found.contains("docs/src/a.md: the link to gone.md leads nowhere"), "{found}");
        assert!(found.contains("docs/src/a.md: the link to #out leads to no heading"), "{found}");
        assert!(found.contains("docs/src/b.md: cannot read docs/src/gone.rs"), "{found}");
        assert!(!found.contains("#in "), "{found}");
    }

    #[test]
    fn prose_is_narrow_and_tables_and_code_may_be_wide() {
        let folder = tempfile::tempdir().unwrap();
        let wide = "word ".repeat(30);
        let text = format!("{wide}\n| {wide} |\n```\n{wide}\n```\n{}\n", "ä".repeat(WIDTH));
        let mut all = documents(folder.path(), &[("README.md", &text), ("docs/src/a.md", "")]);
        all.widths();
        assert_eq!(findings(&all), ["README.md:1: a line of more than 110 columns"]);
    }

    #[test]
    fn functions_types_and_paths_that_are_named_exist() {
        let folder = tempfile::tempdir().unwrap();
        let good = "`dumpcore/a.rs::free` `dumpcore/a.rs::S` `dumpcore/a.rs::S::go` `dumpcore/a.rs::go` `dumpcore/`\n";
        let bad = "`dumpcore/a.rs::gone` `dumpcore/b.rs::free` `dumpcore/c` `elsewhere/d` `dumpcore/*.rs`\n";
        let mut all =
            documents(folder.path(), &[("README.md", &format!("{good}{bad}")), ("docs/src/a.md", "")]);
        all.names().unwrap();
        assert_eq!(
            findings(&all),
            [
                "README.md:2: there is no dumpcore/c",
                "README.md:2: there is no free in dumpcore/b.rs",
                "README.md:2: there is no gone in dumpcore/a.rs",
            ]
        );
        assert_eq!((all.counts.functions, all.counts.paths), (6, 2));
    }

    #[test]
    fn commands_in_shell_blocks_are_ones_that_this_program_takes() {
        let folder = tempfile::tempdir().unwrap();
        let text = "```sh\ncargo xtask demo   # shows\nX=1 cargo xtask qemu --list && true\ncargo xtask tets\n```\ncargo xtask none\n";
        let mut all = documents(folder.path(), &[("README.md", text), ("docs/src/a.md", "")]);
        all.commands();
        let found = findings(&all);
        assert!(found.len() == 1 && found[0].starts_with("README.md:4: `cargo xtask tets`"), "{found:?}");
        assert_eq!(all.counts.commands, 3);
    }

    #[test]
    fn headings_of_the_same_name_are_numbered() {
        let names = headings("# A `b.c`\n## A bc\n#no\n### x-y_z: (1)\n");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a-bc", "a-bc-1", "x-y_z-1"]);
    }

    #[test]
    fn what_is_generated_replaces_what_is_between_its_marks() {
        assert_eq!(replaced("a<old>b", ["<", ">"], "\nnew\n").unwrap(), "a<\n\nnew\n\n>b");
        assert_eq!(replaced("a", ["<", ">"], "new"), None);
    }
}
