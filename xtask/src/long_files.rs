//! Whether every long file says why it is one file. A file tells one story; when it is long, it often tells two, and
//! whoever makes it longer has to think of that.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::folders::{files, name, root};

/// Where the project's sources are.
const FOLDERS: [&str; 7] = ["dumpcore", "drivers", "linux", "savecore", "qemu-tests", "xtask", "fuzz"];

/// A file with more lines is long.
const LONG: usize = 500;

/// How the sentence in the head of a long file begins.
const REASON: &str = "//! One file: ";

/// Checks all files. Says how many there are, and how many are long.
///
/// # Errors
/// Those that are long, and do not say why.
pub(crate) fn check() -> Result<String> {
    let mut found = Found::default();
    for folder in FOLDERS {
        for path in files(&root().join(folder), "rs")? {
            let name = name(&path);
            // What cargo-fuzz builds, if it is called by hand.
            if name.contains("/target/") {
                continue;
            }
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            found.file(&name, &text);
        }
    }
    if found.files == 0 {
        bail!("there is no source in {}, so nothing was checked", FOLDERS.join(", "));
    }
    if !found.silent.is_empty() {
        bail!(
            "{} files of more than {LONG} lines do not say in their head why they are one file; divide them, or add a line `{REASON}…`:\n    {}",
            found.silent.len(),
            found.silent.join("\n    ")
        );
    }
    Ok(format!("{} files, {} of them long", found.files, found.long))
}

/// What was found.
#[derive(Default)]
struct Found {
    files: usize,
    long: usize,
    /// Long ones without a reason.
    silent: Vec<String>,
}

impl Found {
    /// Looks at one file.
    fn file(&mut self, name: &str, text: &str) {
        self.files += 1;
        if text.lines().count() <= LONG {
            return;
        }
        self.long += 1;
        let mut head = text.lines().take_while(|line| line.starts_with("//!"));
        if !head.any(|line| line.starts_with(REASON)) {
            self.silent.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(text: &str) -> usize {
        let mut found = Found::default();
        found.file("x.rs", text);
        found.silent.len()
    }

    #[test]
    fn a_long_file_says_why_in_its_head_and_a_short_one_need_not() {
        let code = "fn f() {}\n".repeat(LONG);
        assert_eq!(silent(&code), 0);
        assert_eq!(silent(&format!("{code}fn g() {{}}\n")), 1);
        assert_eq!(silent(&format!("//! A story.\n//!\n//! One file: it is one story.\n{code}")), 0);
        assert_eq!(silent(&format!("//! A story.\n\n//! One file: it is one story.\n{code}")), 1);
        assert_eq!(silent(&format!("{code}//! One file: it is one story.\n")), 1);
    }

    #[test]
    fn every_file_keeps_the_rule() {
        check().unwrap();
    }
}
