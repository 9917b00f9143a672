//! Checks that every dependency has a licence that `deny.toml` allows. `cargo deny` checks more, but is not
//! needed for this.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::folders::root;
use crate::step::SECTION_LIMIT;
use crate::toolchain::{host_cargo, logged};

/// Checks the licences of everything in Cargo.lock. Returns the number of crates.
///
/// # Errors
/// Crates without a licence, or whose licence is not allowed.
pub(crate) fn check() -> Result<String> {
    let path = root().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let allowed = allowed(&text).context("deny.toml has no list of allowed licences")?;
    let mut cargo = host_cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    let output = logged(cargo, "metadata", SECTION_LIMIT)?.success("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&output.stdout).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!packages.is_empty(), "cargo metadata names no packages");
    let bad: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("none");
            (!may_be_used(licence, &allowed)).then(|| format!("{} ({licence})", package["name"]))
        })
        .collect();
    if !bad.is_empty() {
        bail!("licences that deny.toml does not allow: {}", bad.join(", "));
    }
    Ok(format!("{} crates", packages.len()))
}

/// The strings in the list `allow` of `[licenses]`.
fn allowed(text: &str) -> Option<BTreeSet<&str>> {
    let list = text.split_once("[licenses]")?.1.split_once("allow = [")?.1.split_once(']')?.0;
    Some(list.split('"').skip(1).step_by(2).collect())
}

/// Whether the allowed licences satisfy an SPDX expression. `/`, an old form, means OR.
fn may_be_used(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let satisfied = either(&mut words, allowed);
    satisfied && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

/// Terms with OR between them.
fn either(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut satisfied = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        satisfied |= all(words, allowed);
    }
    satisfied
}

/// Terms with AND between them, which binds more tightly.
fn all(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let mut satisfied = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        satisfied &= one(words, allowed);
    }
    satisfied
}

/// A licence, possibly with an exception, or an expression in parentheses.
fn one(words: &mut Words<'_>, allowed: &BTreeSet<&str>) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let satisfied = either(words, allowed);
        return satisfied && words.next() == Some(")");
    }
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(format!("{word} WITH {exception}").as_str()),
        None => allowed.contains(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_satisfied_by_what_is_allowed() {
        let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        for good in [
            "MIT",
            "MIT OR GPL-2.0",
            "GPL-2.0/MIT",
            "ISC AND (GPL-2.0 OR MIT)",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-2.0 OR ISC AND MIT",
            "(MIT)",
        ] {
            assert!(may_be_used(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "none",
            "GPL-2.0",
            "MIT AND GPL-2.0",
            "Apache-2.0",
            "(GPL-2.0 OR MIT) AND GPL-2.0",
            "MIT )",
            "( MIT",
        ] {
            assert!(!may_be_used(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_list_is_that_of_the_licences() {
        let text =
            "allow = [\"no\"]\n[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\"]\n[bans]\nallow = [\"no\"]";
        assert_eq!(allowed(text), Some(BTreeSet::from(["MIT", "ISC"])));
        assert_eq!(allowed("[bans]"), None);
    }

    #[test]
    fn every_dependency_has_a_licence_that_is_allowed() {
        check().unwrap();
    }
}
