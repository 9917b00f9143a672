//! Which rows to run, and what they need.

use qemu_tests::linux::{Parts, Row, Want, rows};

/// Which rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which<'a> {
    /// The rows of the short run.
    Short,
    /// All.
    All,
    /// The rows whose name contains this.
    Named(&'a str),
}

/// The selected rows.
pub(crate) fn chosen(which: Which<'_>) -> Vec<Row> {
    let mut rows = rows();
    rows.retain(|row| match which {
        Which::Short => row.short,
        Which::All => true,
        Which::Named(part) => row.name().contains(part),
    });
    rows
}

/// The kernels for these rows.
pub(crate) fn wants(rows: &[Row]) -> Vec<Want> {
    let mut wants: Vec<Want> = Vec::new();
    for row in rows {
        let parts = if row.wants_symbols() { Parts::Symbols } else { Parts::Headers };
        let want = Want { kernel: row.kernel, parts };
        if !wants.contains(&want) {
            wants.push(want);
        }
    }
    wants
}
