//! A stock Linux as a guest: Debian's kernel, taken as it is, with an initramfs of busybox, the modules that are
//! needed, and a script.
//!
//! [`Stock`] is what was downloaded, [`Guest`] what is made of it. The guest speaks to the harness in lines on the
//! serial console: `linux: WORDS` by the script, at last `linux: end status=N` with the script's exit code. [`finish`]
//! waits for it. A [`Debian`] is a whole system, with systemd and apt. [`crash`] lets one crash, and [`partition`] makes a dump of it in our format.

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
