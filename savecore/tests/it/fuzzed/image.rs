//! Images and raw copies of any content, opened by name as the command does, with every dump in them read.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use dumpcore::format::BLOCK_SIZE;
use savecore::partition::Search;
use savecore::source::Access;
use savecore::targets::{TargetName, Targets};
use tempfile::TempDir;

use super::Input;
use super::partition::{make_fit, waiting_disks};

/// Changes to an image, at most.
const CHANGES: usize = 24;

/// A folder in memory, if possible.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for temporary files")
}

/// Images of whole partitions.
fn bases() -> &'static [Vec<u8>] {
    static BASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BASES.get_or_init(waiting_disks)
}

/// Opens an image by its name, and reads all dumps in it. Nothing panics, hangs or changes the image.
pub(crate) fn no_harm(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (base, flags) = (input.byte(), input.byte());
    let mut image = bases()[usize::from(base) % bases().len()].clone();
    if flags & 1 != 0 {
        let length = input.number(3) as usize % (image.len() + 3 * BLOCK_SIZE);
        image.resize(length, 0);
    }
    for _ in 0..CHANGES {
        if input.0.is_empty() || image.is_empty() {
            break;
        }
        let at = input.number(3) as usize % image.len();
        let value = input.tricky().to_le_bytes();
        let count = value.len().min(image.len() - at);
        image[at..at + count].copy_from_slice(&value[..count]);
    }
    if flags & 2 == 0 {
        make_fit(&mut image);
    }
    let folder = folder();
    let name = if flags & 4 == 0 { "image" } else { "vmcore.diskdump" };
    let path = folder.path().join(name);
    fs::write(&path, &image).expect("an image");
    read_all(&path);
    assert!(fs::read(&path).expect("an image") == image, "the image was changed");
}

fn read_all(path: &Path) {
    let name = TargetName::of(path);
    let Ok(targets) = Targets::open(&[name], Access::Read, Search::Quick, None, None, &mut ()) else {
        return;
    };
    for places in targets.dumps() {
        let dump = savecore::dump::Dump::open_parts(targets.parts(&places), None, &mut ());
        let report = serde_json::to_string(&savecore::dump::Report::new(&dump)).expect("a report");
        assert!(report.len() < 8 << 20, "a report of {} bytes", report.len());
    }
}
