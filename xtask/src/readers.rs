//! `cargo xtask readers`: other people's tools open the cores of a crashed Linux, and must find the same as
//! in QEMU's own core.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::linux::{
    Crashed, Flavour, Kernel, Parts, Reader, Readers, Stock, Symbolised, Want, crash, levels, partition, same,
};
use qemu_tests::savecore::Savecore;

use crate::setup::Needs;
use crate::step::{Count, Step, step};
use crate::{CannotBegin, build, folders, setup, ui};

/// MiB of RAM: little, to save the tools' time.
const MEMORY: u32 = 384;

/// Levels to compare: each bit that excludes pages by their use, and all of them. Only makedumpfile leaves
/// out zero pages: we record them without any bytes.
const LEVELS: [u32; 5] = [2, 4, 8, 16, 30];

/// A kernel that encodes page types in another way.
const NEWER: Kernel = Kernel { series: "6.12", flavour: Flavour::Cloud };

/// Its levels that Debian's makedumpfile 1.7.2 handles correctly. At level 8 it cannot tell that kernel's
/// heap and large pages from user memory; 1.7.9 can.
const NEWER_LEVELS: [u32; 4] = [2, 4, 16, 22];

/// savecore has hung if it takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A core: its name, and savecore's options for it.
struct Core {
    name: &'static str,
    words: &'static [&'static str],
    /// Whether Debian's makedumpfile and crash can read it.
    for_all: bool,
}

const CORES: [Core; 3] = [
    Core { name: "elf", words: &["--format", "elf"], for_all: true },
    Core { name: "kdump", words: &["--format", "kdump"], for_all: true },
    // Debian's makedumpfile is built without zstd.
    Core { name: "zstd", words: &["--format", "kdump", "--compress", "zstd"], for_all: false },
];

/// drgn's output for the panic, for both stacks, and for a task.
const STACKS: [&str; 4] = ["panic Kernel panic", "sysrq_handle_crash", "crash_nmi_callback", "task 1 init"];

/// The kernels to crash.
pub(crate) fn wants() -> [Want; 2] {
    [Want { kernel: Kernel::CLOUD, parts: Parts::Symbols }, Want { kernel: NEWER, parts: Parts::Image }]
}

/// The task.
pub(crate) fn task(strict: bool) -> Result<bool> {
    let mut count = Count::default();
    let savecore = build::savecore()?;
    run(&mut count, &savecore, strict)?;
    ui::text(&count.to_string());
    Ok(count.failed == 0)
}

/// Runs everything and counts the results. With `strict`, a missing tool is an error.
pub(crate) fn run(count: &mut Count, savecore: &Path, strict: bool) -> Result<()> {
    ui::section("Linux readers");
    let ready = setup::bring(&Needs::linux(wants())).and_then(|()| setup::python());
    let python = match ready {
        Ok(python) => python,
        Err(error) if strict || !error.is::<CannotBegin>() => return Err(error),
        Err(error) => {
            step(count, "tools", || Ok(Step::Skipped(format!("{error:#}"))));
            PathBuf::from("python3")
        }
    };
    let folder = folders::target_folder().join("readers");
    let readers = Readers { python, folder: folder.clone() };
    let mut crashed = None;
    step(count, "a Linux crashes", || {
        let linux = match Stock::symbolised(Kernel::CLOUD, &mut ui::Teller) {
            Ok(linux) => linux,
            Err(error) if strict => return Err(error),
            Err(error) => return Ok(Step::Skipped(format!("{error:#}"))),
        };
        let linux = crash(&linux, MEMORY, &folder)?;
        let facts = format!("{}, {} CPUs, {MEMORY} MiB", linux.release, linux.cpus.len());
        crashed = Some(linux);
        Ok(Step::Done(facts))
    });
    let Some(crashed) = crashed else { return Ok(()) };
    let mut cores = Vec::new();
    step(count, "its dump becomes cores", || {
        cores = save(&crashed, savecore, &folder, &CORES)?;
        Ok(Step::Done(CORES.map(|core| core.name).join(", ")))
    });
    if cores.is_empty() {
        return Ok(());
    }
    for reader in Reader::ALL {
        step(count, reader.name(), || {
            if readers.has(reader) {
                return judge(reader, &readers, &crashed, &cores).map(Step::Done);
            }
            ensure!(!strict, "{} is not installed", reader.name());
            Ok(Step::Skipped("it is not installed; `cargo xtask setup`".to_owned()))
        });
    }
    if !readers.has(Reader::Makedumpfile) {
        // Already reported above.
        return Ok(());
    }
    step(count, "levels", || judge_levels(&readers, &crashed, savecore, &cores[0], &LEVELS).map(Step::Done));
    step(count, "levels of a newer kernel", || {
        let stock = match Stock::get(NEWER, Parts::Image, &mut ui::Teller) {
            Ok(stock) => stock,
            Err(error) if strict => return Err(error),
            Err(error) => return Ok(Step::Skipped(format!("{error:#}"))),
        };
        let readers = Readers { folder: folder.join("newer"), ..readers };
        let linux = Symbolised { stock, vmlinux: PathBuf::new() };
        let crashed = crash(&linux, MEMORY, &readers.folder)?;
        let cores = save(&crashed, savecore, &readers.folder, &CORES[..1])?;
        judge_levels(&readers, &crashed, savecore, &cores[0], &NEWER_LEVELS).map(Step::Done)
    });
    Ok(())
}

/// Makes a dump partition, and saves it in each of these formats.
fn save(crashed: &Crashed, savecore: &Path, folder: &Path, all: &[Core]) -> Result<Vec<PathBuf>> {
    let image = folder.join("linux.img");
    partition(crashed, &image)?;
    let savecore = Savecore::new(savecore, folder, LIMIT);
    let mut cores = Vec::new();
    for core in all {
        let into = folder.join(core.name);
        // Files of an earlier run must not be taken for this one's.
        match std::fs::remove_dir_all(&into) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let (mut saved, answer) =
            savecore.save_from(image.as_path(), &into, &[core.words, &["--keep"]].concat())?;
        ensure!(saved.len() == 1, "savecore named {} cores; log: {}", saved.len(), answer.log.display());
        let path = folder.join(format!("vmcore.{}", core.name));
        std::fs::rename(saved.remove(0), &path).with_context(|| format!("cannot keep {}", path.display()))?;
        cores.push(path);
    }
    Ok(cores)
}

/// Lets one tool judge all cores; returns its facts.
fn judge(reader: Reader, readers: &Readers, crashed: &Crashed, cores: &[PathBuf]) -> Result<String> {
    let for_all = || CORES.iter().zip(cores).filter(|(core, _)| core.for_all).map(|(_, path)| path.as_path());
    match reader {
        Reader::Crash => {
            // The slowest tool: run all at once.
            let said = std::thread::scope(|scope| {
                let threads: Vec<_> = [crashed.core.as_path()]
                    .into_iter()
                    .chain(for_all())
                    .map(|core| scope.spawn(move || readers.crash(&crashed.vmlinux, core)))
                    .collect();
                let said = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
                said.collect::<Result<Vec<String>>>()
            })?;
            alike(&said, crashed, for_all())?;
            Ok(format!("{} lines as from QEMU's core", said.first().map_or(0, |said| said.lines().count())))
        }
        Reader::Drgn => {
            let all = cores.iter().map(PathBuf::as_path);
            let said = all
                .clone()
                .map(|core| readers.drgn(&crashed.vmlinux, core, &STACKS))
                .collect::<Result<Vec<String>>>()?;
            let [first, others @ ..] = &said[..] else { return Ok(String::new()) };
            for (core, other) in CORES.iter().skip(1).zip(others) {
                same([CORES[0].name, core.name], [first, other])?;
            }
            Ok(format!("{} lines, alike for {} cores", first.lines().count(), said.len()))
        }
        Reader::Makedumpfile => {
            let mut facts = Vec::new();
            for core in for_all() {
                let name = core.extension().unwrap_or_default().to_string_lossy();
                let into = readers.folder.join(format!("refiltered.{name}"));
                readers.makedumpfile(core, 31, &into)?;
                let (kept, _) = readers.libkdumpfile(crashed, &into)?;
                ensure!(kept > 0, "makedumpfile left nothing of {name}");
                facts.push(kept);
            }
            ensure!(
                facts.windows(2).all(|pair| pair[0] == pair[1]),
                "makedumpfile keeps different numbers of pages: {facts:?}"
            );
            Ok(format!("-d 31 keeps {} pages of each", facts.first().copied().unwrap_or_default()))
        }
        Reader::Libkdumpfile => {
            let pages = u64::from(MEMORY) << 8;
            for core in cores {
                let (compared, absent) = readers.libkdumpfile(crashed, core)?;
                ensure!(
                    (compared, absent) == (pages, 0),
                    "{} has {compared} of {pages} pages",
                    core.display()
                );
            }
            Ok(format!("{pages} pages of {} cores equal the memory", cores.len()))
        }
    }
}

/// Lets savecore and makedumpfile filter the same dump at each level, and compares the pages that they keep.
fn judge_levels(
    readers: &Readers,
    crashed: &Crashed,
    savecore: &Path,
    full: &Path,
    levels: &[u32],
) -> Result<String> {
    let savecore = Savecore::new(savecore, &readers.folder, LIMIT);
    let classes = levels::classes(crashed)?;
    let mut facts = Vec::new();
    for &level in levels {
        let theirs = readers.folder.join("level.theirs");
        readers.makedumpfile(full, level, &theirs)?;
        let into = readers.folder.join("level");
        let words = ["--format", "kdump", "--keep", "--level", &level.to_string()];
        let (saved, _) = savecore.save_from(readers.folder.join("linux.img").as_path(), &into, &words)?;
        let ours = saved.first().context("savecore named no core")?;
        let difference = levels::compare(&classes, ours, &theirs)?;
        std::fs::remove_dir_all(&into).with_context(|| format!("cannot remove {}", into.display()))?;
        ensure!(
            difference.pages.is_empty(),
            "of the {} pages that makedumpfile keeps at -d {level} and those that we keep, {} differ, such as {:?}",
            difference.kept,
            difference.pages.len(),
            difference.pages.iter().take(8).collect::<Vec<_>>()
        );
        facts.push(format!("-d {level}: {}", difference.kept));
    }
    Ok(format!("pages kept as by makedumpfile: {}", facts.join(", ")))
}

/// Whether the first text, from QEMU's core, equals those from the others.
fn alike<'a>(said: &[String], crashed: &Crashed, cores: impl Iterator<Item = &'a Path>) -> Result<()> {
    let [reference, others @ ..] = said else { return Ok(()) };
    for (core, other) in cores.zip(others) {
        let names = [crashed.core.as_path(), core].map(|path| path.display().to_string());
        same([&names[0], &names[1]], [reference, other])?;
    }
    Ok(())
}
