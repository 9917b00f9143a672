//! Which code is on the crash path, for the checks that read its sources.

use std::fs;

use anyhow::{Context, Result};
use syn::Attribute;

use crate::folders::{files, name, root};

/// Files and folders that are for tests: the simulated machine, the fakes, and tests in files of their own.
const FOR_TESTS: [&str; 4] = ["sim", "fake", "tests", "tests.rs"];

/// Reads the sources in a folder and below it, without those for tests, in order: shows each by its name and its text.
pub(crate) fn read_each(folder: &str, mut show: impl FnMut(&str, &str) -> syn::Result<()>) -> Result<()> {
    let folder = root().join(folder);
    for path in files(&folder, "rs")? {
        let inside = path.strip_prefix(&folder).unwrap_or(&path);
        if inside.iter().any(|part| FOR_TESTS.iter().any(|name| part == *name)) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = name(&path);
        show(&name, &text).with_context(|| format!("cannot parse {name}"))?;
    }
    Ok(())
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
