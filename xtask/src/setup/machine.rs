//! Facts about this machine.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Whether a program is in the path.
pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether we run as root, by the owner of our own process.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether there is a libclang for bindgen.
pub(super) fn has_libclang() -> bool {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib/x86_64-linux-gnu")];
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.extend(
        llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
            .map(|entry| entry.path().join("lib")),
    );
    folders.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    let names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    names.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| is_libclang(&name))
}

/// Whether this file name is libclang's, with or without a version; the one for C++ programs is another
/// library.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let versioned =
        rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()));
    rest.starts_with(".so") || versioned && rest.contains(".so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in ["libclang.so", "libclang.so.1", "libclang-14.so.1", "libclang-14.so.14.0.6"] {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclang_rt.so", "libclang-14.a", "libc.so"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_missing() {
        assert!(!in_path("no-such-program"));
        assert!(in_path("sh"));
    }
}
