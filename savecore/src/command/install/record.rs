//! The record of the installation, so that exactly these files are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::files;

/// The installed files.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) files: Vec<Entry>,
    /// Folders that were created for them, from the root.
    pub(super) directories: Vec<PathBuf>,
    /// Earlier versions of some of the files, which may still be in place if this installation was
    /// interrupted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) replaced: Vec<Entry>,
}

/// An installed file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Path from the root.
    pub(super) path: PathBuf,
    bytes: u64,
    crc32: u32,
}

impl Entry {
    pub(super) fn of(path: impl Into<PathBuf>, bytes: &[u8]) -> Entry {
        Entry { path: path.into(), bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }

    /// The file as it is now; `None` if there is none.
    pub(super) fn read(name: impl Into<PathBuf>, path: &Path) -> anyhow::Result<Option<Entry>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(Entry::of(name, &bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

impl Record {
    /// Reads the record; empty if there is none.
    pub(super) fn read(path: &Path) -> anyhow::Result<Record> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let record: Record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what `savecore install` wrote", path.display()))?;
        let files = record.files.iter().chain(&record.replaced);
        let names = files.map(|file| &file.path).chain(&record.directories);
        for name in names {
            // Never remove anything above the root.
            let plain = name.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            anyhow::ensure!(
                plain,
                "{} is not what `savecore install` wrote: it names {name:?}",
                path.display()
            );
        }
        Ok(record)
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        files::write(path, &serde_json::to_vec_pretty(self)?, 0o644)
    }

    pub(super) fn find(&self, path: &Path) -> Option<&Entry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a file is unchanged since an installation.
    pub(super) fn wrote(&self, there: &Entry) -> bool {
        self.files.iter().chain(&self.replaced).any(|file| file == there)
    }
}
