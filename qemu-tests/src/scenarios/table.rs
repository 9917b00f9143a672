//! The matrix as a table, for the book (docs/src/figures/matrix.md): what runs where, and what is impossible.

use std::fmt::Write as _;

use super::{ALL, Beds, rows};
use crate::bed::{ARCHITECTURES, Bed, DEVICES};

/// The matrix in Markdown: the number of scenarios for each device on each architecture, what each scenario
/// proves, and what is impossible, and why.
pub fn table() -> String {
    let rows = rows();
    let mut text = String::new();
    let mut notes: Vec<(String, &'static str)> = Vec::new();
    let mut line = |cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    let mut head = vec!["device".to_owned()];
    head.extend(ARCHITECTURES.iter().map(|architecture| architecture.name.to_owned()));
    line(&head);
    line(&vec!["---".to_owned(); head.len()]);
    for device in DEVICES {
        let mut cells = vec![format!("`{}`", device.name)];
        for architecture in ARCHITECTURES {
            let bed = Bed { architecture, device };
            if let Err(why) = bed.machine() {
                notes.push((format!("{}/{}", architecture.name, device.name), why));
                cells.push("not possible".to_owned());
                continue;
            }
            let here = rows.iter().filter(|row| {
                (row.bed.architecture.name, row.bed.device.name) == (architecture.name, device.name)
            });
            cells.push(here.count().to_string());
        }
        line(&cells);
    }
    text.push('\n');
    text.push_str("| scenario | runs on | what it proves |\n| --- | --- | --- |\n");
    for scenario in ALL {
        let on = match scenario.beds {
            Beds::Usual => "x86_64, virtio-blk",
            Beds::Architectures => "each architecture",
            Beds::Devices => "each device",
            Beds::All => "each device of each architecture",
        };
        let _ = writeln!(text, "| `{}` | {on} | {} |", scenario.name, scenario.about);
        for architecture in ARCHITECTURES {
            for device in DEVICES {
                let bed = Bed { architecture, device };
                let why = scenario.impossible(bed).filter(|_| bed.machine().is_ok());
                if let (true, Some(why)) = (scenario.beds.has(bed), why) {
                    notes.push((format!("{}/{}/{}", architecture.name, device.name, scenario.name), why));
                }
            }
        }
    }
    if !notes.is_empty() {
        text.push_str("\nNot possible:\n\n");
        for (name, why) in notes {
            let _ = writeln!(text, "- `{name}`: {why}");
        }
    }
    text
}
