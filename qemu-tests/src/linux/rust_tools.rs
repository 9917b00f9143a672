//! What a kernel with CONFIG_RUST is built with.

use std::path::PathBuf;

/// What it is built with, beside `make tinyconfig`.
pub(super) const CONFIG: &str = include_str!("rust.config");

/// What a kernel with Rust, and modules for it, are built with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RustTools {
    /// rustc, with the source of its libraries. A kernel takes modules of just the same one.
    pub rustc: PathBuf,
    /// bindgen.
    pub bindgen: PathBuf,
}

impl RustTools {
    /// As variables of the kernel's make.
    pub fn variables(&self) -> [String; 3] {
        let (rustc, bindgen) = (self.rustc.display(), self.bindgen.display());
        [format!("RUSTC={rustc}"), format!("HOSTRUSTC={rustc}"), format!("BINDGEN={bindgen}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_asks_for_rust_and_for_each_disk() {
        for name in ["RUST", "VIRTIO_BLK", "SCSI_VIRTIO", "SATA_AHCI", "BLK_DEV_NVME", "KEXEC", "MODULES"] {
            assert!(CONFIG.lines().any(|line| line == format!("CONFIG_{name}=y")), "{name}");
        }
    }
}
