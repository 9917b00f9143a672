//! A small dump goes the whole way: onto the partition and into a folder; then its blocks get their pattern
//! again.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use dumpcore::format::header::Arch;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, elf};
use savecore::boot::{Config, rehearsal};
use savecore::corefile::{CoreOptions, Format};
use savecore::harvest::{Options, harvest};
use savecore::partition::{self, Search};
use savecore::source::Access;
use savecore::store::{self, Limits};
use savecore::targets::{TargetName, Targets};

use super::result::Drill;
use super::scratch::{Scratch, nonce};

pub(super) fn rehearse(name: &TargetName, config: &Config, drill: &mut Drill) {
    let about = name.path.display().to_string();
    match try_out(name, config) {
        Ok(()) => drill.ok(&about, "a small dump was written, saved, compared and removed"),
        Err(error) => drill.fail(
            &about,
            format!("a small dump failed: {error:#}"),
            "`savecore check` shows what is there now",
        ),
    }
}

fn try_out(name: &TargetName, config: &Config) -> anyhow::Result<()> {
    let nonce = nonce();
    let mut target = name.open(Access::Write)?;
    let found = partition::scan_with(&target, Search::Quick, &mut ())?;
    if !found.dumps.is_empty() || !found.foreign.is_empty() {
        bail!("there is already a dump, or damage: nothing was written");
    }
    if found.blocks <= rehearsal::BLOCKS {
        bail!(
            "it has {} blocks, and {} are needed: nothing was written",
            found.blocks,
            rehearsal::BLOCKS + 1
        );
    }
    // Where the kernel would start.
    let arch = if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else if cfg!(target_arch = "riscv64") {
        Arch::Riscv64
    } else {
        Arch::X86_64
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    target.make_writable()?;
    rehearsal::write(&mut target, &found.uuid(), 1, arch, nonce, now)?;
    drop(target);

    // A URL was tested with a separate file, which can stay there.
    let parent = if config.is_remote() { std::env::temp_dir() } else { config.store.clone().into() };
    let saved =
        Scratch::new(&parent).map_err(anyhow::Error::msg).and_then(|scratch| save(name, &scratch.0, nonce));
    // In any case, remove the dump that no kernel wrote.
    let left = clear(name, nonce);
    saved.and(left)
}

/// Saves it, and compares the core with the written pages. This frees nothing: the store is temporary.
fn save(name: &TargetName, directory: &Path, nonce: u64) -> anyhow::Result<()> {
    let mut store = store::open(&directory.display().to_string(), &Limits::default())?;
    let mut targets =
        Targets::open(std::slice::from_ref(name), Access::Harvest, Search::Quick, None, None, &mut ())?;
    let options = Options {
        opener: None,
        format: Format::Elf,
        core: CoreOptions::default(),
        host: Some(savecore::host_name()),
        own_host: None,
        machine: None,
        foreign: false,
        keep: Some("it is a rehearsal"),
        clear_damaged: false,
        kernels: Vec::new(),
        report: false,
    };
    let done = harvest(&mut targets, store.as_mut(), &options, &mut ())?;
    let [saved] = done.dumps.as_slice() else {
        bail!("{} dumps were found instead of one", done.dumps.len());
    };
    if let Some(error) = &saved.error {
        bail!("{error}");
    }
    let core = saved.file.as_ref().context("there is no core")?;
    compare(&fs::read(core).with_context(|| format!("cannot read {core}"))?, nonce)?;
    Ok(())
}

/// Searches a core for every page.
fn compare(core: &[u8], nonce: u64) -> anyhow::Result<()> {
    let file = ElfFile64::<LittleEndian>::parse(core).context("the core is no ELF file")?;
    let segments = file.elf_program_headers();
    for (address, page) in rehearsal::pages(nonce) {
        let held = segments.iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD).find_map(
            |segment| {
                let offset = address.checked_sub(segment.p_paddr(LittleEndian))?;
                let bytes = segment.data(LittleEndian, core).ok()?;
                let offset = usize::try_from(offset).ok()?;
                bytes.get(offset..offset.checked_add(page.len())?)
            },
        );
        if held != Some(&page[..]) {
            bail!("the core does not hold what was written for address {address:#x}");
        }
    }
    Ok(())
}

/// Lays the pattern again if the dump is still there.
fn clear(name: &TargetName, nonce: u64) -> anyhow::Result<()> {
    let mut target = name.open(Access::Write)?;
    let found = partition::scan_with(&target, Search::Quick, &mut ())?;
    if let Some(dump) = found.dumps.first().filter(|dump| dump.header.nonce.get() == nonce) {
        partition::clear(&mut target, &found.uuid(), dump, &mut ())?;
    }
    let mut block = [[0; dumpcore::format::BLOCK_SIZE]; rehearsal::BLOCKS as usize];
    savecore::source::Source::read(&target, 1, &mut block).context("the pattern cannot be read")?;
    let whole =
        block.iter().zip(1..).all(|(block, at)| dumpcore::format::pattern::matches(block, &found.uuid(), at));
    anyhow::ensure!(whole, "its blocks do not hold their pattern again");
    Ok(())
}
