//! Writes a dump as a compressed kdump, version 6, as makedumpfile does (makedumpfile, diskdump_mod.h and
//! IMPLEMENTATION): each page is compressed by itself, and a table has the place of each.
//!
//! | block | contents |
//! | --- | --- |
//! | 0 | header |
//! | 1 … | sub header, 104 bytes, and after it the notes, VMCOREINFO among them |
//! | then | bitmap 1: pages of RAM. Bitmap 2: those with an entry in the table |
//! | then | the table, in address order: 24 bytes per page |
//! | next multiple of 4096 | the zero page, shared by all zero pages; then all other pages |
//!
//! A page excluded on purpose is only in bitmap 1. A lost page has an entry without a place, and the header
//! says that the file is incomplete: so readers can tell the two apart.
//!
//! The table comes first, but is known last. Until then, two bytes per page with data are kept in memory.

mod header;
mod pack;
mod span;

use dumpcore::format::PAGE_SIZE;
use zerocopy::IntoBytes;

use self::header::{BLOCK, Header, INCOMPLETE, PageDesc, SubHeader, VERSION};
use self::pack::{Packed, Packer};
use self::span::{Span, What, spans};
use super::head::{GATHER, Head};
use super::linux::{Utsname, Vmcoreinfo};
use super::notes::{Notes, notes};
use super::{Compression, CoreOptions, Room, Selection, Sink, may_be_core, pages};
use crate::Error;
use crate::dump::{Dump, Fate};
use crate::source::Progress;

/// Limit of page frame numbers: 256 TiB, as far as 48 bits can address. Machines have memory at high
/// addresses: a Grace Hopper's GPU memory starts at 66 TiB. The bitmaps cover all pages up to the last, and
/// readers load them into memory, 8 GiB each at this limit, so a damaged dump with higher pages would make an
/// unusable file.
const MAX_PAGES: u64 = 1 << 36;

/// Bytes of a table that is always acceptable, and the maximum ratio of a larger one to the dump's size on
/// its partitions. A run of zeros takes 16 bytes of a dump and may cover 2^32 pages.
const SMALL_TABLE: u64 = 1 << 30;
const TABLE_TIMES: u64 = 16;

/// Statistics of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Pages with known contents, including zeros.
    pub pages: u64,
    /// Lost pages, which the file lists.
    pub lost: u64,
    /// Length of the file in bytes.
    pub length: u64,
}

/// The layout of the file as known before compression.
struct Plan {
    /// First page frame number after the last.
    max_mapnr: u64,
    /// Pages of RAM.
    ram: u64,
    /// Pages with bytes.
    data: u64,
    /// Pages of zeros.
    zeros: u64,
    lost: u64,
    notes: Notes,
    selection: Selection,
    /// Offset of bitmap 1, in bytes.
    bitmaps_at: u64,
    /// Bytes of a bitmap.
    bitmap: u64,
    table_at: u64,
    data_at: u64,
}

/// After block 0.
const SUB_HEADER_AT: u64 = BLOCK;
const NOTES_AT: u64 = SUB_HEADER_AT + size_of::<SubHeader>() as u64;

impl Plan {
    fn new(dump: &Dump<'_>, selection: Selection) -> Result<Plan, Error> {
        let (mut max_mapnr, mut ram, mut data, mut zeros, mut lost) = (0, 0, 0, 0, 0);
        for span in spans(dump, &selection) {
            let end = span.pfn.saturating_add(span.count);
            if end > MAX_PAGES {
                return Err(Error::TooHigh { end: end.saturating_mul(BLOCK) });
            }
            max_mapnr = end;
            ram += span.count;
            match span.what {
                What::Data => data += span.count,
                What::Zero => zeros += span.count,
                What::Lost => lost += span.count,
                What::LeftOut => {}
            }
        }
        let notes = notes(dump, &selection);
        let bitmaps_at = (NOTES_AT + notes.bytes.len() as u64).next_multiple_of(BLOCK);
        // Readers reject an empty bitmap as damage.
        let bitmap = max_mapnr.max(1).div_ceil(8).next_multiple_of(BLOCK);
        let table_at = bitmaps_at + 2 * bitmap;
        let listed = data + zeros + lost;
        let table = listed * size_of::<PageDesc>() as u64;
        let blocks = dump.parts().iter().map(|part| part.found.blocks()).fold(0, u64::saturating_add);
        if table > SMALL_TABLE.saturating_add(blocks.saturating_mul(TABLE_TIMES * BLOCK)) {
            return Err(Error::TooSparse { pages: listed, blocks });
        }
        let data_at = (table_at + table).next_multiple_of(BLOCK);
        Ok(Plan {
            max_mapnr,
            ram,
            data,
            zeros,
            lost,
            notes,
            selection,
            bitmaps_at,
            bitmap,
            table_at,
            data_at,
        })
    }

    fn header(&self, dump: &Dump<'_>, compression: Compression) -> Header {
        let header = &dump.found().header;
        let incomplete = self.lost > 0 || !dump.is_whole();
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).into();
        Header {
            signature: *b"KDUMP   ",
            version: VERSION.into(),
            utsname: Utsname::of(dump).0,
            padding: [0; 6],
            time: [header.wall_clock.get().cast_signed().into(), 0.into()],
            status: (compression.flag() | if incomplete { INCOMPLETE } else { 0 }).into(),
            block_size: (BLOCK as i32).into(),
            sub_header_blocks: ((self.bitmaps_at / BLOCK - 1) as i32).into(),
            bitmap_blocks: small(2 * self.bitmap / BLOCK),
            max_mapnr: small(self.max_mapnr),
            ram_blocks: small(self.ram),
            device_blocks: small(self.data + self.zeros),
            written_blocks: small(self.data + self.zeros),
            current_cpu: header.crashing_cpu.get().into(),
            cpus: (header.cpus.get().cast_signed()).into(),
        }
    }

    fn sub_header(&self, dump: &Dump<'_>) -> SubHeader {
        let place = |at: u64, length: usize| [at.into(), (length as u64).into()];
        let info = self.notes.vmcoreinfo.clone();
        let level = dump.found().header.level.get() & 0b1_1110 | self.selection.makedumpfile_bits();
        let phys_base = Vmcoreinfo::of(dump).and_then(|info| info.phys_base());
        SubHeader {
            phys_base: phys_base.unwrap_or(0).into(),
            // Zero pages are in the file, and the levels beyond are our own.
            dump_level: level.cast_signed().into(),
            split: 0.into(),
            split_pages: [0.into(); 2],
            vmcoreinfo: info.map_or(place(0, 0), |info| place(NOTES_AT + info.start as u64, info.len())),
            notes: place(NOTES_AT, self.notes.bytes.len()),
            eraseinfo: [0.into(); 2],
            split_pages_64: [0.into(); 2],
            max_mapnr: self.max_mapnr.into(),
        }
    }
}

/// Size limits of a compressed kdump of these pages. The compressed size is known only afterwards, but each
/// page has an entry.
///
/// # Errors
/// [`Error::TooHigh`] or [`Error::TooSparse`], if no file is possible.
pub fn room(dump: &Dump<'_>, selection: &Selection) -> Result<Room, Error> {
    let plan = Plan::new(dump, *selection)?;
    let least = (plan.data + plan.zeros) * size_of::<PageDesc>() as u64;
    Ok(Room { least, most: plan.data_at + (plan.data + 1) * BLOCK })
}

/// Writes a dump as a compressed kdump, in constant memory except for two bytes per page. The dump, the level
/// and `compression` alone determine the file's bytes.
///
/// # Errors
/// If the dump is encrypted and not open, this machine has too little memory for it, the file cannot be
/// written, the dump can no longer be read, its memory ends above 256 TiB, or it claims more memory than fits
/// its size.
pub fn write(
    dump: &Dump<'_>,
    compression: Compression,
    options: &CoreOptions,
    out: &mut dyn Sink,
    progress: &mut dyn Progress,
) -> Result<Written, Error> {
    may_be_core(dump)?;
    let plan = Plan::new(dump, Selection::of(dump, options.level))?;
    out.begin(plan.data_at, None).map_err(Error::Core)?;

    let mut bytes = Vec::new();
    let zeros = Packer::new(compression).any_page(&[0; PAGE_SIZE], &mut bytes);
    out.write_at(plan.data_at, &bytes).map_err(Error::Core)?;
    let mut end = plan.data_at + bytes.len() as u64;
    let mut packed: Vec<Vec<Packed>> = Vec::new();
    let mut data = plan.selection.runs(dump).filter(|run| run.fate == Fate::Data);
    progress.begin("writing the core", plan.data);
    pages::for_each(
        dump,
        &mut data,
        options.threads,
        &|| Packer::new(compression),
        &|packer, piece| {
            let pages = || piece.parts().filter_map(|part| part.bytes).flatten();
            let (mut bytes, mut packed) = (Vec::new(), Vec::with_capacity(pages().count()));
            packed.extend(pages().map(|page| packer.page(page, &mut bytes)));
            (bytes, packed)
        },
        progress,
        &mut |(bytes, sizes)| {
            out.write_at(end, &bytes).map_err(Error::Core)?;
            end += bytes.len() as u64;
            packed.push(sizes);
            Ok(())
        },
    )?;
    progress.end();

    let mut head = Head::new(&mut *out, 0);
    head.push(plan.header(dump, compression).as_bytes())?;
    head.seek(SUB_HEADER_AT)?;
    head.push(plan.sub_header(dump).as_bytes())?;
    head.push(&plan.notes.bytes)?;
    head.flush()?;
    bitmap(spans(dump, &plan.selection), out, plan.bitmaps_at)?;
    let kept = spans(dump, &plan.selection).filter(|span| span.what != What::LeftOut);
    bitmap(kept, out, plan.bitmaps_at + plan.bitmap)?;
    table(dump, out, &plan, Places { next: plan.data_at, packed: zeros, compression }, &packed)?;
    out.set_len(end).map_err(Error::Core)?;
    Ok(Written { pages: plan.data + plan.zeros, lost: plan.lost, length: end })
}

/// Places of pages, one after another.
struct Places {
    next: u64,
    /// The compressed zero page, which comes first.
    packed: Packed,
    compression: Compression,
}

impl Places {
    /// The entry of the next page.
    fn take(&mut self, packed: Packed) -> PageDesc {
        let offset = self.next;
        self.next += u64::from(packed.size());
        PageDesc {
            offset: offset.into(),
            size: packed.size().into(),
            flags: if packed.is_raw() { 0 } else { self.compression.flag() }.into(),
            page_flags: 0.into(),
        }
    }
}

/// Writes the table.
fn table(
    dump: &Dump<'_>,
    out: &mut dyn Sink,
    plan: &Plan,
    mut places: Places,
    packed: &[Vec<Packed>],
) -> Result<(), Error> {
    let zeros = places.take(places.packed);
    let mut packed = packed.iter().flatten();
    let mut table = Head::new(out, plan.table_at);
    for span in spans(dump, &plan.selection) {
        match span.what {
            What::LeftOut => {}
            What::Lost => {
                // Zeros.
                let length = span.count * size_of::<PageDesc>() as u64;
                table.seek(table.position() + length)?;
            }
            What::Zero => {
                for _ in 0..span.count {
                    table.push(zeros.as_bytes())?;
                }
            }
            What::Data => {
                for packed in packed.by_ref().take(span.count as usize) {
                    if *packed == Packed::ZERO {
                        table.push(zeros.as_bytes())?;
                    } else {
                        table.push(places.take(*packed).as_bytes())?;
                    }
                }
            }
        }
    }
    table.flush()
}

/// Writes a bitmap with a one for each page of `spans`. Parts without ones are not written.
fn bitmap(spans: impl Iterator<Item = Span>, out: &mut dyn Sink, at: u64) -> Result<(), Error> {
    let mut bits = Bits { out, at, first: 0, bytes: Vec::new() };
    for span in spans {
        bits.set(span.pfn, span.count)?;
    }
    bits.flush()
}

/// Sets ones in ascending order.
struct Bits<'o> {
    out: &'o mut dyn Sink,
    at: u64,
    /// Offset of the first byte of `bytes`.
    first: u64,
    bytes: Vec<u8>,
}

impl Bits<'_> {
    fn set(&mut self, from: u64, count: u64) -> Result<(), Error> {
        let (mut from, end) = (from, from + count);
        while from < end {
            let byte = from / 8;
            if byte >= self.first + GATHER as u64 || self.bytes.is_empty() {
                self.flush()?;
                self.first = byte - byte % GATHER as u64;
            }
            let inside = (byte - self.first) as usize;
            if self.bytes.len() <= inside {
                self.bytes.resize(inside + 1, 0);
            }
            if from % 8 == 0 && end - from >= 8 {
                let whole = ((end - from) / 8).min((GATHER - inside) as u64);
                self.bytes.resize(inside, 0);
                self.bytes.resize(inside + whole as usize, 0xff);
                from += whole * 8;
            } else {
                let until = end.min((byte + 1) * 8);
                for bit in from..until {
                    self.bytes[inside] |= 1 << (bit % 8);
                }
                from = until;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.bytes.is_empty() {
            self.out.write_at(self.at + self.first, &self.bytes).map_err(Error::Core)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bitmap_has_ones_exactly_where_they_were_set(
            spans in prop::collection::vec((prop_oneof![0..20_u64, 0..20_000_000_u64], 1..40_000_u64), 0..8)
        ) {
            let mut file = Vec::new();
            let mut bits = Bits { out: &mut file, at: 3, first: 0, bytes: Vec::new() };
            let (mut from, mut ends, mut ones) = (0, BTreeSet::new(), 0);
            for (gap, count) in &spans {
                from += gap;
                bits.set(from, *count).unwrap();
                ones += count;
                // The neighbours of borders, where mistakes are likely.
                ends.extend([(from.wrapping_sub(1), *gap == 0 && from > 0), (from, true)]);
                from += count;
                ends.extend([(from - 1, true)]);
            }
            bits.flush().unwrap();
            let total: u64 = file.iter().map(|byte| u64::from(byte.count_ones())).sum();
            prop_assert_eq!(total, ones);
            for (bit, one) in ends {
                let byte = file.get(3 + (bit / 8) as usize).copied().unwrap_or(0);
                prop_assert_eq!(byte >> (bit % 8) & 1 == 1 || bit == u64::MAX, one || bit == u64::MAX);
            }
        }
    }
}
