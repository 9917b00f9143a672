//! `cargo run -p qemu-tests --example linux_dump -- FOLDER [MIB]`: lets a stock Linux with so many MiB of RAM (512)
//! crash in QEMU, and makes FOLDER/linux.img of it, a dump partition in our format, beside QEMU's own core of the same
//! memory, qemu.elf.

use std::path::Path;

use anyhow::{Context, Result};
use qemu_tests::linux::{Kernel, Stock, crash, partition};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("name a folder")?;
    let memory = arguments.next().map_or(Ok(512), |text| text.parse()).context("MIB is a number")?;
    let folder = Path::new(&folder);
    let linux = Stock::symbolised(Kernel::CLOUD, &mut |text: &str| eprintln!("{text}"))?;
    let crashed = crash(&linux, memory, folder)?;
    let image = folder.join("linux.img");
    partition(&crashed, &image)?;
    println!("{}\n{}\n{}", image.display(), crashed.core.display(), crashed.vmlinux.display());
    Ok(())
}
