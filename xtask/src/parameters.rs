//! Whether every parameter on the crash path has a name: no function there takes a tuple, or more than five parameters.
//!
//! A tuple hides what its parts are at the place of the call, and a long list invites two of one type in the wrong
//! order. Both become a struct whose fields have names. Compilers and lints count a tuple as one parameter, so this
//! check reads the sources.

use anyhow::{Result, bail};
use syn::visit::{self, Visit};
use syn::{FnArg, Signature, Type};

use crate::crash_path::{for_tests, read_each};

/// The crash path.
const FOLDERS: [&str; 4] = ["dumpcore/src", "drivers/src", "linux/core/src", "linux/module/src"];

/// How many parameters a function may have, without `self`.
const MOST: usize = 5;

/// Checks all functions of the crash path. Says how many there are.
///
/// # Errors
/// Those that break a rule, and where they are.
pub(crate) fn check() -> Result<String> {
    let mut findings = Vec::new();
    let mut functions = 0;
    for folder in FOLDERS {
        read_each(folder, |name, text| {
            let found = look(text)?;
            functions += found.functions;
            findings.extend(found.findings.iter().map(|(line, what)| format!("{name}:{line}: {what}")));
            Ok(())
        })?;
    }
    if functions == 0 {
        bail!("there is no function in {}, so nothing was checked", FOLDERS.join(", "));
    }
    if !findings.is_empty() {
        bail!(
            "{} functions take parameters without names; give them a struct:\n    {}",
            findings.len(),
            findings.join("\n    ")
        );
    }
    Ok(format!("{functions} functions"))
}

/// What was found in a file.
#[derive(Default)]
struct Found {
    functions: usize,
    /// Line, counted from 1, and what is wrong there.
    findings: Vec<(usize, String)>,
}

/// Looks at one file.
fn look(text: &str) -> Result<Found, syn::Error> {
    let mut found = Found::default();
    found.visit_file(&syn::parse_file(text)?);
    Ok(found)
}

impl Found {
    fn function(&mut self, signature: &Signature) {
        self.functions += 1;
        let line = signature.ident.span().start().line;
        let name = &signature.ident;
        let typed = signature.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(input) => Some(input),
            FnArg::Receiver(_) => None,
        });
        let mut count = 0;
        for input in typed {
            count += 1;
            if is_tuple(&input.ty) {
                self.findings.push((line, format!("{name}() takes a tuple")));
            }
        }
        if count > MOST {
            self.findings.push((line, format!("{name}() has {count} parameters; {MOST} are allowed")));
        }
    }
}

/// Whether a type is a tuple with members, or a reference to one.
fn is_tuple(of: &Type) -> bool {
    match of {
        Type::Tuple(tuple) => !tuple.elems.is_empty(),
        Type::Reference(reference) => is_tuple(&reference.elem),
        Type::Paren(inner) => is_tuple(&inner.elem),
        Type::Group(inner) => is_tuple(&inner.elem),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs[..],
            syn::Item::Impl(item) => &item.attrs[..],
            syn::Item::Mod(item) => &item.attrs[..],
            _ => &[],
        };
        if !for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.function(signature);
        visit::visit_signature(self, signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        look(text).unwrap().findings.into_iter().map(|(line, what)| format!("{line}: {what}")).collect()
    }

    #[test]
    fn the_crash_path_keeps_the_rules() {
        check().unwrap();
    }

    #[test]
    fn a_tuple_as_a_parameter_is_refused_wherever_the_function_is() {
        for text in [
            "fn f((from, to): (u64, u64)) {}",
            "fn f(range: &(u64, u64)) {}",
            "impl S { fn f(&self, (a, b): (u8, u8)) {} }",
            "trait T { fn f(&self, pair: (u8, u8)); }",
            "fn outer() { fn f(pair: (u8, u8)) {} }",
            "mod m { fn f(pair: &mut (u8, u8)) {} }",
        ] {
            assert_eq!(findings(text), ["1: f() takes a tuple"], "{text}");
        }
    }

    #[test]
    fn a_sixth_parameter_is_refused_and_self_is_not_counted() {
        assert_eq!(
            findings("fn f(a: u8, b: u8, c: u8, d: u8, e: u8, g: u8) {}"),
            ["1: f() has 6 parameters; 5 are allowed"]
        );
        assert!(findings("impl S { fn f(&mut self, a: u8, b: u8, c: u8, d: u8, e: u8) {} }").is_empty());
    }

    #[test]
    fn names_closures_results_and_code_for_tests_are_free() {
        for text in [
            "fn f(range: Range) -> (u64, u64) { let g = |(a, b): (u8, u8)| a; (0, 0) }",
            "fn f(nothing: (), call: fn((u8, u8))) {}",
            "#[cfg(test)] mod tests { fn f(pair: (u8, u8)) {} }",
            "#[cfg(any(test, feature = \"_test-utils\"))] fn f(pair: (u8, u8)) {}",
        ] {
            assert!(findings(text).is_empty(), "{text}");
        }
    }
}
