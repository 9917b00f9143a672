//! Results for a dump, and for the targets.

use serde_json::{Value, json};

use super::names::LOG;
use crate::corefile::elf::{Unwalked, Written};
use crate::dump::{Dump, DumpRef, Report};
use crate::keys::public_text;
use crate::partition::{Ending, Partition};
use crate::source::Target;
use crate::store::{Crash, Place};
use crate::targets::Targets;

/// A file in a store.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct StoredFile {
    /// Its name in the crash's folder.
    pub name: String,
    /// Its length, including holes.
    pub bytes: u64,
}

/// The result for one dump.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Saved {
    /// Its targets, by stripe.
    pub on: Vec<String>,
    /// Its folder in the store, a path or URL; `None` if it could not be saved.
    pub folder: Option<String>,
    /// All files in it.
    pub files: Vec<StoredFile>,
    /// Its format; empty if it could not be saved.
    pub format: &'static str,
    /// The core, a path or URL; `None` for raw copies.
    pub file: Option<String>,
    /// The requested level, as dump level bits; `None` if there was none.
    pub level: Option<u32>,
    /// Number of pages excluded by the level.
    pub pages_left_out: u64,
    /// Number of pages that the level might have excluded if their class were known.
    pub level_unknown_pages: u64,
    /// The kernel's log.
    pub log: Option<String>,
    /// The kernel's ELF file for the backtraces; `None` if there are none.
    pub kernel: Option<String>,
    /// The functions of the crashing CPU, innermost first.
    pub frames: Vec<String>,
    /// Raw copies, one per stripe.
    pub copies: Vec<String>,
    /// Bytes of the core or the copies, including holes; `None` if they already existed.
    pub bytes: Option<u64>,
    /// Segments of an ELF core for virtual addresses.
    pub virtual_segments: Option<u64>,
    /// Segments of an ELF core for physical addresses.
    pub physical_segments: Option<u64>,
    /// Page tables missing in the dump; `None` if no page tables were walked.
    pub missing_tables: Option<u64>,
    /// Why page tables, or those of one half of the address space, were not walked.
    pub unwalked: Option<String>,
    /// Whether the store already had it.
    pub already_there: bool,
    /// Whether its blocks have been freed on all of its targets.
    pub cleared: bool,
    /// Why not.
    pub kept_because: Option<String>,
    /// Why saving failed.
    pub error: Option<String>,
    /// Whether it is not encrypted although its partition's label demands it.
    pub unencrypted_despite_label: bool,
    /// Warnings for the user about the core.
    pub warnings: Vec<String>,
    /// The dump's facts.
    pub dump: Report,
    /// Why a power failure may lose it in the store.
    #[serde(skip)]
    pub(super) doubt: Option<String>,
    /// Parts that are still on their targets.
    #[serde(skip)]
    pub(super) parts: usize,
    /// Whether at least some of its parts were marked as saved before.
    #[serde(skip)]
    pub(super) marked: bool,
}

impl Saved {
    /// A dump that has not been saved yet.
    pub(super) fn new(targets: &Targets, places: &[DumpRef], dump: &Dump<'_>) -> Saved {
        Saved {
            on: targets.names(places).into_iter().map(str::to_owned).collect(),
            folder: None,
            files: Vec::new(),
            format: "",
            file: None,
            level: None,
            pages_left_out: 0,
            level_unknown_pages: 0,
            log: None,
            kernel: None,
            frames: Vec::new(),
            copies: Vec::new(),
            bytes: None,
            virtual_segments: None,
            physical_segments: None,
            missing_tables: None,
            unwalked: None,
            already_there: false,
            cleared: false,
            kept_because: None,
            error: None,
            unencrypted_despite_label: targets.is_bare(places),
            warnings: Vec::new(),
            dump: Report::new(dump),
            doubt: None,
            parts: places.len(),
            marked: places.iter().any(|place| targets.found(*place).ending == Ending::Saved),
        }
    }

    /// Records its place; `names` are the core's files.
    pub(super) fn take_place(&mut self, place: Place, names: &[String]) {
        let folder = place.folder.trim_end_matches('/').to_owned();
        let path = |name: &str| format!("{folder}/{name}");
        let there = |name: &str| place.files.iter().any(|(file, _)| file == name);
        let mut cores = names.iter().filter(|name| there(name)).map(|name| path(name));
        match self.format {
            "raw" => self.copies = cores.collect(),
            _ => self.file = cores.next(),
        }
        self.log = there(LOG).then(|| path(LOG));
        self.warnings.extend(place.remarks);
        self.doubt = place.doubt;
        self.files = place.files.into_iter().map(|(name, bytes)| StoredFile { name, bytes }).collect();
        self.folder = Some(folder);
    }

    /// The contents of `info.json`: the whole report of the dump, at the top level so that many of them form
    /// one table, and further facts.
    pub(super) fn info(&self, crash: &Crash) -> Value {
        let mut info = serde_json::to_value(&self.dump).unwrap_or_default();
        let more = json!({
            "savecore": env!("CARGO_PKG_VERSION"),
            "host": crash.host,
            "uuid": crash.uuid,
            "format": self.format,
            "on": self.on,
            "saved_at": crate::dump::now().map(|time| time.to_string()),
            "core_level": self.level,
            "pages_left_out": self.pages_left_out,
            "kernel": self.kernel,
            "frames": self.frames,
            "missing_tables": self.missing_tables,
            "unwalked": self.unwalked,
            "warnings": self.warnings,
        });
        if let (Value::Object(info), Value::Object(more)) = (&mut info, more) {
            info.extend(more);
        }
        info
    }
}

/// The result for a target.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TargetResult {
    /// Its name.
    pub target: String,
    /// Its identity.
    pub uuid: uuid::Uuid,
    /// The public key that its dumps are encrypted to.
    pub recipient: Option<String>,
    /// Dumps saved by an earlier run, and freed now.
    pub finished_clears: u64,
    /// Dumps that were waiting there.
    pub waiting: u64,
}

/// Numbers of dumps on a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    /// Dumps saved by an earlier run, and freed now.
    pub(super) finished: u64,
    /// Dumps that were waiting.
    pub(super) waited: u64,
}

impl TargetResult {
    pub(super) fn new(target: &Target, partition: &Partition, counts: Counts) -> TargetResult {
        TargetResult {
            target: target.name().to_owned(),
            uuid: uuid::Uuid::from_bytes(partition.uuid()),
            recipient: partition.label.recipient().map(public_text),
            finished_clears: counts.finished,
            waiting: counts.waited,
        }
    }
}

/// Warnings for the user about the page tables that a core was translated with.
pub(super) fn tables_warnings(written: &Written) -> Vec<String> {
    let mut warnings = Vec::new();
    let only = "can be reached by physical address only";
    match written.unwalked {
        Some(Unwalked::Refused(why)) if written.walked.is_some() => {
            warnings.push(format!("the page tables of one half of the address space cannot be read: {why}"));
        }
        Some(Unwalked::Refused(why)) => {
            warnings.push(format!("the page tables cannot be read: {why}; memory {only}"));
        }
        Some(why @ Unwalked::Unknown) => warnings.push(format!("{why}; memory {only}")),
        // Without page tables, the kernel itself uses physical addresses.
        Some(Unwalked::Off) | None => {}
    }
    match written.walked {
        Some(walked) if walked.missing > 0 => warnings.push(format!(
            "{} missing; what they map {only}",
            if walked.missing == 1 {
                "1 page table is".to_owned()
            } else {
                format!("{} page tables are", walked.missing)
            }
        )),
        _ => {}
    }
    warnings
}
