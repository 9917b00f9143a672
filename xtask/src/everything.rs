//! `cargo xtask setup`: installs everything that `cargo xtask test` needs.

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::ui::{self, Mark};
use crate::{deep, fuzz, linux, readers};

/// What each step of `cargo xtask test` needs.
pub(crate) fn needs() -> Needs {
    let rows = linux::chosen(linux::Which::Short);
    Needs::everything(linux::wants(&rows).into_iter().chain(readers::wants()))
}

/// The task.
pub(crate) fn task() -> Result<bool> {
    ui::section("setup");
    setup::bring(&needs())?;
    setup::show();
    // Only for `cargo xtask fuzz`; no test needs it.
    match fuzz::is_installed() {
        true => ui::done(Mark::Ok, "cargo-fuzz", "", None),
        false => ui::done(Mark::Skipped, "cargo-fuzz", &format!("only to fuzz: {}", fuzz::INSTALL), None),
    }
    // Only for `cargo xtask deep`.
    match deep::Nightly::find() {
        Ok(_) => ui::done(Mark::Ok, "nightly's Miri", "", None),
        Err(error) => ui::done(Mark::Skipped, "nightly's Miri", &format!("only for deep: {error:#}"), None),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setup_brings_what_every_row_and_reader_wants() {
        let needs = needs();
        for want in linux::wants(&linux::chosen(linux::Which::Short)).into_iter().chain(readers::wants()) {
            assert!(needs.has(want), "{want:?}");
        }
        assert!(needs.has_the_rest());
    }
}
