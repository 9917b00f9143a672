//! Checks that nothing on the dump path can wait outside the one bounded wait (`dumpcore/src/wait.rs`).
//!
//! Whether a loop ends cannot be computed, so these rules make it hard to write a loop that does not:
//!
//! - Directly above a `loop` or `while`, a comment with the words `Each turn` or `Bounded:` says what bounds
//!   it. The same for a `for` over an endless iterator.
//! - Nothing in it reads a value that changes without this loop's doing: a clock, a register, another CPU's
//!   state. A loop that polls waits. Only the closure passed to `until` may poll.
//! - Nothing spins, takes a lock that waits, or calls code that loops like that itself.
//! - A macro contains no loop, since it could not be checked; and an endless iterator is only for `for`.
//!
//! Code for tests is left out. The check misses a poll that hides in a function.

use anyhow::{Result, bail};
use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use std::collections::BTreeSet;
use syn::visit::{self, Visit};
use syn::{Expr, Label};

use crate::crash_path::{for_tests, read_each};

/// The folders of the dump path.
const FOLDERS: [(&str, Part); 3] =
    [("dumpcore/src", Part::Core), ("drivers/src", Part::Driver), ("linux/core/src", Part::Core)];

/// The only file that may wait.
const WAIT: &str = "dumpcore/src/wait.rs";

/// The start of the sentence that says what bounds a loop.
const BOUNDS: [&str; 2] = ["Each turn", "Bounded:"];

/// Calls that read something that changes by itself.
const LOOKS: [&str; 14] = [
    "now",
    "load",
    "poll",
    "read8",
    "read16",
    "read32",
    "read64",
    "read_volatile",
    "compare_exchange",
    "compare_exchange_weak",
    "swap",
    "test_and_set",
    "try_lock",
    "is_locked",
];

/// Calls that poll a device, in a driver. Elsewhere they return a number that was read before.
const LOOKS_IN_DRIVERS: [&str; 1] = ["status"];

/// Calls that wait, or loop until another CPU lets them continue.
const WAITS: [&str; 8] =
    ["spin_loop", "lock", "fetch_update", "try_update", "sleep", "park", "yield_now", "call_once"];

/// Endless iterators.
const ENDLESS: [&str; 4] = ["repeat", "repeat_with", "from_fn", "successors"];

/// Methods that consume an iterator to its end.
const CONSUMERS: [&str; 17] = [
    "all",
    "any",
    "collect",
    "count",
    "find",
    "find_map",
    "fold",
    "for_each",
    "last",
    "max",
    "min",
    "nth",
    "position",
    "product",
    "sum",
    "try_fold",
    "try_for_each",
];

/// The part of the dump path that a file belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Core,
    Driver,
    /// The only file that may wait.
    Wait,
}

/// Checks all loops of the dump path. Returns how many there are.
///
/// # Errors
/// The violations, and their places.
pub(crate) fn check() -> Result<String> {
    let mut findings = Vec::new();
    let mut loops = 0;
    for (folder, part) in FOLDERS {
        read_each(folder, |name, text| {
            let found = look(text, if name == WAIT { Part::Wait } else { part })?;
            loops += found.loops;
            findings.extend(found.findings.iter().map(|(line, what)| format!("{name}:{line}: {what}")));
            Ok(())
        })?;
    }
    if loops == 0 {
        bail!(
            "there is no loop in {}, so nothing was checked",
            FOLDERS.map(|(folder, _)| folder).join(" and ")
        );
    }
    if !findings.is_empty() {
        bail!(
            "{} places could wait, or do not say why they cannot:\n    {}",
            findings.len(),
            findings.join("\n    ")
        );
    }
    Ok(format!("{loops} loops"))
}

/// The result for a file.
struct Found {
    /// Loops that need a bound.
    loops: usize,
    /// Line, counted from 1, and the violation.
    findings: BTreeSet<(usize, String)>,
}

/// Checks one file.
fn look(text: &str, part: Part) -> Result<Found, syn::Error> {
    let file = syn::parse_file(text)?;
    let lines = text.lines().map(str::trim).collect();
    let found = Found { loops: 0, findings: BTreeSet::new() };
    let mut reader = Reader { lines, part, depth: 0, found };
    reader.visit_file(&file);
    Ok(reader.found)
}

struct Reader<'t> {
    /// Without indentation.
    lines: Vec<&'t str>,
    part: Part,
    /// Number of enclosing loops that must not poll.
    depth: usize,
    found: Found,
}

impl Reader<'_> {
    fn refuse(&mut self, at: Span, what: String) {
        self.found.findings.insert((at.start().line, what));
    }

    /// Whether the comment directly above a line states what bounds the loop.
    fn says_bound(&self, line: usize) -> bool {
        let above = self.lines.get(..line.saturating_sub(1)).unwrap_or_default();
        let directly = above.iter().rev().take_while(|line| line.starts_with("//") || line.starts_with("#["));
        directly
            .into_iter()
            .any(|line| line.starts_with("//") && BOUNDS.iter().any(|bound| line.contains(bound)))
    }

    /// A loop that needs a bound.
    fn enter(&mut self, label: &Option<Label>, keyword: Span, what: &str) {
        let at = label.as_ref().map_or(keyword, |label| label.name.apostrophe);
        self.found.loops += 1;
        if !self.says_bound(at.start().line) {
            self.refuse(at, format!("{what} without a comment above that says {}", BOUNDS.join(" or ")));
        }
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    /// A call, of a function or method.
    fn call(&mut self, name: &str, at: Span) {
        if self.part == Part::Wait {
            return;
        }
        let looks = LOOKS.contains(&name) || (self.part == Part::Driver && LOOKS_IN_DRIVERS.contains(&name));
        if WAITS.contains(&name) {
            self.refuse(at, format!("{name}() waits; only Wait::until may"));
        } else if self.depth > 0 && looks {
            self.refuse(
                at,
                format!("a loop that calls {name}() waits for what it looks at; let Wait::until look"),
            );
        }
    }

    /// The body of a macro, which is not parsed: names before parentheses are calls.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut before: Option<proc_macro2::Ident> = None;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if name == "loop" || name == "while" {
                        self.refuse(name.span(), "a loop in a macro cannot be checked".to_owned());
                    }
                    before = Some(name);
                }
                TokenTree::Group(group) => {
                    if let Some(name) = before.take().filter(|_| group.delimiter() == Delimiter::Parenthesis)
                    {
                        self.call(&name.to_string(), name.span());
                    }
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => before = None,
            }
        }
    }
}

/// Whether an iterator has no visible end.
fn is_endless(iterator: &Expr) -> bool {
    match iterator {
        Expr::Paren(inner) => is_endless(&inner.expr),
        Expr::Group(inner) => is_endless(&inner.expr),
        Expr::Reference(inner) => is_endless(&inner.expr),
        Expr::Range(range) => range.end.is_none(),
        Expr::Call(call) => match &*call.func {
            Expr::Path(path) => {
                let names: Vec<String> =
                    path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                let (last, before) =
                    names.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
                // core::array::from_fn makes an array.
                ENDLESS.contains(&last) && before.last().is_none_or(|module| module != "array")
            }
            _ => false,
        },
        Expr::MethodCall(call) => match call.method.to_string().as_str() {
            "cycle" => true,
            "take" => false,
            "zip" => is_endless(&call.receiver) && call.args.iter().all(is_endless),
            "chain" => is_endless(&call.receiver) || call.args.iter().any(is_endless),
            _ => is_endless(&call.receiver),
        },
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs[..],
            syn::Item::Impl(item) => &item.attrs[..],
            syn::Item::Mod(item) => &item.attrs[..],
            syn::Item::Macro(item) => &item.attrs[..],
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

    fn visit_expr_loop(&mut self, expression: &'ast syn::ExprLoop) {
        self.enter(&expression.label, expression.loop_token.span, "a loop");
        visit::visit_expr_loop(self, expression);
        self.leave();
    }

    fn visit_expr_while(&mut self, expression: &'ast syn::ExprWhile) {
        self.enter(&expression.label, expression.while_token.span, "a while");
        visit::visit_expr_while(self, expression);
        self.leave();
    }

    fn visit_expr_for_loop(&mut self, expression: &'ast syn::ExprForLoop) {
        let endless = is_endless(&expression.expr);
        if endless {
            self.enter(&expression.label, expression.for_token.span, "a for over an iterator without an end");
        }
        visit::visit_expr_for_loop(self, expression);
        if endless {
            self.leave();
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        self.call(&name, call.method.span());
        if CONSUMERS.contains(&name.as_str()) && is_endless(&call.receiver) {
            self.refuse(
                call.method.span(),
                format!("{name}() of an iterator without an end is a loop without a bound"),
            );
        }
        self.visit_expr(&call.receiver);
        // The closure passed to until() may poll; `until` bounds it.
        let around = if name == "until" { std::mem::take(&mut self.depth) } else { self.depth };
        for argument in &call.args {
            self.visit_expr(argument);
        }
        self.depth = around;
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let Expr::Path(path) = &*call.func
            && let Some(last) = path.path.segments.last()
        {
            self.call(&last.ident.to_string(), last.ident.span());
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings in a function's body.
    fn findings(body: &str) -> Vec<String> {
        let text = format!("fn f() {{\n{body}\n}}");
        look(&text, Part::Driver)
            .unwrap()
            .findings
            .into_iter()
            .map(|(line, what)| format!("{}: {what}", line - 1))
            .collect()
    }

    #[track_caller]
    fn refused(body: &str, line: usize, word: &str) {
        let found = findings(body);
        let as_told =
            found.iter().any(|finding| finding.starts_with(&format!("{line}: ")) && finding.contains(word));
        assert!(as_told, "{found:?}");
    }

    #[track_caller]
    fn passes(body: &str) {
        assert_eq!(findings(body), Vec::<String>::new());
    }

    #[test]
    fn a_loop_says_what_bounds_it() {
        refused("loop { step(); }", 1, "a loop without");
        refused("// It ends.\nwhile more() { step(); }", 2, "a while without");
        refused("// Each turn takes one.\n\nwhile more() { step(); }", 3, "a while without");
        refused("while let Some(x) = list.next() { step(x); }", 1, "a while without");
        passes("// Each turn takes one.\nwhile let Some(x) = list.next() { step(x); }");
        passes("// Bounded: by the list.\n// It is short.\n#[allow(unused)]\n'all: loop { step(); }");
        passes("// It is short. Each turn takes one.\nwhile more() { step(); }");
        passes("// Each turn takes one.\nlet found = loop { step(); };");
    }

    #[test]
    fn a_loop_does_not_look_at_what_changes_by_itself() {
        for look in [
            "self.state.load(Acquire) == 0",
            "clock.now() < end",
            "self.status().is_busy()",
            "self.registers.read32(4) & 1 == 0",
            "lock.try_lock().is_none()",
            "word.compare_exchange(0, 1, A, A).is_err()",
            "core::ptr::read_volatile(word) == 0",
            "matches!(device.poll(), Ok(None))",
            "[0].iter().any(|_| word.load(Relaxed) == 0)",
        ] {
            refused(&format!("// Bounded: no.\nwhile {look} {{}}"), 2, "waits");
            refused(&format!("// Bounded: no.\nloop {{\nif !({look}) {{ break; }}\n}}"), 3, "waits");
            refused(&format!("// Bounded: no.\nfor i in 0.. {{\nif !({look}) {{ break; }}\n}}"), 3, "waits");
            passes(&format!("for i in 0..9 {{ if {look} {{ break; }} }}"));
            passes(&format!(
                "// Each turn takes one.\nwhile more() {{ wait.until(\"x\", 9, || ({look}).then_some(()))?; }}"
            ));
        }
        passes(
            "// Each turn does some.\nwhile at < end { if wait.expired() { return; } wait.breathe(); at += work(); }",
        );
    }

    #[test]
    fn a_loop_inside_of_what_until_calls_may_not_look_either() {
        refused(
            "wait.until(\"x\", 9, || {\n// Bounded: no.\nwhile word.load(Relaxed) == 0 {}\n})",
            3,
            "load",
        );
        refused(
            "// Each turn.\nloop {\nwait.until(\"x\", word.load(Relaxed), look);\nword.load(Relaxed);\n}",
            4,
            "load",
        );
    }

    #[test]
    fn nothing_anywhere_spins_or_waits_for_a_lock() {
        refused("core::hint::spin_loop();", 1, "spin_loop");
        refused("let guard = mutex.lock();", 1, "lock");
        refused("word.fetch_update(A, A, |word| Some(word + 1));", 1, "fetch_update");
        refused("say!(mutex.lock());", 1, "lock");
        passes("let guard = mutex.try_lock();");
    }

    #[test]
    fn an_iterator_without_an_end_is_a_loop() {
        refused("for i in 0.. { step(i); }", 1, "without an end");
        refused("for i in (1..).step_by(2).filter(even) { step(i); }", 1, "without an end");
        refused("for i in core::iter::repeat(1) { step(i); }", 1, "without an end");
        refused("for i in [1, 2].iter().cycle() { step(i); }", 1, "without an end");
        refused("(0..).find(|n| good(*n));", 1, "find()");
        passes("for i in 0..9 { step(i); }");
        passes("for i in (0..).take(9) { step(i); }");
        passes("for (i, x) in (0..).zip(list) { step(i, x); }");
        passes("let array: [u8; 4] = core::array::from_fn(|n| n as u8); (1..).zip(list).find(good);");
        passes("// Each turn halves it.\nfor i in 0.. { if small(i) { break; } }");
    }

    #[test]
    fn a_macro_holds_no_loop() {
        refused("repeat!(while more() { step(); });", 1, "macro");
        let text = "macro_rules! m { () => { loop {} } }";
        assert_eq!(look(text, Part::Core).unwrap().findings.len(), 1);
    }

    #[test]
    fn code_for_tests_is_left_out_and_the_wait_may_look() {
        let busy = "loop { core::hint::spin_loop(); }";
        for attribute in ["#[cfg(test)]", "#[test]", "#[cfg(any(test, feature = \"_test-utils\"))]"] {
            assert!(
                look(&format!("{attribute} fn f() {{ {busy} }}"), Part::Core).unwrap().findings.is_empty()
            );
            assert!(
                look(&format!("{attribute} mod m {{ fn f() {{ {busy} }} }}"), Part::Core)
                    .unwrap()
                    .findings
                    .is_empty()
            );
        }
        for attribute in ["#[cfg(not(test))]", "#[inline]", "#[cfg_attr(test, inline)]"] {
            assert_eq!(
                look(&format!("{attribute} fn f() {{ {busy} }}"), Part::Core).unwrap().findings.len(),
                2
            );
        }
        assert_eq!(
            look(&format!("fn f() {{ {busy} }}"), Part::Wait).unwrap().findings.len(),
            1,
            "it says its bound too"
        );
    }
}
