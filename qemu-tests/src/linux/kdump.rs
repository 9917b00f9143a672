//! kdump, the usual way to a dump: a second kernel waits in reserved memory, is booted by kexec when the
//! first one crashes, and runs makedumpfile on the memory of the first.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::guest::Guest;
use super::stock::Stock;
use crate::bed::Device;
use crate::process;

/// The script for loading it in the guest, as the function `load_kdump`.
pub const KDUMP: &str = include_str!("kdump.sh");
const KEXEC: &str = include_str!("kexec.c");
const CAPTURE: &str = include_str!("capture.sh");

/// A compiler that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The program that writes the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// makedumpfile with these options, with its output in the flattened form that a pipe can carry.
    Makedumpfile(&'static str),
    /// dd: a plain copy of `/proc/vmcore`.
    Plain,
}

/// Adds to `guest` what kdump needs: kexec, and a second kernel with its initramfs, which writes to the
/// second partition of the first disk and resets the machine. The guest has to call `load_kdump`, from
/// [`KDUMP`], and to be booted with `crashkernel=`. `folder` gets the build results.
///
/// # Errors
/// If a program is missing.
pub fn kdump<'a>(
    guest: Guest<'a>,
    stock: &'a Stock,
    device: &Device,
    filter: Filter,
    folder: &Path,
) -> Result<Guest<'a>> {
    let words = match filter {
        Filter::Makedumpfile(words) => words,
        Filter::Plain => "dd",
    };
    let mut capture = Guest::new(stock, &format!("FILTER='{words}'\n{CAPTURE}")).disk(device);
    if filter != Filter::Plain {
        capture = capture.program(&find("makedumpfile")?)?;
    }
    let kernel = &stock.kernel;
    let kernel = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    Ok(guest.program(&kexec(folder)?)?.file("capture.img", 0o644, &packed(capture.root()?)?).file(
        "capture.kernel",
        0o644,
        &kernel,
    ))
}

/// Builds the program that loads the second kernel. Debian's own kexec needs Xen's libraries, and ends up
/// making the same system call.
fn kexec(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("kexec.c"), folder.join("kexec"));
    fs::write(&source, KEXEC).with_context(|| format!("cannot write {}", source.display()))?;
    let mut command = Command::new("gcc");
    command.args(["-O2", "-static", "-o"]).arg(&program).arg(&source);
    process::run(&mut command, LIMIT, &folder.join("kexec.log"))?.success("gcc")?;
    Ok(program)
}

/// A program in PATH.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is not installed"))
}

/// Compresses with gzip as much as possible: the second kernel's memory is taken from the first.
fn packed(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let cannot = "cannot run gzip";
    let mut command = Command::new("gzip");
    command.args(["-9", "--no-name"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context(cannot)?;
    let Some(mut input) = child.stdin.take() else { bail!(cannot) };
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().context(cannot)?;
    ensure!(output.status.success() && writer.join().is_ok_and(|written| written.is_ok()), "gzip failed");
    Ok(output.stdout)
}

/// Reassembles the flattened form that [`Filter::Makedumpfile`] leaves on a disk into the file `into`.
///
/// # Errors
/// If there is none.
pub fn unflatten(disk: &crate::image::Disk, into: &Path, log: &Path) -> Result<()> {
    let image = fs::File::open(&disk.path).with_context(|| format!("cannot read {}", disk.path.display()))?;
    let mut image = std::io::BufReader::new(image);
    std::io::Seek::seek(&mut image, std::io::SeekFrom::Start(disk.dump.first * 4096))
        .with_context(|| format!("cannot read {}", disk.path.display()))?;
    let log = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Command::new("makedumpfile");
    command.arg("-R").arg(into).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    match fs::remove_file(into) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut child = command.spawn().context("cannot run makedumpfile")?;
    if let Some(mut input) = child.stdin.take() {
        // It stops reading at the end of the flattened data.
        let _ = std::io::copy(&mut image, &mut input);
    }
    let status = child.wait().context("cannot run makedumpfile")?;
    ensure!(status.success(), "makedumpfile finds no dump of kdump's on {}", disk.path.display());
    Ok(())
}
