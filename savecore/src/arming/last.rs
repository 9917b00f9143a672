//! The result of the last dump. The module itself knows about a dump that waits on a target; savecore reports
//! one that was saved and is no longer there.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::{Module, System};
use crate::store;
use crate::text::harmless_line;

/// The relevant part of a saved crash's `info.json`.
#[derive(Deserialize)]
struct Info {
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    wall_clock: u64,
}

/// Reports the crash saved last in this store to the module. Call it only if no dump waits on the armed
/// targets, since a waiting dump is newer. This is only for display in sysfs, so errors are ignored.
pub fn tell_last(system: &System, store: &str) {
    if let (Ok(module), Some(text)) = (Module::of(system), saved_last(store)) {
        let _ = module.tell_last(&text);
    }
}

/// The result of the crash saved last in a directory, in the module's format.
fn saved_last(store: &str) -> Option<String> {
    let store = Path::new(store);
    let name = fs::read_link(store.join(store::LATEST)).ok()?;
    // The store links to one of its own folders; do not follow links that others put there.
    name.file_name().filter(|only| *only == name)?;
    let folder = store.join(name);
    // Without NONBLOCK, opening a FIFO would block for ever.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        File::options().read(true).custom_flags(flags.bits() as i32).open(folder.join(store::INFO)).ok()?;
    file.metadata().ok().filter(Metadata::is_file)?;
    let mut text = Vec::new();
    file.take(store::MAX_INFO).read_to_end(&mut text).ok()?;
    let Info { status, reason, wall_clock } = serde_json::from_slice(&text).ok()?;
    let why = reason.map_or_else(String::new, |reason| format!("why={}\n", harmless_line(&reason)));
    let (result, place) = (harmless_line(&status), harmless_line(&folder.display().to_string()));
    Some(format!("result={result}\n{why}time={wall_clock}\nplace={place}\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn the_crash_that_was_saved_last_is_told_in_lines_that_end() {
        let store = tempfile::tempdir().unwrap();
        let name = store.path().display().to_string();
        assert_eq!(saved_last(&name), None, "nothing was saved");
        fs::create_dir(store.path().join("host-1")).unwrap();
        symlink("host-1", store.path().join(store::LATEST)).unwrap();
        assert_eq!(saved_last(&name), None, "nothing is said of it");
        let info = store.path().join("host-1").join(store::INFO);
        fs::write(&info, r#"{"status":"complete","reason":null,"wall_clock":1790000000,"more":[1]}"#)
            .unwrap();
        let folder = store.path().join("host-1").display().to_string();
        assert_eq!(saved_last(&name).unwrap(), format!("result=complete\ntime=1790000000\nplace={folder}\n"));
        fs::write(&info, r#"{"status":"incomplete","reason":"the partition\nwas \u001b full"}"#).unwrap();
        let text = saved_last(&name).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.starts_with("result=incomplete\nwhy=the partition") && !text.contains('\u{1b}'),
            "{text}"
        );
        fs::write(&info, "{}").unwrap();
        assert_eq!(saved_last(&name), None);

        // Files that others may have put there are neither waited for nor followed.
        fs::remove_file(&info).unwrap();
        rustix::fs::mknodat(CWD, &info, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(saved_last(&name), None);
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(store::INFO), r#"{"status":"complete"}"#).unwrap();
        fs::remove_file(store.path().join(store::LATEST)).unwrap();
        symlink(elsewhere.path(), store.path().join(store::LATEST)).unwrap();
        assert_eq!(saved_last(&name), None);
    }
}
