//! The tools for building a kernel with CONFIG_RUST.

use std::path::PathBuf;

/// Its configuration, on top of `make tinyconfig`.
pub(super) const CONFIG: &str = include_str!("rust.config");

/// The tools for building a kernel with Rust, and modules for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RustTools {
    /// rustc, with the source of its libraries. A kernel only accepts modules from exactly the same one.
    pub rustc: PathBuf,
    /// bindgen.
    pub bindgen: PathBuf,
}

impl RustTools {
    /// The variables for the kernel's make.
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
