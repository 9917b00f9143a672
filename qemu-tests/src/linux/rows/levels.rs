//! Which pages each level keeps, against what makedumpfile keeps of the same crash.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Lab, Row, dumps};

/// makedumpfile's levels that are compared: each bit alone, and all.
const LEVELS: [u32; 6] = [1, 2, 4, 8, 16, 31];

/// Of all pages, so many in a thousand may be judged differently.
const DIFFERENT: f64 = 0.001;

/// A dump of all of memory; each level of it by savecore, and by makedumpfile.
pub(super) fn levels(lab: &Lab, row: &Row) -> Result<String> {
    let cores = dumps::crash(lab, row, "level=0")?;
    let full = Bitmap::read(&cores.kdump)?;
    let mut facts = vec![format!("{} pages", full.count())];
    for level in LEVELS {
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

/// Which pages are in a kdump file: its second bitmap (makedumpfile, IMPLEMENTATION; `struct disk_dump_header`).
struct Bitmap {
    bits: Vec<u8>,
}

impl Bitmap {
    fn read(core: &Path) -> Result<Bitmap> {
        use std::os::unix::fs::FileExt;
        let cannot = || format!("cannot read {} as a kdump", core.display());
        let file = fs::File::open(core).with_context(cannot)?;
        let mut head = [0; 444];
        file.read_exact_at(&mut head, 0).with_context(cannot)?;
        ensure!(head.starts_with(b"KDUMP   "), "{} is not a kdump file", core.display());
        let word = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).with_context(cannot)
        };
        // Behind the signature, a version, 390 bytes of names and a time.
        let (block, sub_header, blocks) = (word(428)?, word(432)?, word(436)?);
        let half = u64::from(blocks) / 2 * u64::from(block);
        let first = u64::from(1 + sub_header) * u64::from(block);
        let mut bits = vec![0; usize::try_from(half).with_context(cannot)?];
        file.read_exact_at(&mut bits, first + half).with_context(cannot)?;
        Ok(Bitmap { bits })
    }

    fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Page frames that are here and not there.
    fn without(&self, other: &Bitmap) -> Vec<u64> {
        let there = other.bits.iter().copied().chain(std::iter::repeat(0));
        let bytes = self.bits.iter().zip(there).enumerate();
        bytes
            .flat_map(|(index, (here, there))| {
                let only = here & !there;
                (0..8).filter(move |bit| only >> bit & 1 == 1).map(move |bit| index as u64 * 8 + bit)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_and_not_of_the_other() {
        let (one, other) = (Bitmap { bits: vec![0b1010, 1] }, Bitmap { bits: vec![0b0010] });
        assert_eq!(one.without(&other), [3, 8]);
        assert_eq!(other.without(&one), Vec::<u64>::new());
        assert_eq!(one.count(), 3);
    }
}
