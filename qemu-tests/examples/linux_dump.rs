//! `cargo run -p qemu-tests --example linux_dump -- FOLDER [MIB]`: crashes a stock Linux with this many MiB
//! of RAM (default 512) in QEMU and turns it into FOLDER/linux.img, a dump partition in our format. QEMU's
//! own core of the same memory is in qemu.elf.

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
