//! The store's own part of a folder's `info.json`: which dump is stored, in which files.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::types::{Crash, INFO};
use crate::text::harmless_json;

/// Maximum size of an `info.json` to read.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// The value of `stored` in `info.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The dump partition's identity.
    uuid: Uuid,
    /// The dump's number on its partition.
    sequence: u32,
    /// The dump's own number: hexadecimal, since JSON readers may round numbers beyond 2^53.
    nonce: String,
    /// Missing stripes.
    missing_stripes: Vec<u32>,
    /// A checksum of the stored part of the dump: the next run may be able to read more of it, or exclude
    /// other pages.
    content: u32,
    /// In a directory: the highest existing number plus one. It orders crashes independently of clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) order: Option<u64>,
    /// In a directory: whether it is in one row with its host's previous crash. That one may be removed
    /// later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) follows: Option<bool>,
    /// All other files in the folder.
    pub(super) files: Vec<FileRecord>,
}

/// A file in the folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Its name.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
}

impl Record {
    pub(super) fn new(crash: &Crash, order: Option<u64>, files: &[(String, u64)]) -> Record {
        let files = files.iter().map(|(name, bytes)| FileRecord { name: name.clone(), bytes: *bytes });
        Record {
            uuid: crash.uuid,
            sequence: crash.sequence,
            nonce: format!("{:016x}", crash.nonce),
            missing_stripes: crash.missing_stripes.clone(),
            content: crash.content,
            order,
            follows: None,
            files: files.collect(),
        }
    }

    /// Whether this is that crash, with the same part of its dump in a core of that name.
    pub(super) fn is_of(&self, crash: &Crash, core: &str) -> bool {
        let Record { order, follows, .. } = *self;
        let same = Record { order, follows, files: self.files.clone(), ..Record::new(crash, None, &[]) };
        *self == same && self.files.iter().any(|file| file.name == core)
    }

    /// The contents of `info.json`: one line, `info` with the host's name and this record.
    pub(super) fn text(&self, host: &str, info: &Value) -> Vec<u8> {
        let mut all = match info {
            Value::Object(all) => all.clone(),
            other => Map::from_iter([("info".to_owned(), other.clone())]),
        };
        all.insert("host".to_owned(), host.into());
        all.insert("stored".to_owned(), serde_json::json!(self));
        let mut text = harmless_json(&Value::Object(all).to_string()).into_bytes();
        text.push(b'\n');
        text
    }

    /// Parses the result of [`Record::text`].
    pub(super) fn parse(text: &[u8]) -> Option<Record> {
        #[derive(Deserialize)]
        struct Info {
            stored: Record,
        }
        serde_json::from_slice(text).ok().map(|info: Info| info.stored)
    }

    /// Names and sizes of all files, `info.json` of the given size last.
    pub(super) fn files_with(&self, info: u64) -> Vec<(String, u64)> {
        let files = self.files.iter().map(|file| (file.name.clone(), file.bytes));
        files.chain([(INFO.to_owned(), info)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::store::crash;

    proptest! {
        #[test]
        fn a_record_is_one_line_and_reads_back_whatever_is_around_it(
            text: String, nonce: u64, order: Option<u64>, stripes in prop::collection::vec(0..9u32, 0..3)
        ) {
            let crash = Crash { missing_stripes: stripes, ..crash(nonce) };
            let mut record = Record::new(&crash, order, &[("vmcore.elf".to_owned(), 7)]);
            record.follows = order.map(|order| order % 2 == 0);
            let bytes = record.text(&text, &json!({ "message": text, "stored": text, "host": [text] }));
            prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
            let read = Record::parse(&bytes).unwrap();
            prop_assert!(read.is_of(&crash, "vmcore.elf"));
            prop_assert!(!read.is_of(&crash, "vmcore.kdump"));
            for other in [
                Crash { nonce: !nonce, ..crash.clone() },
                Crash { missing_stripes: vec![9], ..crash.clone() },
                Crash { content: 4, ..crash.clone() },
            ] {
                prop_assert!(!read.is_of(&other, "vmcore.elf"));
            }
            prop_assert!(read.is_of(&Crash { stays: true, ..crash }, "vmcore.elf"), "where the dump is besides is no matter");
            prop_assert_eq!(read, record);
        }

        #[test]
        fn any_bytes_are_no_record_or_one(bytes: Vec<u8>) {
            let _ = Record::parse(&bytes);
        }
    }
}
