//! The keys in `--recipient` and `--identity`: in files, or a public one as text. A file has one key on a
//! line of its own; empty lines and those starting with `#` are ignored.
//!
//! No message repeats a secret key.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use dumpcore::format::crypt::{Key, PublicKey};
use savecore::Identity;
use savecore::keys::{Flaw, PUBLIC, SECRET, parse, public_text};

use crate::output::warning;

/// Maximum size of a key file: a disk given by mistake is not read to the end.
const MAX_FILE: u64 = 64 << 10;

/// The public key in `--recipient`: as text, or in a file.
pub(crate) fn recipient(argument: &str) -> anyhow::Result<PublicKey> {
    let key = if argument.starts_with(SECRET) {
        bail!(
            "--recipient is a secret key: use the public one, and make a new pair, because others may have seen this one"
        );
    } else if argument.starts_with(PUBLIC) {
        parse(PUBLIC, argument).map_err(|flaw| anyhow::anyhow!("--recipient is {flaw}"))?
    } else {
        let (line, text, _) = only_line(Path::new(argument))
            .with_context(|| format!("--recipient is neither a key ({PUBLIC}…) nor a file with one"))?;
        if let Ok(secret) = parse(SECRET, &text) {
            let public = public_text(&Identity(secret).public_key());
            bail!(
                "{argument} holds a secret key, which must not be on a machine that dumps: use its public key, {public}"
            );
        }
        parse(PUBLIC, &text).map_err(|flaw| anyhow::anyhow!("{argument}: line {line} is {flaw}"))?
    };
    // A few values lead to the same, known shared secret with any key (RFC 7748, section 6.1); a kernel would
    // refuse to dump.
    if Key::agree(&[1; 32], &key, &key, &key).is_none() {
        bail!("--recipient is a weak key: make one with `savecore keygen`");
    }
    Ok(key)
}

/// The identity in a file. Warns if others can read the file.
pub(crate) fn identity(path: &Path) -> anyhow::Result<Identity> {
    let shown = path.display();
    if path.to_string_lossy().starts_with(SECRET) {
        bail!(
            "--identity takes a file; this is a secret key, which others may have seen on the command line"
        );
    }
    let (line, text, metadata) = only_line(path).context("cannot use the identity")?;
    let secret = match parse(SECRET, &text) {
        Ok(secret) => secret,
        Err(Flaw::OtherKind) => bail!(
            "{shown} holds a public key: dumps are opened with the secret one, which `savecore keygen` wrote"
        ),
        Err(flaw) => bail!("{shown}: line {line} is {flaw}"),
    };
    let open = metadata.mode() & 0o077;
    if metadata.is_file() && open != 0 {
        let mode = metadata.mode() & 0o777;
        warning(&format!("{shown} holds a secret key and others may use it (mode {mode:o}): `chmod 600` it"));
    }
    Ok(Identity(secret))
}

/// The only relevant line of a file: its number, from 1, and its text; and the file's metadata.
fn only_line(path: &Path) -> anyhow::Result<(usize, String, Metadata)> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot look at {shown}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() as u64 > MAX_FILE {
        bail!("{shown} is too large to be a key");
    }
    let lines = text.lines().map(str::trim).zip(1..);
    let mut lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let Some((line, number)) = lines.next() else { bail!("{shown} holds no key") };
    if lines.next().is_some() {
        bail!("{shown} holds more than one line; a key is a single line");
    }
    Ok((number, line.to_owned(), metadata))
}
