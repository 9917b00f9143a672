//! Compares the pages that each level keeps with those that makedumpfile keeps of the same crash.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Lab, Row, dumps};
use crate::linux::bitmap::Bitmap;
use crate::linux::kernel::Kernel;

/// The makedumpfile levels to compare: each bit alone, all but 8, and all.
const LEVELS: [u32; 7] = [1, 2, 4, 8, 16, 23, 31];

/// The share of pages that may be classified differently.
const DIFFERENT: f64 = 0.001;

/// The levels that Debian's makedumpfile 1.7.2 handles correctly for a kernel. At 8 it confuses the newer
/// kernel's slab and huge pages with user memory; 1.7.9 does not.
fn levels_of(kernel: Kernel) -> impl Iterator<Item = u32> {
    LEVELS.into_iter().filter(move |level| kernel.series == "6.1" || level & 8 == 0)
}

/// A dump of all memory; each level of it by savecore, and by makedumpfile.
pub(super) fn levels(lab: &Lab, row: &Row) -> Result<String> {
    let cores = dumps::crash(lab, row, "level=0")?;
    let full = Bitmap::read(&cores.kdump)?;
    let mut facts = vec![format!("{} pages", full.count())];
    for level in levels_of(row.kernel) {
        let theirs = lab.folder.join(format!("level-{level}.makedumpfile"));
        lab.readers.makedumpfile(&cores.elf, level, &theirs)?;
        let into = lab.folder.join("level");
        let words = ["--format", "kdump", "--keep", "--level", &level.to_string()];
        let (saved, _) = lab.savecore.save_from(&cores.disk, &into, &words)?;
        let ours = saved.first().context("savecore named no core")?;
        let (a, b) = (Bitmap::read(ours)?, Bitmap::read(&theirs)?);
        let (more, fewer) = (a.without(&b), b.without(&a));
        let show = |name: &str, pages: &[u64]| {
            let text: Vec<String> = pages.iter().map(|page| format!("{page:#x}\n")).collect();
            fs::write(lab.folder.join(format!("level-{level}.{name}")), text.concat())
        };
        show("ours-alone", &more)?;
        show("theirs-alone", &fewer)?;
        let different = (more.len() + fewer.len()) as f64 / full.count() as f64;
        ensure!(
            different < DIFFERENT,
            "level {level}: ours keeps {}, makedumpfile {}; {} are in ours alone, {} in its alone; lists: {}",
            a.count(),
            b.count(),
            more.len(),
            fewer.len(),
            lab.folder.display()
        );
        facts.push(format!("-d {level}: {} (+{} -{})", b.count(), more.len(), fewer.len()));
        fs::remove_dir_all(&into).with_context(|| format!("cannot remove {}", into.display()))?;
        fs::remove_file(&theirs).with_context(|| format!("cannot remove {}", theirs.display()))?;
    }
    cores.remove()?;
    Ok(facts.join(", "))
}
