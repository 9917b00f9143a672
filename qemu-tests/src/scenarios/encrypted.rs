//! Encrypted dumps: no memory content can be read from the disk, and no change goes unnoticed.

use std::fs;

use anyhow::{Context, Result};
use dumpcore::format::checksum::block_sum;
use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::frame::{self, Kind};
use serde_json::Value;

use super::case::{Case, USUAL_BLOCKS, ensure, exit};
use super::judge::{crash, halt, info_with, is_whole, number, only, says, text};
use crate::image::Disk;
use crate::machine::disk_word;

/// Texts in the memory of every test kernel: witnesses, messages, names.
const KNOWN: [&[u8]; 4] = [
    b"panics, as the command line asks",
    b"the kernel remembers",
    // The witnesses' magic, as stored in memory.
    b"!SSENTIW",
    b"testkernel: up cpus=",
];

pub(super) fn encrypted(case: &Case) -> Result<String> {
    let keys = case.savecore.keygen("secret.key")?;
    let identity = keys.file.to_str().context("a folder whose name is not UTF-8")?;
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    case.savecore.format_for(&disk, &keys)?;
    let machine = case.machine(&disk, "panic").able().cpus(4).memory(128).word("fill=24");
    let halted = halt(case, &machine, "diskdump: complete", &disk, &["--identity", identity])?;
    is_whole(&halted.dump)?;
    says(&halted.dump, "encryption", "opened")?;
    ensure(halted.dump.get("authentic") == Some(&Value::Bool(true)), || {
        "the headers are not said to be authentic".to_owned()
    })?;
    let found = disk.finds(&KNOWN)?;
    ensure(found.is_none(), || {
        format!("`{}` stands on the disk", String::from_utf8_lossy(found.unwrap_or_default()))
    })?;

    // Without the key, only its completeness is known.
    let bare = only(case, &disk)?;
    says(&bare, "encryption", "sealed")?;
    says(&bare, "status", "complete")?;
    says(&bare, "message", "")?;
    ensure(number(&bare, "pages.data")? == 0, || "pages are said to be known without the key".to_owned())?;
    tampered(case, &disk, identity)?;
    let other = case.savecore.keygen("other.key")?;
    let wrong = other.file.to_str().context("a folder whose name is not UTF-8")?;
    let refused = case.savecore.expect(2, "info", &disk, &["--identity", wrong])?;
    ensure(refused.errors.contains("does not open dump 1"), || {
        format!("the wrong key was refused with `{}`", refused.errors)
    })?;

    // Copied away encrypted, which frees the partition; decrypted elsewhere.
    let (cores, answer) = case.savecore.save_from(&disk, &case.folder.join("encrypted"), &[])?;
    ensure(cores.is_empty(), || "a core was written without the key".to_owned())?;
    case.check_ready(&disk)?;
    let copies = answer.value.pointer("/dumps/0/copies").and_then(Value::as_array);
    let copy = copies.and_then(|copies| copies.first()?.as_str()).context("savecore names no raw copy")?;
    let copy = std::path::Path::new(copy);
    let (cores, _) = case.savecore.save_from(copy, &case.folder.join("cores"), &["--identity", identity])?;
    let compared = halted.equals(cores.first().context("no core was opened")?)?;
    fs::remove_file(copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    Ok(format!(
        "no known text on the disk; tampering found; carried away and opened: {} bytes, none differs",
        compared.bytes
    ))
}

/// A flipped bit is found without the key. With corrected checksums, it is found with the key.
fn tampered(case: &Case, disk: &Disk, identity: &str) -> Result<()> {
    let with_key = &["--identity", identity][..];
    let chunk = some_chunk(disk)?;
    let copy = disk.copy(&case.folder.join("tampered.raw"))?;
    let place = chunk + 3;
    copy.flip(place, 4711)?;
    for more in [&[][..], with_key] {
        let dump = info_with(case, &copy, 1, more)?.pop().context("no dump")?;
        ensure(dump.get("damaged") == Some(&Value::Bool(true)), || {
            format!("a flipped bit in block {place} was not found ({more:?})")
        })?;
    }
    // Now a change with corrected checksums.
    let sum = block_sum(&copy.read(place)?, place);
    let mut block = copy.read(chunk)?;
    let sums = ChunkHeader::of_mut(&mut block).map(|header| &mut header.sums).context("no chunk")?;
    sums.get_mut(2).context("a chunk of fewer than three blocks")?.set(sum);
    frame::set_checksum(&mut block);
    copy.write(chunk, &block)?;
    let bare = only(case, &copy)?;
    ensure(bare.get("damaged") == Some(&Value::Bool(false)), || {
        "the checksums were not set right".to_owned()
    })?;
    let opened = info_with(case, &copy, 1, with_key)?.pop().context("no dump")?;
    let damage = opened.pointer("/damage/0").map_or("", |damage| text(damage, "what")).to_owned();
    ensure(damage.contains("tampered") && opened.get("whole") == Some(&Value::Bool(false)), || {
        format!("block {place} was changed, and savecore says its damage is `{damage}`")
    })?;
    ensure(number(&opened, "pages.damaged")? > 0, || "no page is lost with a changed chunk".to_owned())
}

/// Block number of a memory chunk in the middle of the dump, with at least three payload blocks.
fn some_chunk(disk: &Disk) -> Result<u64> {
    for number in 2000..disk.dump.blocks {
        let block = disk.read(number)?;
        if Kind::of(&block) == Some(Kind::Chunk)
            && let Ok(header) = ChunkHeader::parse(&block)
            && header.block.get() == number
            && header.sums().len() > 3
        {
            return Ok(number);
        }
    }
    anyhow::bail!("there is no chunk behind block 2000")
}

pub(super) fn shared(case: &Case) -> Result<String> {
    let keys = case.savecore.keygen("secret.key")?;
    let identity = keys.file.to_str().context("a folder whose name is not UTF-8")?;
    let disk = case.blank("disk", USUAL_BLOCKS)?;
    case.savecore.format_for(&disk, &keys)?;
    let recipient = disk_word(0, &format!("recipient={}", keys.digits()));
    let unlooked = case.unlooked(&disk, "panic")?.able();
    // The label was not read before the crash; it demands encryption, and there was no key.
    let before = disk.fingerprint()?;
    let crashed = crash(case, &unlooked, "without", exit::REFUSED)?;
    let why = crashed.said("refused")?.trim_start_matches("diskdump: ").to_owned();
    ensure(disk.fingerprint()? == before, || "a refused dump changed the image".to_owned())?;
    crash(case, &unlooked.word(recipient), "with", exit::COMPLETE)?;
    let dump = info_with(case, &disk, 1, &["--identity", identity])?.pop().context("no dump")?;
    is_whole(&dump)?;
    says(&dump, "encryption", "opened")?;
    Ok(format!("without the key {why}; with it {} pages are opened", number(&dump, "pages.data")?))
}

pub(super) fn plain_is_found(case: &Case) -> Result<String> {
    // The search that finds nothing in an encrypted dump finds all of it in an unencrypted one.
    let disk = case.formatted("disk", USUAL_BLOCKS)?;
    let machine = case.machine(&disk, "panic").word("encoding=plain");
    crash(case, &machine, "crash", exit::COMPLETE)?;
    for text in KNOWN {
        let found = disk.finds(&[text])?;
        ensure(found.is_some(), || format!("`{}` is not found", String::from_utf8_lossy(text)))?;
    }
    Ok(format!("{} known texts found", KNOWN.len()))
}
