//! Stores: a crash goes to a folder of its own in a directory, or in an object store.
//!
//! A folder gets its name when its contents are durable, and `info.json` is the last of its files: a reader
//! who sees it finds the others complete. A finished folder is never modified; only [`Limits`] remove one.

mod directory;
mod error;
mod limits;
mod names;
#[cfg(feature = "object-store")]
mod object;
mod record;
mod types;

use std::path::Path;

pub(crate) use directory::LATEST;
pub use error::StoreError;
pub use limits::{Limits, MaxKept, MaxUsed};
pub(crate) use record::MAX_BYTES as MAX_INFO;
pub(crate) use types::INFO;
#[cfg(test)]
pub(crate) use types::crash;
pub use types::{Begun, Crash, Folder, Place, Store};

pub use crate::corefile::Room;

/// Opens a store: an existing directory, or a URL: `s3://`, `gs://` or `az://`, a bucket or container, and a
/// prefix. Settings and credentials for the latter come from the environment (`AWS_…`, `GOOGLE_…`,
/// `AZURE_…`).
///
/// # Errors
/// If a directory does not exist, or the URL or the settings are invalid. An object store is contacted only
/// when a crash is started.
pub fn open(destination: &str, limits: &Limits) -> Result<Box<dyn Store>, StoreError> {
    if destination.contains("://") {
        return open_url(destination, limits);
    }
    Ok(Box::new(directory::Directory::open(Path::new(destination), limits)?))
}

#[cfg(feature = "object-store")]
fn open_url(destination: &str, limits: &Limits) -> Result<Box<dyn Store>, StoreError> {
    let variables = std::env::vars_os();
    let environment: Vec<(String, String)> = variables
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Box::new(object::Objects::open(destination, limits, &environment)?))
}

#[cfg(not(feature = "object-store"))]
fn open_url(destination: &str, _limits: &Limits) -> Result<Box<dyn Store>, StoreError> {
    let (scheme, _) = destination.split_once("://").unwrap_or((destination, ""));
    Err(StoreError::Scheme { scheme: names::harmless(scheme) })
}
