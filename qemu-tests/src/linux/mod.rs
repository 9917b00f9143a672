//! A stock Linux as a guest: Debian's unmodified kernel, with an initramfs of busybox, the necessary modules,
//! and a script.
//!
//! [`Stock`] is the downloaded kernel, [`Guest`] the system around it. The guest reports to the harness in
//! lines on the serial console: `linux: WORDS` from the script, and finally `linux: end status=N` with the
//! script's exit code, which [`finish`] waits for. A [`Debian`] is a complete system with systemd and apt.
//! [`crash`] crashes one, and [`partition`] turns it into a dump in our format.

mod archive;
mod bitmap;
mod cache;
mod crash;
mod debian;
mod dump;
mod guest;
mod initramfs;
mod kdump;
mod kernel;
pub mod levels;
mod modules;
mod readers;
mod rows;
mod rust_kernel;
mod rust_tools;
mod stock;
mod timed;

pub use cache::{CACHE, Download, Downloads, Tell, Want, cache};
pub use crash::{CPUS, Crashed, crash};
pub use debian::{DEBIANS, Debian, Packages, Step};
pub use dump::partition;
pub use guest::{Guest, LOAD, finish};
pub use kdump::{Filter, KDUMP, kdump, unflatten};
pub use kernel::{Flavour, KERNELS, Kernel, Parts};
pub use readers::{Reader, Readers, same};
pub use rows::{Lab, Row, rows};
pub use rust_tools::RustTools;
pub use stock::{Stock, Symbolised};
pub use timed::{Cost, MEMORY as TIMED_MEMORY, Scene};
