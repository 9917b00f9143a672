//! `savecore keygen`: creates a key pair: the public key for format, the secret key for save.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use savecore::Identity;
use savecore::dump::utc;

use crate::finding::{Finding, printed};
use crate::output::{json, out};
use savecore::keys::{public_text, secret_text};

/// Make a key pair for encrypted dumps: the secret key goes to FILE, the public key to standard output
///
/// Give the public key to `savecore format --recipient`, and FILE to `savecore save --identity`.
/// Keep FILE off the machines whose dumps it opens, and keep a copy: without it, nobody can read them.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = crate::finding::EXIT_CODES)]
pub(crate) struct Arguments {
    /// New file for the secret key, readable only by you [default: both keys go to standard output]
    file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Result<'a> {
    file: Option<&'a Path>,
    public_key: String,
    /// Only without a file: otherwise it must be nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_key: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Finding> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| anyhow!("the system has no random numbers: {error}; no key was made"))?;
    let identity = Identity(secret);
    let public_key = public_text(&identity.public_key());
    let text = text_of(&identity);
    let file = arguments.file.as_deref();
    if let Some(file) = file {
        write_new(file, text.as_bytes())?;
    }
    let told = if arguments.json {
        let secret_key = file.is_none().then(|| secret_text(&identity));
        json(&Result { file, public_key, secret_key })
    } else if file.is_some() {
        writeln!(out(), "{public_key}").map_err(anyhow::Error::from)
    } else {
        write!(out(), "{text}").map_err(anyhow::Error::from)
    };
    match file {
        Some(_) => printed(told)?,
        // Unread output is lost, and the key is nowhere else: an error.
        None => told.context("the keys cannot be printed")?,
    }
    Ok(Finding::Good)
}

/// The contents of an identity file.
fn text_of(identity: &Identity) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let made = utc(now).map_or(String::new(), |time| format!(", made {time}"));
    format!(
        "# Secret key for crash dumps{made}. Keep it off the machines that it is for.\n# {}\n{}\n",
        public_text(&identity.public_key()),
        secret_text(identity)
    )
}

/// Writes a new file durably, including its name. A file that cannot be completed is removed.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let shown = path.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(anyhow!("{shown} exists already and was left as it is: choose another name"));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {shown}")),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all())
        .with_context(|| format!("cannot write {shown}"));
    if written.is_err() {
        // A partial key is useless; failing to remove it does not change the error.
        let _ = std::fs::remove_file(path);
    }
    written
}
