//! `savecore probe`: is this a dump partition? For udev, which runs it for each new disk and partition
//! (90-savecore.rules).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::Context;
use dumpcore::format::label::Label;
use dumpcore::format::{BLOCK_SIZE, Block};
use rustix::fs::OFlags;

use crate::finding::{Finding, printed};
use crate::output::out;

/// Read the first block of DEVICE, and print the uuid of its label as a property for udev
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A disk or a partition
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let shown = || format!("cannot read {}", arguments.device.display());
    let mut options = File::options();
    // Do not wait for a drive without a medium, or a pipe.
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&arguments.device);
    let mut block: Block = [0; BLOCK_SIZE];
    file.and_then(|file| file.read_exact_at(&mut block, 0)).with_context(shown)?;
    let Ok(label) = Label::parse(&block) else { return Ok(Finding::Negative) };
    // Print nothing that others control: the name in the label could be any text.
    let uuid = uuid::Uuid::from_bytes(label.uuid);
    printed(writeln!(out(), "DISKDUMP_LABEL={uuid}").map_err(anyhow::Error::from))?;
    Ok(Finding::Good)
}
