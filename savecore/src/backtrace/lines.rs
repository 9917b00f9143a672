//! Functions (including inlined ones), files and lines, from a kernel's DWARF (DWARF 5, sections 2.17, 3.3
//! and 6.2).
//!
//! All addresses are looked up together, so each unit is processed once, and only units with one of the
//! addresses are read: only a few units of `.debug_info`, by far the largest section, are in memory. The code
//! does not recurse, however deeply the file nests functions.
//!
//! One file: functions, inlined calls and lines are collected in one pass over a unit.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;

use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian, SectionId,
    Unit, UnitOffset, constants,
};

use super::elf::Elf;
use super::symbols::{MAX_NAME, readable};
use crate::text::cut;

type Slice<'b> = EndianSlice<'b, LittleEndian>;

/// Maximum number of units.
const MAX_UNITS: usize = 1 << 20;

/// Maximum size of a unit.
const MAX_UNIT: u64 = 256 << 20;

/// Maximum number of entries and rows to process, and of bytes of names to keep, in total: a few times the
/// numbers of the largest kernels.
const MAX_STEPS: u64 = 1 << 29;

/// Maximum number of references to follow for a name.
const MAX_REFERENCES: u32 = 16;

/// Maximum depth of inlined functions at one address.
const MAX_INLINED: usize = 64;

/// Maximum depth of modules and types.
const MAX_SCOPES: usize = 64;

/// A function at an address.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Call {
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u64>,
}

/// The sections other than `.debug_info`, in memory.
pub(super) struct Sections {
    bytes: HashMap<SectionId, Vec<u8>>,
    info: Info,
}

/// `.debug_info`: in the file, or decompressed.
enum Info {
    File { offset: u64, length: u64 },
    Memory(Vec<u8>),
}

impl Sections {
    /// The sections of a file; `None` if it has no DWARF.
    ///
    /// # Errors
    /// If they cannot be read, or are too large.
    pub(super) fn of(elf: &Elf) -> io::Result<Option<Sections>> {
        let Some(info) = elf.section(".debug_info") else { return Ok(None) };
        let info = match elf.place(info) {
            Some((offset, length)) => Info::File { offset, length },
            None => Info::Memory(elf.bytes(info)?),
        };
        let mut bytes = HashMap::new();
        for id in [
            SectionId::DebugAbbrev,
            SectionId::DebugAddr,
            SectionId::DebugLine,
            SectionId::DebugLineStr,
            SectionId::DebugRanges,
            SectionId::DebugRngLists,
            SectionId::DebugStr,
            SectionId::DebugStrOffsets,
        ] {
            bytes.insert(id, elf.named(id.name())?);
        }
        Ok(Some(Sections { bytes, info }))
    }
}

/// A unit's place in `.debug_info`.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    length: u64,
}

/// A file and a line in it.
type FileLine = (Option<String>, Option<u64>);

/// A function that contains an address, from the entries.
struct Found {
    depth: isize,
    name: Option<String>,
    /// Its call site, if it was inlined.
    from: Option<FileLine>,
}

/// The lines of a kernel.
pub(super) struct Lines<'b> {
    elf: &'b Elf,
    sections: &'b Sections,
    units: Vec<Place>,
    steps: u64,
}

impl<'b> Lines<'b> {
    /// Indexes the units.
    pub(super) fn new(elf: &'b Elf, sections: &'b Sections) -> Lines<'b> {
        let mut lines = Lines { elf, sections, units: Vec::new(), steps: 0 };
        let end = match &sections.info {
            Info::File { length, .. } => *length,
            Info::Memory(bytes) => bytes.len() as u64,
        };
        let mut offset = 0;
        while offset + 12 <= end && lines.units.len() < MAX_UNITS {
            let Some(head) = lines.info(offset, 12) else { break };
            let (words, _) = head.as_chunks::<4>();
            let word = |index: usize| words.get(index).map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
            let length = match word(0) {
                0xffff_ffff => (word(1) | word(2) << 32).saturating_add(12),
                length => length + 4,
            };
            if length > end - offset {
                break;
            }
            lines.units.push(Place { offset, length });
            offset += length;
        }
        lines
    }

    /// Bytes of `.debug_info`.
    fn info(&self, at: u64, length: u64) -> Option<Vec<u8>> {
        match &self.sections.info {
            Info::File { offset, .. } => self.elf.read(offset.checked_add(at)?, length).ok(),
            Info::Memory(bytes) => bytes
                .get(usize::try_from(at).ok()?..)?
                .get(..usize::try_from(length).ok()?)
                .map(<[u8]>::to_vec),
        }
    }

    fn unit_bytes(&self, place: Place) -> Option<Vec<u8>> {
        self.info(place.offset, place.length).filter(|_| place.length <= MAX_UNIT)
    }

    /// The sections, with one unit's bytes as `.debug_info`.
    fn dwarf<'u>(&'u self, unit: &'u [u8]) -> Dwarf<Slice<'u>> {
        let section = |id: SectionId| {
            let bytes = self.sections.bytes.get(&id).map(Vec::as_slice).unwrap_or_default();
            let bytes = if id == SectionId::DebugInfo { unit } else { bytes };
            Ok::<_, std::convert::Infallible>(EndianSlice::new(bytes, LittleEndian))
        };
        let Ok(dwarf) = Dwarf::load(section);
        dwarf
    }

    /// The functions at each of these addresses, innermost first; inlined functions precede the one that they
    /// were inlined into. Unknown addresses are missing from the result.
    pub(super) fn at(mut self, addresses: &[u64]) -> HashMap<u64, Vec<Call>> {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut calls = HashMap::new();
        for place in self.units.clone() {
            if sorted.is_empty() || self.steps >= MAX_STEPS {
                break;
            }
            let Some(bytes) = self.unit_bytes(place) else { continue };
            let mut steps = self.steps;
            let dwarf = self.dwarf(&bytes);
            // An error in one unit loses only that unit.
            let found = self.in_unit(&dwarf, &sorted, &mut steps).unwrap_or_default();
            self.steps = steps;
            sorted.retain(|address| !found.contains_key(address));
            calls.extend(found);
        }
        calls
    }

    /// Looks up the addresses that are in a unit.
    fn in_unit(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        addresses: &[u64],
        steps: &mut u64,
    ) -> gimli::Result<HashMap<u64, Vec<Call>>> {
        let Some(header) = dwarf.units().next()? else { return Ok(HashMap::new()) };
        let unit = dwarf.unit(header)?;
        *steps += 1;
        let mut ranges = dwarf.unit_ranges(&unit)?;
        let ours = within(addresses, || ranges.next(), steps)?;
        if ours.is_empty() {
            return Ok(HashMap::new());
        }
        let mut functions = self.functions(dwarf, &unit, &ours, steps).unwrap_or_default();
        let lines = lines(dwarf, &unit, &ours, steps).unwrap_or_default();
        let mut calls = HashMap::new();
        for address in ours {
            let mut place = lines.get(&address).cloned().unwrap_or_default();
            let mut chain = Vec::new();
            for found in functions.remove(&address).unwrap_or_default().into_iter().rev() {
                let (file, line) = std::mem::take(&mut place);
                chain.push(Call { function: found.name, file, line });
                place = found.from.unwrap_or_default();
            }
            if chain.is_empty() && place.0.is_some() {
                chain.push(Call { function: None, file: place.0, line: place.1 });
            }
            if !chain.is_empty() {
                calls.insert(address, chain);
            }
        }
        Ok(calls)
    }

    /// For each address the functions that contain it, outermost first.
    fn functions(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        unit: &Unit<Slice<'_>>,
        addresses: &[u64],
        steps: &mut u64,
    ) -> gimli::Result<HashMap<u64, Vec<Found>>> {
        let mut found: HashMap<u64, Vec<Found>> = HashMap::new();
        let mut entries = unit.entries();
        // The depth of the current function, if it contains one of the addresses.
        let mut inside: Option<isize> = None;
        // Names and depths of the enclosing modules and types.
        let mut scopes: Vec<(isize, String)> = Vec::new();
        while let Some(entry) = entries.next_dfs()? {
            *steps += 1;
            if *steps > MAX_STEPS {
                break;
            }
            let depth = entry.depth();
            inside = inside.filter(|function| depth > *function);
            while scopes.pop_if(|(scope, _)| *scope >= depth).is_some() {}
            let inlined = match entry.tag() {
                constants::DW_TAG_namespace | constants::DW_TAG_structure_type
                    if scopes.len() < MAX_SCOPES =>
                {
                    let name = entry.attr_value(constants::DW_AT_name);
                    let name = name.and_then(|name| dwarf.attr_string(unit, name).ok());
                    scopes.extend(name.map(|name| (depth, cut(&name.to_string_lossy(), MAX_NAME))));
                    continue;
                }
                constants::DW_TAG_subprogram => false,
                constants::DW_TAG_inlined_subroutine if inside.is_some() => true,
                _ => continue,
            };
            let mut ranges = dwarf.die_ranges(unit, entry)?;
            let hit = within(addresses, || ranges.next(), steps)?;
            if hit.is_empty() {
                continue;
            }
            if !inlined {
                inside = Some(depth);
            }
            let name = match own_name(dwarf, unit, entry, &scopes) {
                Some(name) => Some(name),
                None => self.name(dwarf, unit, entry, MAX_REFERENCES),
            };
            let from = inlined.then(|| call_place(dwarf, unit, entry));
            let file = from.as_ref().and_then(|(file, _)| file.as_ref());
            let bytes = name.iter().chain(file).map(String::len).sum::<usize>();
            *steps = steps.saturating_add((hit.len() as u64).saturating_mul(bytes as u64));
            if *steps > MAX_STEPS {
                break;
            }
            for address in hit {
                let chain = found.entry(address).or_default();
                if !inlined {
                    chain.clear();
                }
                // A sibling of the previous function is not inside it.
                chain.retain(|outer| outer.depth < depth);
                if chain.len() < MAX_INLINED {
                    chain.push(Found { depth, name: name.clone(), from: from.clone() });
                }
            }
        }
        Ok(found)
    }

    /// A function's name: its own, or that of the referenced entry.
    fn name(
        &self,
        dwarf: &Dwarf<Slice<'_>>,
        unit: &Unit<Slice<'_>>,
        entry: &DebuggingInformationEntry<Slice<'_>>,
        references: u32,
    ) -> Option<String> {
        let text = |name| {
            let text = dwarf.attr_string(unit, entry.attr_value(name)?).ok()?;
            Some(readable(&text.to_string_lossy()))
        };
        // The linkage name includes the path; the other one is short.
        let own = [constants::DW_AT_linkage_name, constants::DW_AT_MIPS_linkage_name, constants::DW_AT_name];
        if let Some(name) = own.into_iter().find_map(text) {
            return Some(name);
        }
        let references = references.checked_sub(1)?;
        let refers = [constants::DW_AT_abstract_origin, constants::DW_AT_specification];
        match refers.into_iter().find_map(|name| entry.attr_value(name))? {
            AttributeValue::UnitRef(offset) => self.name(dwarf, unit, &unit.entry(offset).ok()?, references),
            AttributeValue::DebugInfoRef(offset) => self.name_elsewhere(offset, references),
            _ => None,
        }
    }

    /// The name of a function in another unit.
    fn name_elsewhere(&self, offset: DebugInfoOffset, references: u32) -> Option<String> {
        let at = offset.0 as u64;
        let behind = self.units.partition_point(|unit| unit.offset <= at);
        let place = *self.units.get(behind.checked_sub(1)?)?;
        let bytes = self.unit_bytes(place)?;
        let dwarf = self.dwarf(&bytes);
        let unit = dwarf.unit(dwarf.units().next().ok()??).ok()?;
        let entry = unit.entry(UnitOffset((at - place.offset) as usize)).ok()?;
        self.name(&dwarf, &unit, &entry, references)
    }
}

/// A function's name with its modules, if its linkage name lacks them: a function exported under its plain
/// name, for assembly or the compiler to call.
fn own_name(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    entry: &DebuggingInformationEntry<Slice<'_>>,
    scopes: &[(isize, String)],
) -> Option<String> {
    let text = |name| dwarf.attr_string(unit, entry.attr_value(name)?).ok();
    let linkage = text(constants::DW_AT_linkage_name).map(|name| readable(&name.to_string_lossy()));
    let has_path = |name: &String| name.contains("::") && !name.starts_with("__rustc::");
    if scopes.is_empty() || linkage.as_ref().is_some_and(has_path) {
        return None;
    }
    let name = text(constants::DW_AT_name)?;
    let scopes = scopes.iter().map(|(_, scope)| scope.as_str());
    let name = name.to_string_lossy();
    let parts: Vec<&str> = scopes.chain([&*name]).collect();
    Some(cut(&parts.join("::"), MAX_NAME))
}

/// The addresses within any of the ranges from `next`, without duplicates, sorted. However many ranges
/// overlap, the memory used is at most a few times that of `sorted`.
fn within(
    sorted: &[u64],
    mut next: impl FnMut() -> gimli::Result<Option<gimli::Range>>,
    steps: &mut u64,
) -> gimli::Result<Vec<u64>> {
    // Indexes into `sorted`. Touching ranges are merged when there are more than could be separate.
    let mut hit: Vec<Range<usize>> = Vec::new();
    while let Some(range) = next()?.filter(|_| *steps <= MAX_STEPS) {
        *steps += 1;
        let places = between(sorted, range.begin, range.end);
        if !places.is_empty() {
            hit.push(places);
        }
        if hit.len() > 2 * sorted.len() {
            join(&mut hit);
        }
    }
    join(&mut hit);
    let addresses: Vec<u64> =
        hit.into_iter().filter_map(|places| sorted.get(places)).flatten().copied().collect();
    *steps += addresses.len() as u64;
    Ok(addresses)
}

/// Sorts ranges, and merges touching ones.
fn join(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
}

/// The part of `sorted` within a range. Functions that the linker removed stay in the file at address 0,
/// where kernels have no code.
fn between(sorted: &[u64], begin: u64, end: u64) -> Range<usize> {
    if begin == 0 {
        return 0..0;
    }
    let place = |limit: u64| sorted.partition_point(|address| *address < limit);
    place(begin)..place(end)
}

/// The call site of an inlined function.
fn call_place(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    entry: &DebuggingInformationEntry<Slice<'_>>,
) -> FileLine {
    let file = match entry.attr_value(constants::DW_AT_call_file) {
        Some(AttributeValue::FileIndex(file)) => Some(file),
        Some(value) => value.udata_value(),
        None => None,
    };
    let line = entry.attr_value(constants::DW_AT_call_line).and_then(|line| line.udata_value());
    (file.and_then(|file| file_name(dwarf, unit, file)), line.filter(|line| *line > 0))
}

/// A file's name, with its folders, as known to the compiler.
fn file_name(dwarf: &Dwarf<Slice<'_>>, unit: &Unit<Slice<'_>>, number: u64) -> Option<String> {
    let header = unit.line_program.as_ref()?.header();
    let file = header.file(number)?;
    let text = |value| {
        let text = dwarf.attr_string(unit, value).ok()?;
        Some(cut(&text.to_string_lossy(), MAX_NAME))
    };
    let name = text(file.path_name())?;
    if name.starts_with('/') {
        return Some(name);
    }
    // Folder 0 is the compilation folder; names below it are relative to it.
    let folder = (file.directory_index() > 0).then(|| file.directory(header).and_then(text)).flatten();
    Some(match folder {
        Some(folder) if !folder.is_empty() => format!("{folder}/{name}"),
        _ => name,
    })
}

/// File and line of each address.
fn lines(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    addresses: &[u64],
    steps: &mut u64,
) -> gimli::Result<BTreeMap<u64, FileLine>> {
    let Some(program) = unit.line_program.clone() else { return Ok(BTreeMap::new()) };
    let mut places = BTreeMap::new();
    let mut rows = program.rows();
    let mut before: Option<(u64, u64, Option<u64>)> = None;
    while let Some((_, row)) = rows.next_row()? {
        *steps += 1;
        if *steps > MAX_STEPS {
            break;
        }
        if let Some((begin, file, line)) = before {
            let within = addresses.get(between(addresses, begin, row.address())).unwrap_or_default();
            *steps += within.len() as u64;
            places.extend(within.iter().map(|address| (*address, (file, line))));
        }
        let line = row.line().map(|line| line.get());
        before = (!row.end_sequence()).then_some((row.address(), row.file_index(), line));
    }
    let named = places.into_iter().map_while(|(address, (file, line))| {
        let file = file_name(dwarf, unit, file);
        *steps += 1 + file.as_ref().map_or(0, String::len) as u64;
        (*steps <= MAX_STEPS).then_some((address, (file, line)))
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::symbols::Symbols;
    use super::*;

    /// The program of this test serves as a kernel: it has DWARF and symbols.
    fn own() -> Elf {
        Elf::open(&std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn functions_have_the_names_that_the_symbol_table_gives_them_and_lines_of_their_files() {
        let elf = own();
        let symbols = Symbols::of(&elf).unwrap();
        let ours: HashMap<u64, String> = symbols
            .all()
            .filter(|(_, name)| name.starts_with("savecore::backtrace::") && !name.contains("{{"))
            .take(200)
            .collect();
        // How many are not inlined is up to the compiler.
        assert!(ours.len() > 40, "{}", ours.len());
        let addresses: Vec<u64> = ours.keys().copied().collect();
        let sections = Sections::of(&elf).unwrap().unwrap();
        let calls = Lines::new(&elf, &sections).at(&addresses);
        let mut named = 0;
        for (address, name) in &ours {
            let Some(outer) = calls.get(address).and_then(|calls| calls.last()) else {
                panic!("nothing is known of {name}");
            };
            // DWARF with only line tables names a function only if something is inlined into it.
            if let Some(function) = outer.function.as_deref() {
                named += 1;
                // Some have their types in DWARF instead of a path.
                let short = function.split('<').next().unwrap_or_default();
                let bare = name.split("::<").next().unwrap_or_default();
                let is_end = !short.is_empty() && (name.ends_with(short) || bare.ends_with(short));
                assert!(name == function || is_end, "{function} for {name}");
            }
            let file = outer.file.as_deref().unwrap_or_default();
            assert!(Path::new(file).extension().is_some_and(|extension| extension == "rs"), "{file}");
            assert!(outer.line.is_some());
        }
        // How many those are is up to the compiler, too.
        assert!(named >= 20, "{named} of {} have names", ours.len());
    }

    proptest! {
        #[test]
        fn ranges_however_they_lie_name_each_address_once(
            sorted in prop::collection::btree_set(1_u64..300, 0..60),
            ranges in prop::collection::vec((0_u64..320, 0_u64..80), 0..400),
        ) {
            let sorted: Vec<u64> = sorted.into_iter().collect();
            let mut left = ranges.iter().map(|(begin, length)| gimli::Range { begin: *begin, end: begin + length });
            let hit = within(&sorted, || Ok(left.next()), &mut 0).unwrap();
            let is_in = |address: &&u64| {
                ranges.iter().any(|(begin, length)| *begin != 0 && (*begin..begin + length).contains(address))
            };
            let expected: Vec<u64> = sorted.iter().filter(is_in).copied().collect();
            prop_assert_eq!(hit, expected);
        }
    }

    #[test]
    fn a_million_ranges_that_all_have_all_addresses_are_gone_through_at_once() {
        let sorted: Vec<u64> = (1..=100_000).collect();
        let mut left = 0..1_000_000;
        let next = || Ok(left.next().map(|number| gimli::Range { begin: 1 + number % 2, end: 200_000 }));
        let mut steps = 0;
        // Expanding all ranges would take 800 GB.
        assert!(within(&sorted, next, &mut steps).unwrap() == sorted);
        assert!(steps < 2_000_000, "{steps}");
    }

    #[test]
    fn a_spoiled_unit_costs_its_names_and_no_more() {
        let elf = own();
        let addresses: Vec<u64> = Symbols::of(&elf).unwrap().all().map(|(address, _)| address).collect();
        let mut sections = Sections::of(&elf).unwrap().unwrap();
        // The smallest unit with a result, by itself.
        let lines = Lines::new(&elf, &sections);
        let mut units = lines.units.clone();
        units.sort_by_key(|unit| unit.length);
        let tells = |unit: &&Place| {
            let bytes = lines.unit_bytes(**unit).unwrap();
            let calls = lines.in_unit(&lines.dwarf(&bytes), &addresses, &mut 0).unwrap();
            calls.values().flatten().count() > 20
        };
        let unit = lines.unit_bytes(*units.iter().find(tells).unwrap()).unwrap();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut told = 0;
        for round in 0..200 {
            let mut spoiled = unit.clone();
            for _ in 0..=round % 12 {
                // The start, on which everything else depends, more often.
                let head = unit.len().min(100);
                let place = if random(3) == 0 { random(head) } else { random(unit.len()) };
                spoiled[place] = random(256) as u8;
            }
            sections.info = Info::Memory(spoiled);
            let calls = Lines::new(&elf, &sections).at(&addresses);
            assert!(calls.values().all(|calls| calls.len() <= MAX_INLINED));
            told += calls.len();
        }
        assert!(told > 0, "some harm leaves names");
    }

    #[test]
    fn what_is_no_code_has_no_lines() {
        let elf = own();
        let sections = Sections::of(&elf).unwrap().unwrap();
        assert_eq!(Lines::new(&elf, &sections).at(&[1, u64::MAX]), HashMap::new());
    }
}
