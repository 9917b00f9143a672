//! Whose view of a disk counts.
//!
//! On a device, the kernel's view counts: its sector size, its partitions. The table only adds names, and the
//! places of partitions on a disk without partitions from the kernel. An image has no kernel, so Linux's
//! rules apply; if these depend on the sector size, the user must decide.

use std::fs::File;
use std::io;

use dumpcore::format::BLOCK_SIZE;
use dumpcore::format::label::{Label, MIN_BLOCKS};
use dumpcore::table::{Fitness, Kind, NoTable, SECTOR_SIZES, Table, Trust};

use super::access::Access;
use super::sysfs::Device;
use super::table::{Disk, Layout, Slot, clause, describe, label_at, layout};
use crate::Error;

/// The user's options for reading the partition table of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Sector size of the table in bytes.
    pub sector_size: Option<u32>,
    /// Which table to use, whatever the first sector says.
    pub table: Option<Kind>,
}

/// The effective partitions of a disk or its image.
pub(super) struct View {
    /// The disk's name in messages.
    shown: String,
    /// The table. Two, if it is readable with both sector sizes; none, if this is not a disk with partitions.
    layouts: Vec<Layout>,
    /// A complete GUID table on an image that does not count, because it has no protective MBR.
    stale: Option<Layout>,
    /// The DOS table of an image that does not count, because there is also a GUID table.
    hybrid: Option<Layout>,
    /// Why there is no table, in a clause.
    why: String,
}

/// A chosen partition, and a remark for the user about the choice.
pub(super) struct Choice {
    pub(super) slot: Slot,
    pub(super) remark: Option<String>,
}

impl View {
    /// Reads the table of `file`, which is `device` if it is one.
    ///
    /// # Errors
    /// If the requested reading differs from the kernel's.
    pub(super) fn new(
        file: &File,
        device: Option<&Device>,
        reading: &Reading,
        shown: &str,
    ) -> Result<View, Error> {
        let mut view = View {
            shown: shown.to_owned(),
            layouts: Vec::new(),
            stale: None,
            hybrid: None,
            why: clause(&NoTable::Absent),
        };
        let Ok(mut disk) = Disk::new(file) else { return Ok(view) };
        let of_kernel = device.map(Device::sector_size);
        if let (Some(asked), Some(real)) = (reading.sector_size, of_kernel)
            && asked != real
        {
            return Err(view.bad(format!("the disk has sectors of {real} bytes: leave out --sector-size")));
        }
        let asked = reading.sector_size.or(of_kernel);
        let sizes = asked.map_or(SECTOR_SIZES.to_vec(), |size| vec![size]);
        view.read(&mut disk, &sizes, device.map_or(reading.table, |_| None));
        if let Some(device) = device {
            view.take_from_kernel(device);
            if reading.table.is_some_and(|kind| view.layouts.iter().any(|layout| layout.kind != Some(kind))) {
                return Err(view.bad("the kernel uses the other kind of table: leave out --table".to_owned()));
            }
        } else if reading.table.is_none() {
            view.look_aside(&mut disk, &sizes);
        }
        Ok(view)
    }

    /// Selects the table that fits best.
    fn read(&mut self, disk: &mut Disk<'_>, sizes: &[u32], kind: Option<Kind>) {
        let mut best = Fitness::Nowhere;
        let mut is_told = false;
        for size in sizes {
            let table = match kind {
                None => Table::read(disk, *size),
                Some(Kind::Gpt) => Table::gpt(disk, *size),
                Some(Kind::Dos) => Table::dos(disk, *size),
            };
            match table.and_then(|table| layout(disk, &table)) {
                Ok(layout) if self.layouts.is_empty() || layout.fitness > best => {
                    best = layout.fitness;
                    self.layouts = vec![layout];
                }
                Ok(layout) if layout.fitness == best && best > Fitness::Nowhere => self.layouts.push(layout),
                Ok(_) | Err(NoTable::Absent) => {}
                // The table's error is more informative than that there is none.
                Err(why) => {
                    if !is_told {
                        self.why = clause(&why);
                    }
                    is_told = !matches!(why, NoTable::Gone);
                }
            }
        }
    }

    /// Looks for tables of an image that other programs might use.
    fn look_aside(&mut self, disk: &mut Disk<'_>, sizes: &[u32]) {
        let is_guid = self.layouts.iter().any(|layout| layout.kind == Some(Kind::Gpt));
        for size in sizes {
            if is_guid {
                let table = Table::dos(disk, *size).and_then(|table| layout(disk, &table));
                self.hybrid = self.hybrid.take().or(table.ok());
                continue;
            }
            let whole = Table::gpt(disk, *size).ok().filter(|table| table.trust() == Trust::Whole);
            let table = whole.and_then(|table| layout(disk, &table).ok());
            self.stale = self.stale.take().or(table);
        }
        if self.layouts.is_empty() && self.stale.is_some() {
            self.why = UNPROTECTED.to_owned();
        }
    }

    /// If the kernel shows partitions, uses exactly these.
    fn take_from_kernel(&mut self, device: &Device) {
        let partitions = if device.is_partition { Vec::new() } else { device.partitions() };
        if partitions.is_empty() {
            return;
        }
        let of_kernel = |partition: &Device| {
            Some(Slot {
                number: partition.partition_number()?,
                name: String::new(),
                id: String::new(),
                kind: None,
                start: partition.start()?,
                length: partition.size,
                fault: None,
            })
        };
        let of_kernel: Vec<Slot> = partitions.iter().filter_map(of_kernel).collect();
        let mut layout = self.layouts.pop().unwrap_or(Layout {
            kind: None,
            sector_size: 512,
            fitness: Fitness::Whole,
            slots: Vec::new(),
            nests: Vec::new(),
        });
        let name = &device.name;
        let differs = format!(
            "`partprobe /dev/{name}` makes the kernel read the table again; or name the partition's own device"
        );
        for slot in &mut layout.slots {
            let Some(real) = of_kernel.iter().find(|real| real.number == slot.number) else {
                slot.fault = Some(format!("is in the table, but the kernel does not show it: {differs}"));
                continue;
            };
            if slot.is_at(real) {
                continue;
            }
            // If a partition extends beyond the end of the disk, Linux shows the part that exists.
            if slot.start == real.start && slot.end() > device.size.into() && real.end() == device.size.into()
            {
                slot.length = real.length;
                slot.fault = None;
                continue;
            }
            slot.fault = Some(format!(
                "is at bytes {} to {} by the table, and at {} to {} for the kernel: {differs}",
                slot.start,
                slot.end(),
                real.start,
                real.end(),
            ));
        }
        for mut real in of_kernel {
            // The kernel shows an extended partition as two sectors, for boot loaders.
            let is_container = real.length < MIN_BLOCKS * BLOCK_SIZE as u64;
            if is_container || layout.slots.iter().any(|slot| slot.number == real.number) {
                continue;
            }
            let is_nested = |slot: &&Slot| {
                layout.nests.contains(&slot.number) && slot.start <= real.start && real.end() <= slot.end()
            };
            let over = layout.slots.iter().filter(|slot| slot.overlaps(&real)).find(|slot| !is_nested(slot));
            real.fault = over.map(|slot| {
                format!("is no longer in the table, and overlaps partition {} there: {differs}", slot.number)
            });
            layout.slots.push(real);
        }
        layout.slots.sort_by_key(|slot| slot.number);
        self.layouts = vec![layout];
    }

    /// Whether this is a disk with partitions.
    pub(super) fn is_disk(&self) -> bool {
        !self.layouts.is_empty()
    }

    /// All partitions, if their places are unambiguous.
    pub(super) fn slots(&self) -> &[Slot] {
        match self.layouts.as_slice() {
            [layout] => &layout.slots,
            _ => &[],
        }
    }

    /// The selected partition; `None` if none is named, and this is not a disk with partitions. For a disk
    /// without a named partition, the only one with our label, except to format it.
    ///
    /// # Errors
    /// Without a table; without such a partition, or with several; if the partition is unusable: it does not
    /// start at a multiple of 4096 bytes, overlaps another, extends beyond the end of the disk, or is
    /// elsewhere for the kernel; and if the table has two different readings.
    pub(super) fn choose(
        &self,
        file: &File,
        partition: Option<&str>,
        access: Access,
    ) -> Result<Option<Choice>, Error> {
        let is_format = access == Access::Format;
        if !self.is_disk() {
            return if partition.is_some() || (is_format && self.stale.is_some()) {
                Err(self.bad(self.why.clone()))
            } else {
                Ok(None)
            };
        }
        let find = |layout: &Layout| match partition {
            Some(wanted) => self.find(layout, wanted),
            None if is_format => Err(self.which(layout)),
            None => self.only_labelled(file, layout),
        };
        let mut found: Vec<(&Layout, Result<Slot, Error>)> =
            self.layouts.iter().map(|layout| (layout, find(layout))).collect();
        if let [(one, Ok(a)), (other, Ok(b))] = found.as_slice()
            && a.is_at(b)
            && one.kind == other.kind
        {
            found.truncate(1);
        }
        if found.iter().all(|(_, found)| found.is_err()) {
            found.truncate(1);
        }
        if let [(one, a), (other, b)] = found.as_slice() {
            return Err(self.two_readings(
                &format!("with sectors of {} bytes {}", one.sector_size, outcome(a)),
                &format!("with {} {}", other.sector_size, outcome(b)),
                "--sector-size 512 or --sector-size 4096",
            ));
        }
        let Some((_, found)) = found.pop() else { return Ok(None) };
        self.consider_aside(found, partition, is_format).map(Some)
    }

    /// Whether an ignored table disagrees: then the user must confirm before writing, and otherwise gets a
    /// remark.
    fn consider_aside(
        &self,
        found: Result<Slot, Error>,
        partition: Option<&str>,
        is_format: bool,
    ) -> Result<Choice, Error> {
        let Some(wanted) = partition else { return Ok(Choice { slot: found?, remark: None }) };
        if let Some(stale) = &self.stale {
            let other = self.find(stale, wanted);
            let is_same = matches!((&found, &other), (Ok(a), Ok(b)) if a.is_at(b));
            if is_format && !is_same && (found.is_ok() || other.is_ok()) {
                return Err(self.two_readings(
                    &format!("by the DOS table {}", outcome(&found)),
                    &format!(
                        "by a GUID table, which Linux ignores because nothing protects it, {}",
                        outcome(&other)
                    ),
                    "--table dos or --table gpt",
                ));
            }
            let remark = (!is_same).then(|| {
                "there is a GUID table too, which is ignored, as Linux does, because nothing protects it"
                    .to_owned()
            });
            return Ok(Choice { slot: found?, remark });
        }
        let slot = found?;
        let shown_elsewhere = self.hybrid.as_ref().and_then(|hybrid| {
            let is_number = wanted.parse::<u32>().is_ok();
            hybrid.slots.iter().find(|other| is_number && other.is_meant(wanted) && !other.is_at(&slot))
        });
        let remark = shown_elsewhere.map(|other| {
            format!(
                "partition {} of the GUID table is used, as Linux does; in the DOS table beside it, {} is a different one",
                slot.number, other.number
            )
        });
        Ok(Choice { slot, remark })
    }

    /// The partition of a table named `wanted`.
    fn find(&self, layout: &Layout, wanted: &str) -> Result<Slot, Error> {
        let hits: Vec<&Slot> = layout.slots.iter().filter(|slot| slot.is_meant(wanted)).collect();
        let [slot] = hits.as_slice() else {
            let nests: Vec<String> = layout.nests.iter().map(u32::to_string).collect();
            let nested = match nests.as_slice() {
                [] => String::new(),
                nests => format!("; partitions inside of {} are not read", nests.join(", ")),
            };
            return Err(Error::NoSuchPartition {
                target: self.shown.clone(),
                wanted: wanted.escape_debug().to_string(),
                hits: hits.len(),
                present: describe(&layout.slots) + &nested,
            });
        };
        if let Some(fault) = &slot.fault {
            return Err(self.bad(format!("partition {} {fault}", slot.number)));
        }
        if !slot.start.is_multiple_of(BLOCK_SIZE as u64) {
            let target = format!("{}, partition {}", self.shown, wanted.escape_debug());
            return Err(Error::Unaligned { target, start: slot.start });
        }
        Ok((*slot).clone())
    }

    /// The only partition with our label; if there are several, the error lists them.
    fn only_labelled(&self, file: &File, layout: &Layout) -> Result<Slot, Error> {
        let mut slots: Vec<Slot> = labelled_of(file, layout).map(|(slot, _)| slot).collect();
        match slots.len() {
            1 => Ok(slots.remove(0)),
            0 => Err(self.which(layout)),
            _ => Err(Error::SeveralDumpPartitions { target: self.shown.clone(), present: describe(&slots) }),
        }
    }

    /// The usable partitions with our label.
    ///
    /// # Errors
    /// If their places are ambiguous.
    pub(super) fn labelled(&self, file: &File) -> Result<Vec<(Slot, Box<Label>)>, Error> {
        match self.layouts.as_slice() {
            [] => Ok(Vec::new()),
            [layout] => Ok(labelled_of(file, layout).collect()),
            [one, other, ..] => Err(self.two_readings(
                &format!("with sectors of {} bytes it has {}", one.sector_size, describe(&one.slots)),
                &format!("with {} it has {}", other.sector_size, describe(&other.slots)),
                "--sector-size 512 or --sector-size 4096",
            )),
        }
    }

    /// The error for a whole disk without a named partition.
    fn which(&self, layout: &Layout) -> Error {
        Error::WhichPartition { target: self.shown.clone(), present: describe(&layout.slots) }
    }

    fn two_readings(&self, one: &str, other: &str, options: &'static str) -> Error {
        Error::TwoReadings {
            target: self.shown.clone(),
            one: one.to_owned(),
            other: other.to_owned(),
            options,
        }
    }

    fn bad(&self, why: String) -> Error {
        Error::PartitionTable { target: self.shown.clone(), why }
    }
}

/// Why a GUID table does not count.
const UNPROTECTED: &str = "there is a GUID table, but Linux ignores it because the first sector does not protect it: add --table gpt to use it, or wipe it (`wipefs`)";

fn labelled_of(file: &File, layout: &Layout) -> impl Iterator<Item = (Slot, Box<Label>)> {
    let usable = |slot: &&Slot| slot.fault.is_none() && slot.start.is_multiple_of(BLOCK_SIZE as u64);
    let slots = layout.slots.iter().filter(usable);
    slots.filter_map(move |slot| label_at(file, slot.start).map(|label| (slot.clone(), label)))
}

/// The result of a reading, in words that follow "by the table".
fn outcome(found: &Result<Slot, Error>) -> String {
    match found {
        Ok(slot) => format!("it is partition {} at bytes {} to {}", slot.number, slot.start, slot.end()),
        Err(Error::NoSuchPartition { .. }) => "there is no partition of that name".to_owned(),
        Err(Error::WhichPartition { present, .. } | Error::SeveralDumpPartitions { present, .. }) => {
            format!("there are {present}")
        }
        Err(_) => "it cannot be used".to_owned(),
    }
}

/// The partition of an image named `wanted`: by number, GUID (for a DOS table: the disk's signature and the
/// number, as in `5f0e8a3c-02`) or name.
///
/// # Errors
/// Without a table, without such a partition, with several of that name, if the partition is unusable, or if
/// the table has two different readings.
pub fn find_partition(file: &File, target: &str, wanted: &str) -> Result<Slot, Error> {
    let view = View::new(file, None, &Reading::default(), target)?;
    match view.choose(file, Some(wanted), Access::Read)? {
        Some(choice) => Ok(choice.slot),
        None => Err(Error::Open { target: target.to_owned(), error: io::ErrorKind::NotFound.into() }),
    }
}
