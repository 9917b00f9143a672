//! Would the store accept a dump?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use savecore::Error;
use savecore::boot::Config;
use savecore::store::{self, Begun, Crash, Limits, MaxKept, Place, Room, StoreError};
use serde_json::json;

use super::memory::{Fit, Memory};
use super::result::Drill;
use super::scratch::{Scratch, nonce};
use crate::output::{count, size};

/// How long to try a server that does not answer, while the user waits.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn look(config: &Config, memory: Option<&Memory>, drill: &mut Drill) {
    let about = format!("store {}", config.store);
    let about = about.as_str();
    if config.is_remote() {
        let destination = format!("{}/drill", config.store.trim_end_matches('/'));
        match put(&destination) {
            Ok(place) => drill.ok(about, format!("takes files; {} is from this drill", place.folder)),
            Err(error) => {
                drill.fail(about, error.to_string(), "is the network up, and may this machine write there?")
            }
        }
        return;
    }
    let path = Path::new(&config.store);
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o1002 == 0o002 => drill.warn(
            about,
            "everybody may remove and rename its files",
            &format!("`chmod o-w {}`", path.display()),
        ),
        Ok(_) => {}
        Err(error) => {
            let advice = format!("`mkdir -m 0700 {}`, or `savecore install --now`", path.display());
            drill.fail(about, error.to_string(), &advice);
            return;
        }
    }
    match Scratch::new(path)
        .and_then(|scratch| put(&scratch.0.display().to_string()).map_err(|error| error.to_string()))
    {
        Ok(_) => drill.ok(about, "takes files and keeps them"),
        Err(error) => {
            drill.fail(about, error, "savecore must be able to write there");
            return;
        }
    }
    let Ok(room) = rustix::fs::statvfs(path) else { return };
    if room.f_blocks == 0 {
        drill.warn(
            about,
            "the file system does not say how much room it has",
            "make sure that there is enough",
        );
        return;
    }
    look_at_limits(about, config, room.f_blocks.saturating_mul(room.f_frsize), drill);
    let (free, reserve) = (room.f_bavail.saturating_mul(room.f_frsize), config.min_free.as_u64());
    let advice = "make room, or `max_kept` keeps fewer crashes";
    if free < reserve {
        drill.fail(about, format!("{} are free, and {} must stay free", size(free), size(reserve)), advice);
        return;
    }
    match memory.map(|memory| memory.fits(free - reserve)) {
        Some(Fit::Yes(found)) => {
            drill.ok(about, format!("besides the {} that must stay free, {found}", size(reserve)))
        }
        Some(Fit::Perhaps(found)) => {
            drill.warn(about, format!("besides the {} that must stay free, {found}", size(reserve)), advice);
        }
        None => drill.ok(about, format!("{} are free", size(free))),
    }
}

/// Which crashes would be removed when a new one is saved.
fn look_at_limits(about: &str, config: &Config, system: u64, drill: &mut Drill) {
    let number = match config.max_kept {
        MaxKept::All => None,
        MaxKept::Number(number) => Some(count(number.into(), "crash", "crashes")),
    };
    let bytes = config.max_used.bytes(system).map(size);
    let both: Vec<String> = number.into_iter().chain(bytes).collect();
    match both.as_slice() {
        [] => drill.warn(
            about,
            "nothing is ever removed, so a machine that keeps crashing fills it",
            "`max_kept` and `max_used` set limits",
        ),
        both => drill.ok(about, format!("keeps no more than {}", both.join(" and "))),
    }
}

/// Stores a small file like a crash.
fn put(destination: &str) -> Result<Place, StoreError> {
    let limits = Limits { patience: Some(PATIENCE), ..Limits::default() };
    let mut store = store::open(destination, &limits)?;
    let crash = Crash {
        host: savecore::host_name(),
        seconds: None,
        uuid: uuid::Uuid::nil(),
        sequence: 0,
        nonce: nonce(),
        missing_stripes: Vec::new(),
        content: 0,
        stays: false,
    };
    let text = b"savecore drill\n";
    let length = text.len() as u64;
    match store.begin(&crash, "drill.txt", Some(Room { least: length, most: length }))? {
        Begun::AlreadyThere(place) => Ok(place),
        Begun::New(mut folder) => {
            folder.file("drill.txt", &mut |sink| {
                (sink.begin(0, Some(length)))
                    .and_then(|()| sink.write_at(0, text))
                    .and_then(|()| sink.set_len(length))
                    .map_err(Error::Core)
            })?;
            folder.finish(&json!({ "drill": true }))
        }
    }
}
