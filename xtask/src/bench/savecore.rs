//! `cargo xtask bench savecore`: saving a dump and laying the pattern, against what a person would use otherwise, with the
//! same bytes, in turn.
//!
//! What is read is in the page cache on both sides; what is written is on the disk when the clock stops (fsync).

mod image;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Row, median};
use crate::{build, ui};

/// Runs of each side.
const RUNS: usize = 5;
/// How much of the rate of `cp --sparse=always` of the core saving it must reach.
const ELF_GOAL: f64 = 0.8;
/// How much of makedumpfile's rate saving a compressed kdump must reach.
const KDUMP_GOAL: f64 = 2.0;
/// How much of the rate of plain writes laying the pattern must reach.
const LAY_GOAL: f64 = 0.9;
/// Bytes of the partition that is formatted.
const PARTITION: u64 = 1 << 30;
/// How often a program's memory is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What stands above the table.
pub(super) fn about() -> String {
    format!(
        "{} MiB of memory: zeros, text, structures and noise; {} threads; fsync on both sides; medians of {RUNS} runs",
        image::MEMORY >> 20,
        threads()
    )
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Times and peaks of memory of one side.
#[derive(Default)]
struct Side {
    seconds: Vec<f64>,
    /// MiB.
    peak: f64,
}

impl Side {
    /// Runs programs one after another and takes the time of all of them.
    fn run(&mut self, commands: &mut [Command]) -> Result<()> {
        // What runs before left to be written is not this one's.
        Command::new("sync").status().context("cannot run sync")?;
        let begin = Instant::now();
        for command in commands {
            let shown = format!("{command:?}");
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot run {shown}"))?;
            let status = loop {
                self.peak = self.peak.max(peak(child.id()));
                match child.try_wait().with_context(|| format!("cannot wait for {shown}"))? {
                    Some(status) => break status,
                    None => sleep(LOOK),
                }
            };
            ensure!(status.success(), "{shown} failed: {status}");
        }
        self.seconds.push(begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// Rate over so many bytes, in MB/s.
    fn rate(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e6 / median(self.seconds.clone())
    }
}

/// The peak of a process's memory in MiB (proc_pid_status(5), VmHWM); 0 once it has ended.
fn peak(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The rows of two sides: rates, and peaks of memory.
fn compare(name: &str, bytes: u64, ours: &Side, theirs: &Side, goal: f64) -> [Row; 2] {
    let peak = Row {
        theirs: Some(theirs.peak),
        ..Row::proportion("savecore", &format!("{name}: peak of memory"), "MiB", ours.peak)
    };
    [Row::rate("savecore", name, ours.rate(bytes), theirs.rate(bytes), Some(goal)), peak]
}

struct Bench {
    savecore: PathBuf,
    folder: PathBuf,
    quiet: bool,
}

/// Measures all of it.
pub(super) fn rows(quiet: bool) -> Result<Vec<Row>> {
    let folder = build::target_folder().join("bench-savecore");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bench = Bench { savecore: build::savecore_release()?, folder, quiet };
    bench.say("making a dump");
    let bytes = image::write(&bench.path("dump.img"))?;
    let mut rows = bench.elf(bytes)?;
    rows.extend(bench.kdump(bytes)?);
    rows.extend(bench.lay()?);
    fs::remove_dir_all(&bench.folder).context("cannot remove what was measured")?;
    Ok(rows)
}

impl Bench {
    fn say(&self, what: &str) {
        if !self.quiet {
            ui::running(what);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Saves the dump to an empty folder.
    fn save(&self, to: &str, words: &[&str]) -> Result<Command> {
        let to = self.path(to);
        if to.exists() {
            fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
        }
        fs::create_dir(&to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut command = Command::new(&self.savecore);
        command.args(["save", "--keep", "--host", "bench", "--threads", &threads().to_string()]);
        command.args(words).arg("-o").arg(to).arg(self.path("dump.img"));
        Ok(command)
    }

    /// The core that was saved to a folder.
    fn saved(&self, to: &str) -> Result<PathBuf> {
        let crashes = fs::read_dir(self.path(to)).with_context(|| format!("cannot read {to}"))?;
        let cores =
            crashes.flatten().flat_map(|crash| fs::read_dir(crash.path()).into_iter().flatten().flatten());
        let mut cores = cores.map(|file| file.path());
        let is_core = |path: &PathBuf| path.file_stem() == Some(OsStr::new("vmcore"));
        cores.find(is_core).with_context(|| format!("savecore left no core in {to}"))
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        // The one of the run before.
        let _ = fs::remove_file(&path);
        path
    }

    /// To ELF, against a copy of what comes out.
    fn elf(&self, bytes: u64) -> Result<Vec<Row>> {
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        for _ in 0..RUNS {
            self.say("savecore save --format elf");
            ours.run(&mut [self.save("elf", &[])?])?;
            self.say("cp --sparse=always");
            let (core, copy) = (self.saved("elf")?, self.fresh("copy"));
            let mut cp = Command::new("cp");
            cp.arg("--sparse=always").arg(&core).arg(&copy);
            theirs.run(&mut [cp, fsync(&copy)])?;
            ensure!(allocated(&core)? >= bytes, "{} has not all pages", core.display());
        }
        self.fresh("copy");
        Ok(compare("to ELF / cp --sparse=always", bytes, &ours, &theirs, ELF_GOAL).into())
    }

    /// To compressed kdumps, against makedumpfile with the ELF core.
    fn kdump(&self, bytes: u64) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let core = self.saved("elf")?;
        let help = Command::new("makedumpfile").arg("--help").output();
        let help = help.map(|help| String::from_utf8_lossy(&help.stdout).into_owned()).unwrap_or_default();
        if help.is_empty() {
            // Nothing to compare with on this machine.
            return Ok(rows);
        }
        for (compress, flag) in [("zlib", Some("-c")), ("zstd", Some("-z")), ("none", None)] {
            // Without zstd, makedumpfile takes the flag and packs nothing, or refuses it.
            if compress == "zstd" && !zstd()? {
                continue;
            }
            let (mut ours, mut theirs) = (Side::default(), Side::default());
            for _ in 0..RUNS {
                self.say(&format!("savecore save --format kdump --compress {compress}"));
                ours.run(&mut [self.save("kdump", &["--format", "kdump", "--compress", compress])?])?;
                self.say("makedumpfile");
                let out = self.fresh("filtered");
                let mut make = Command::new("makedumpfile");
                // Pages of zeros it leaves out, which is the least work.
                make.args(flag)
                    .args(["-d", "1", "--num-threads", &threads().to_string()])
                    .arg(&core)
                    .arg(&out);
                theirs.run(&mut [make, fsync(&out)])?;
            }
            let name = format!("to kdump, {compress} / makedumpfile {}", flag.unwrap_or("without -c"));
            rows.extend(compare(&name, bytes, &ours, &theirs, KDUMP_GOAL));
        }
        self.fresh("filtered");
        Ok(rows)
    }

    /// The pattern, against plain writes of zeros.
    fn lay(&self) -> Result<Vec<Row>> {
        let path = self.path("partition.img");
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        let plain = || {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=1M", "conv=fsync,notrunc"]);
            dd.arg(format!("count={}", PARTITION >> 20)).arg(format!("of={}", path.display()));
            dd
        };
        // Both write over blocks that the file system has given out already.
        Side::default().run(&mut [plain()])?;
        for _ in 0..RUNS {
            self.say("savecore format");
            let mut format = Command::new(&self.savecore);
            format.args(["format", "--yes", "--force"]).arg(&path);
            ours.run(&mut [format])?;
            self.say("dd");
            theirs.run(&mut [plain()])?;
        }
        Ok(compare("laying the pattern / dd bs=1M", PARTITION, &ours, &theirs, LAY_GOAL).into())
    }
}

/// Waits until a file is on the disk.
fn fsync(path: &Path) -> Command {
    let mut command = Command::new("sync");
    command.arg(path);
    command
}

/// Bytes that a file takes.
fn allocated(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.blocks() * 512)
}

/// Whether this makedumpfile can pack with zstd.
fn zstd() -> Result<bool> {
    let output = Command::new("makedumpfile").arg("-v").output().context("cannot run makedumpfile")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().any(|line| line.starts_with("zstd") && line.contains("enabled")))
}
