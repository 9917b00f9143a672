//! A dump's texts on the page.

use maud::{Markup, html};

use crate::backtrace::Call;
use crate::text::{cut, harmless};

/// Maximum number of characters of a text.
const MAX_TEXT: usize = 1024;

/// A text of the dump, ready for escaping.
pub(super) fn said(text: &str) -> String {
    harmless(&cut(text, MAX_TEXT))
}

/// A function of a backtrace.
pub(super) fn call(call: &Call) -> Markup {
    html! {
        code.function { (said(&call.function)) @if let Some(offset) = call.offset { (format!("+{offset:#x}")) } }
        @if call.inlined { " " span.tag { "inlined" } }
        @if let Some(file) = &call.file {
            span.place { (said(file)) @if let Some(line) = call.line { ":" (line) } }
        }
    }
}
