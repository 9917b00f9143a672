//! Which code is on the crash path, for the checks that read its sources.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::Attribute;

/// Files and folders that are for tests: the simulated machine, the fakes, and tests in files of their own.
const FOR_TESTS: [&str; 4] = ["sim", "fake", "tests", "tests.rs"];

/// The sources in a folder and below it, without those for tests, in order.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if FOR_TESTS.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether its attributes keep an item for tests.
pub(crate) fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let syn::Meta::List(list) = &attribute.meta else { return path.is_ident("test") };
        let condition: String = list.tokens.to_string().chars().filter(|c| !c.is_whitespace()).collect();
        path.is_ident("cfg") && condition.contains("test") && !condition.contains("not(")
    })
}
