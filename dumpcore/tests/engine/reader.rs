//! Dumps on disk, parsed block by block.

use std::collections::BTreeMap;

use dumpcore::PageClass;
use dumpcore::format::chunk::{ChunkHeader, ChunkKind, Encoding, Packing, RunKind, Units};
use dumpcore::format::crypt::{Key, PublicKey, SecretKey, public_key};
use dumpcore::format::frame::Kind;
use dumpcore::format::header::{Header, Status};
use dumpcore::format::{BLOCK_SIZE, Block, PAGE_SIZE, checksum, pattern};

/// A page in a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    pub(crate) kind: RunKind,
    pub(crate) class: PageClass,
    pub(crate) pass: u32,
    /// Its bytes, if present.
    pub(crate) bytes: Option<Box<[u8; PAGE_SIZE]>>,
}

/// A chunk with a valid header and valid checksums.
pub(crate) struct Chunk {
    pub(crate) header: ChunkHeader,
    /// The used bytes of its payload, decrypted if it was encrypted.
    pub(crate) payload: Vec<u8>,
}

/// A dump, closed or not.
pub(crate) struct Dump {
    pub(crate) front: Header,
    /// The header after it, if it was closed.
    pub(crate) back: Option<Header>,
    pub(crate) chunks: Vec<Chunk>,
    /// The chunk at which reading ended because it cannot be decrypted.
    pub(crate) tampered: Option<u64>,
}

pub(crate) fn blocks(bytes: &[u8]) -> &[Block] {
    let (blocks, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    blocks
}

/// The key for data encrypted to the holder of `secret` with this ephemeral key.
pub(crate) fn key_of(secret: &SecretKey, ephemeral: &PublicKey) -> Key {
    Key::agree(secret, ephemeral, ephemeral, &public_key(secret)).expect("a proper key")
}

/// The chunk at block `at`, and whether it can be decrypted; `None` if there is no valid one.
fn chunk(partition: &[Block], at: u64, secret: Option<&SecretKey>) -> Option<Result<Chunk, u64>> {
    let header = ChunkHeader::parse(partition.get(at as usize)?).ok()?.clone();
    if header.block.get() != at {
        return None;
    }
    let stored = partition.get(at as usize + 1..)?.get(..header.payload_blocks.get() as usize)?;
    for (place, (block, sum)) in stored.iter().zip(header.sums()).enumerate() {
        if checksum::block_sum(block, at + 1 + place as u64) != sum.get() {
            return None;
        }
    }
    let mut payload = stored.as_flattened().to_vec();
    if header.is_encrypted()
        && let Some(secret) = secret
        && !key_of(secret, &header.ephemeral).open_chunk(&header, &mut payload)
    {
        return Some(Err(header.index.get()));
    }
    payload.truncate(header.payload_bytes.get() as usize);
    Some(Ok(Chunk { header, payload }))
}

/// All dumps of a partition, in order. After an unfinished one, searches for the next.
pub(crate) fn dumps(partition: &[u8], secret: Option<&SecretKey>) -> Vec<Dump> {
    let partition = blocks(partition);
    let mut found = Vec::new();
    let mut at = 1;
    while at < partition.len() as u64 {
        let Ok(front) = Header::parse(&partition[at as usize], Kind::Front) else {
            at += 1;
            continue;
        };
        let front = front.clone();
        // Modified data may say anything.
        if front.first_block.get() != at || front.end_block.get() > partition.len() as u64 {
            at += 1;
            continue;
        }
        let closed = front.status() != Status::InProgress;
        let end = if closed { front.end_block.get() - 1 } else { partition.len() as u64 };
        let mut dump = Dump { front, back: None, chunks: Vec::new(), tampered: None };
        at += 1;
        while at < end {
            match chunk(partition, at, secret) {
                Some(Ok(chunk)) if chunk.header.nonce == dump.front.nonce => {
                    at += u64::from(chunk.header.payload_blocks.get()) + 1;
                    dump.chunks.push(chunk);
                }
                Some(Err(index)) => {
                    dump.tampered = Some(index);
                    break;
                }
                _ => break,
            }
        }
        if closed {
            if at != end {
                dump.tampered = dump.tampered.or(Some(u64::MAX));
            }
            let back = &partition[end as usize];
            dump.back = Header::parse(back, Kind::Back).ok().cloned();
            at = end + 1;
        }
        found.push(dump);
    }
    found
}

/// Whether a block of a partition holds its pattern.
pub(crate) fn is_pattern(block: &Block, uuid: &[u8; 16], number: u64) -> bool {
    pattern::matches(block, uuid, number)
}

impl Dump {
    /// Whether it is complete.
    pub(crate) fn is_whole(&self) -> bool {
        self.front.status() == Status::Complete && self.is_closed()
    }

    /// Whether it was closed, with both headers equal and every chunk in its place.
    pub(crate) fn is_closed(&self) -> bool {
        self.tampered.is_none()
            && self.back.as_ref().is_some_and(|back| back.agrees_with(&self.front))
            && self.front.chunks.get() == self.chunks.len() as u64
    }
}

/// The pages in the chunks, each once.
///
/// # Panics
/// If a page occurs twice, or the payload does not match the runs.
pub(crate) fn pages<'c>(chunks: impl IntoIterator<Item = &'c Chunk>) -> BTreeMap<u64, Page> {
    let mut pages = BTreeMap::new();
    for Chunk { header, payload } in chunks {
        if header.kind() != ChunkKind::Memory {
            continue;
        }
        let mut contents = match header.encoding() {
            Encoding::Plain => payload.as_chunks::<PAGE_SIZE>().0.to_vec(),
            Encoding::Units => unpacked(payload),
        }
        .into_iter();
        for run in header.runs() {
            for pfn in run.pfn.get()..run.pfn.get() + u64::from(run.count.get()) {
                let bytes = (run.kind() == RunKind::Data)
                    .then(|| Box::new(contents.next().expect("a page in the payload for each in a run")));
                let page = Page { kind: run.kind(), class: run.class(), pass: header.pass.get(), bytes };
                assert!(pages.insert(pfn, page).is_none(), "page {pfn:#x} is named twice");
            }
        }
        assert_eq!(contents.count(), 0, "pages in the payload that no run names");
    }
    pages
}

/// The pages in the units of a payload.
fn unpacked(payload: &[u8]) -> Vec<[u8; PAGE_SIZE]> {
    let mut pages = Vec::new();
    let mut units = Units::new(payload);
    for unit in units.by_ref() {
        let stored = &payload[unit.offset..][..unit.stored];
        let raw = match unit.packing {
            Packing::Stored => stored.to_vec(),
            Packing::Lz4 => {
                let mut raw = vec![0; unit.pages * PAGE_SIZE];
                let length = lz4_flex::block::decompress_into(stored, &mut raw).expect("it unpacks");
                assert_eq!(length, raw.len(), "a unit has the pages that it says");
                raw
            }
        };
        let (whole, rest) = raw.as_chunks();
        assert!(rest.is_empty());
        pages.extend_from_slice(whole);
    }
    assert!(units.rest().is_empty(), "a unit that is none");
    pages
}

/// The part of a disk that is its dump partition.
pub(crate) fn partition(disk: &[u8], first: u64, blocks: u64) -> &[u8] {
    &disk[first as usize * BLOCK_SIZE..][..blocks as usize * BLOCK_SIZE]
}
