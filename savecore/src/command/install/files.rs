//! The files to install.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;
use savecore::boot::config;

use super::super::{completions, man};

/// The kind of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// The command.
    Program,
    /// The configuration, which users change.
    Configuration,
    /// Everything else.
    Other,
}

/// A file to install.
pub(super) struct File {
    /// Its path from the root.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
}

impl File {
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mode = if self.kind == Kind::Program { 0o755 } else { 0o644 };
        write(path, &self.bytes, mode)
    }
}

/// Writes a file atomically, and creates the folders that it needs.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(failed)?;
    }
    remove_leftover(path);
    let temporary = temporary(path);
    let mut file =
        (OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)).with_context(failed)?;
    let written = file
        .write_all(bytes)
        // Independent of the user's umask.
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(failed)
}

/// The name of a file until it is complete.
fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".partial");
    temporary.into()
}

/// Removes the partial file of an interrupted run.
pub(super) fn remove_leftover(path: &Path) {
    let _ = fs::remove_file(temporary(path));
}

/// All files, with completions and manual pages for these arguments.
pub(super) fn files(cli: &Command) -> anyhow::Result<Vec<File>> {
    let own = std::env::current_exe().context("the path of this command is not known")?;
    let own = fs::read(&own).with_context(|| format!("cannot read {}", own.display()))?;
    let text = |path: &str, text: &str| File {
        path: path.to_owned(),
        kind: Kind::Other,
        bytes: text.as_bytes().to_vec(),
    };
    // In a package, the units name /usr/bin.
    let unit =
        |path: &str, unit: &str| text(path, &unit.replace("/usr/bin/savecore", "/usr/local/bin/savecore"));
    let mut files = vec![
        File { path: "usr/local/bin/savecore".to_owned(), kind: Kind::Program, bytes: own },
        File {
            path: config::PATH.trim_start_matches('/').to_owned(),
            kind: Kind::Configuration,
            bytes: config::EXAMPLE.as_bytes().to_vec(),
        },
        unit("usr/local/lib/systemd/system/savecore.service", include_str!("../../../dist/savecore.service")),
        unit(
            "usr/local/lib/systemd/system/savecore-later.service",
            include_str!("../../../dist/savecore-later.service"),
        ),
        text(
            "usr/local/lib/systemd/system/savecore-later.path",
            include_str!("../../../dist/savecore-later.path"),
        ),
        unit(
            "usr/local/lib/systemd/system/savecore@.service",
            include_str!("../../../dist/savecore@.service"),
        ),
        unit("usr/local/lib/udev/rules.d/90-savecore.rules", include_str!("../../../dist/90-savecore.rules")),
        text("usr/local/lib/tmpfiles.d/savecore.conf", include_str!("../../../dist/savecore.conf")),
    ];
    for (shell, path) in [
        (Shell::Bash, "usr/local/share/bash-completion/completions/savecore"),
        (Shell::Zsh, "usr/local/share/zsh/site-functions/_savecore"),
        (Shell::Fish, "usr/local/share/fish/vendor_completions.d/savecore.fish"),
    ] {
        files.push(File {
            path: path.to_owned(),
            kind: Kind::Other,
            bytes: completions::script(shell, cli.clone()),
        });
    }
    for (name, bytes) in man::pages(cli.clone())? {
        let path = format!("usr/local/share/man/man{}/{name}", man::SECTION);
        files.push(File { path, kind: Kind::Other, bytes });
    }
    Ok(files)
}
