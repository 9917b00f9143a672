//! `cargo xtask bench savecore`: saving a dump and laying the pattern, against the usual tools, alternating,
//! with the same bytes.
//!
//! Input is in the page cache on both sides; output is on the disk when the clock stops (fsync).

mod image;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::row::{Row, median};
use crate::{build, folders, ui};

/// Runs of each side.
const RUNS: usize = 5;
/// Runs of each side against makedumpfile: with several threads it takes a minute each.
const KDUMP_RUNS: usize = 3;
/// Attempts at running makedumpfile: with several threads it sometimes dies of a signal.
const TRIES: usize = 5;
/// Names a makedumpfile to use instead of the installed one: Debian's is built without zstd.
const MAKEDUMPFILE: &str = "DISKDUMP_MAKEDUMPFILE";
/// Minimum ratio of saving to `cp --sparse=always` of the same core.
const ELF_GOAL: f64 = 0.8;
/// Minimum ratio of saving a compressed kdump to makedumpfile.
const KDUMP_GOAL: f64 = 2.0;
/// Minimum ratio of laying the pattern to plain writes.
const LAY_GOAL: f64 = 0.9;
/// Bytes of the partition to format.
const PARTITION: u64 = 1 << 30;
/// Interval for sampling a program's memory.
const LOOK: Duration = Duration::from_millis(2);

/// The text above the table.
pub(super) fn about() -> String {
    format!(
        "{} MiB of memory: zeros, text, structures and noise; {} CPUs; fsync on both sides; medians of {RUNS} runs, of \
         {KDUMP_RUNS} against makedumpfile",
        image::MEMORY >> 20,
        threads()
    )
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Times and peak memory of one side.
#[derive(Default)]
struct Side {
    seconds: Vec<f64>,
    /// MiB.
    peak: f64,
}

impl Side {
    /// Runs programs one after another and records their total time if all succeed.
    fn run(&mut self, commands: &mut [Command]) -> Result<()> {
        match self.try_run(commands)? {
            None => Ok(()),
            Some(died) => bail!("{died}"),
        }
    }

    /// As [`Side::run`], but if one dies of a signal, returns that and records no time.
    fn try_run(&mut self, commands: &mut [Command]) -> Result<Option<String>> {
        // Dirty pages of earlier runs must not count.
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
            if status.signal().is_some() {
                return Ok(Some(format!("{shown} failed: {status}")));
            }
            ensure!(status.success(), "{shown} failed: {status}");
        }
        self.seconds.push(begin.elapsed().as_secs_f64());
        Ok(None)
    }

    /// Rate over `bytes`, in MB/s.
    fn rate(&self, bytes: u64) -> f64 {
        bytes as f64 / 1e6 / median(self.seconds.clone())
    }
}

/// A process's peak memory in MiB (proc_pid_status(5), VmHWM); 0 once it has ended.
fn peak(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The rows of two sides: rates, and peak memory.
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

/// Measures everything.
pub(super) fn rows(notes: &mut Vec<String>, quiet: bool) -> Result<Vec<Row>> {
    let folder = folders::target_folder().join("bench-savecore");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let bench = Bench { savecore: build::savecore_release()?, folder, quiet };
    bench.say("making a dump");
    let bytes = image::write(&bench.path("dump.img"))?;
    let mut rows = bench.elf(bytes)?;
    rows.extend(bench.kdump(bytes, notes)?);
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
    fn save(&self, to: &str, threads: usize, words: &[&str]) -> Result<Command> {
        let to = self.path(to);
        if to.exists() {
            fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
        }
        fs::create_dir(&to).with_context(|| format!("cannot create {}", to.display()))?;
        let mut command = Command::new(&self.savecore);
        command.args(["save", "--keep", "--host", "bench", "--threads", &threads.to_string()]);
        command.args(words).arg("-o").arg(to).arg(self.path("dump.img"));
        Ok(command)
    }

    /// The core saved to a folder.
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
        // The previous run's file.
        let _ = fs::remove_file(&path);
        path
    }

    /// To ELF, against a copy of the same core.
    fn elf(&self, bytes: u64) -> Result<Vec<Row>> {
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        for _ in 0..RUNS {
            self.say("savecore save --format elf");
            ours.run(&mut [self.save("elf", threads(), &[])?])?;
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

    /// To compressed kdumps, against makedumpfile on the ELF core: both with one thread, and both with one
    /// per CPU.
    fn kdump(&self, bytes: u64, notes: &mut Vec<String>) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let core = self.saved("elf")?;
        let Some(version) = version() else {
            notes.push(format!("makedumpfile is not installed, nor does {MAKEDUMPFILE} name one"));
            return Ok(rows);
        };
        for (compress, flag) in [("zlib", "-c"), ("zstd", "-z")] {
            if compress == "zstd" && !has_zstd(&version) {
                notes.push(format!("this makedumpfile has no zstd; {MAKEDUMPFILE} may name one that has"));
                continue;
            }
            let counts = if threads() > 1 { vec![1, threads()] } else { vec![1] };
            for threads in counts {
                let words = ["--format", "kdump", "--compress", compress];
                let mut make = Command::new(makedumpfile());
                // makedumpfile leaves out zero pages, which is the least work.
                make.args([flag, "-d", "1"]);
                if threads > 1 {
                    make.arg("--num-threads").arg(threads.to_string());
                }
                let shown = format!("{:?}", make).replace('"', "");
                let out = self.path("filtered");
                make.arg(&core).arg(&out);
                let mut commands = [make, fsync(&out)];
                let (mut ours, mut theirs) = (Side::default(), Side::default());
                for _ in 0..KDUMP_RUNS {
                    self.say(&format!("savecore save --compress {compress} --threads {threads}"));
                    ours.run(&mut [self.save("kdump", threads, &words)?])?;
                    self.say(&shown);
                    self.makedumpfile(&mut theirs, &mut commands, &shown, notes)?;
                }
                let name = format!("to kdump, {threads} threads / {shown}");
                rows.extend(compare(&name, bytes, &ours, &theirs, KDUMP_GOAL));
                let size =
                    |path: &Path| Ok::<f64, anyhow::Error>(allocated(path)? as f64 / f64::from(1 << 20));
                rows.push(Row {
                    theirs: Some(size(&out)?),
                    ..Row::proportion(
                        "savecore",
                        &format!("{name}: the file"),
                        "MiB",
                        size(&self.saved("kdump")?)?,
                    )
                });
            }
        }
        self.fresh("filtered");
        Ok(rows)
    }

    /// Runs makedumpfile until it succeeds.
    fn makedumpfile(
        &self,
        side: &mut Side,
        commands: &mut [Command],
        shown: &str,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            self.fresh("filtered");
            if side.try_run(commands)?.is_none() {
                return Ok(());
            }
            notes.push(format!("{shown} died of a signal, which does not count, and was run again"));
        }
        bail!("{shown} did not finish in {TRIES} runs")
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
        // Both overwrite blocks that the file system has already allocated.
        Side::default().run(&mut [plain()])?;
        for _ in 0..RUNS {
            self.say("savecore format");
            let mut format = Command::new(&self.savecore);
            format.args(["format", "--yes", "--force"]).arg(&path);
            ours.run(&mut [format])?;
            self.say("dd");
            theirs.run(&mut [plain()])?;
        }
        Ok(compare("writing the pattern / dd bs=1M", PARTITION, &ours, &theirs, LAY_GOAL).into())
    }
}

/// Flushes a file to the disk.
fn fsync(path: &Path) -> Command {
    let mut command = Command::new("sync");
    command.arg(path);
    command
}

/// Bytes that a file occupies.
fn allocated(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.blocks() * 512)
}

/// The makedumpfile to measure.
fn makedumpfile() -> OsString {
    std::env::var_os(MAKEDUMPFILE).unwrap_or_else(|| "makedumpfile".into())
}

/// makedumpfile's version and features; `None` if it is not installed.
fn version() -> Option<String> {
    let output = Command::new(makedumpfile()).arg("-v").output().ok()?;
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Whether it can compress with zstd; a build without zstd accepts the flag and does not compress, or rejects
/// it.
fn has_zstd(version: &str) -> bool {
    version.lines().any(|line| line.starts_with("zstd") && line.contains("enabled"))
}
