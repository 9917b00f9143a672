//! A map of physical memory: cells of equal size, coloured by the fate of their pages.

use maud::{Markup, html};

use crate::dump::{self, Dump, PageRun, hex};
use crate::text::size;
use dumpcore::format::note::RangeKind;

/// Cells per row.
const COLUMNS: u64 = 64;

/// Maximum number of rows; so at most 1,920 rectangles.
const ROWS: u64 = 30;

/// Maximum number of areas, separated by holes, that start a new row.
const AREAS: usize = 12;

/// Size of a cell, and the cells' origin, in the picture's units.
const CELL: u64 = 14;
const LEFT: u64 = 130;

/// The fate of pages, as coarse as in the picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Data,
    Zero,
    LeftOut,
    Arena,
    Encrypted,
    Missing,
    Damaged,
}

impl Fate {
    const ALL: [Fate; 7] =
        [Fate::Data, Fate::Zero, Fate::LeftOut, Fate::Arena, Fate::Encrypted, Fate::Missing, Fate::Damaged];

    fn of(fate: dump::Fate) -> Fate {
        match fate {
            dump::Fate::Data => Fate::Data,
            dump::Fate::Zero => Fate::Zero,
            dump::Fate::Arena => Fate::Arena,
            dump::Fate::Encrypted => Fate::Encrypted,
            dump::Fate::Damaged => Fate::Damaged,
            dump::Fate::Unreadable | dump::Fate::Faulted | dump::Fate::NotWritten => Fate::Missing,
            dump::Fate::Cache
            | dump::Fate::CachePrivate
            | dump::Fate::User
            | dump::Fate::Free
            | dump::Fate::NotKernel
            | dump::Fate::Device => Fate::LeftOut,
        }
    }

    /// Its style class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Fate::Data => "data",
            Fate::Zero => "zero",
            Fate::LeftOut => "leftout",
            Fate::Arena => "arena",
            Fate::Encrypted => "sealed",
            Fate::Missing => "missing",
            Fate::Damaged => "damaged",
        }
    }

    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fate::Data => "data",
            Fate::Zero => "zeros",
            Fate::LeftOut => "left out",
            Fate::Arena => "the dump's own",
            Fate::Encrypted => "encrypted",
            Fate::Missing => "missing",
            Fate::Damaged => "damaged",
        }
    }
}

/// A cell: its number of memory pages, and their fates.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Cell {
    memory: u64,
    fates: [u64; 7],
}

impl Cell {
    fn add(&mut self, fate: Fate, pages: u64) {
        let slot = &mut self.fates[fate as usize];
        *slot = slot.saturating_add(pages);
    }

    fn known(&self) -> u64 {
        self.fates.iter().fold(0, |sum, pages| sum.saturating_add(*pages))
    }

    /// The fate to show, and its share: the worst, since that must not be overlooked; or else data, if there
    /// is any; or else the most frequent. `None` if the cell has no memory.
    fn shows(&self) -> Option<(Fate, f64)> {
        let has = |fate: &Fate| self.fates[*fate as usize] > 0;
        let first = [Fate::Damaged, Fate::Missing, Fate::Encrypted, Fate::Data].into_iter().find(has);
        let most = || Fate::ALL.into_iter().filter(has).max_by_key(|fate| self.fates[*fate as usize]);
        let shown = first.or_else(most)?;
        Some((shown, self.fates[shown as usize] as f64 / self.known() as f64))
    }
}

/// Contiguous memory, apart from small holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Area {
    pfn: u64,
    end: u64,
}

/// The areas of memory; pieces with the smallest holes between them are joined.
fn areas(mut pieces: Vec<Area>) -> Vec<Area> {
    let mut holes: Vec<u64> = pieces.windows(2).map(|pair| pair[1].pfn - pair[0].end).collect();
    holes.sort_unstable_by(|one, other| other.cmp(one));
    // Larger holes separate areas; among holes of this size, the first ones.
    let limit = holes.get(AREAS - 1).copied().unwrap_or(0);
    let mut areas: Vec<Area> = Vec::new();
    for piece in pieces.drain(..) {
        match areas.last_mut() {
            Some(last) if piece.pfn - last.end <= limit => last.end = piece.end,
            _ => areas.push(piece),
        }
    }
    areas
}

/// The map's cells.
struct Map {
    areas: Vec<Area>,
    /// Pages per cell: a power of two.
    step: u64,
    /// The cells of each area.
    cells: Vec<Vec<Cell>>,
}

impl Map {
    fn new(areas: Vec<Area>) -> Map {
        let rows = |step: u64| -> u64 {
            let rows = areas.iter().map(|area| cells_of(area, step).div_ceil(COLUMNS));
            rows.fold(0, u64::saturating_add)
        };
        let step = (0..52).map(|bits| 1 << bits).find(|step| rows(*step) <= ROWS).unwrap_or(1 << 52);
        let cells = areas.iter().map(|area| vec![Cell::default(); cells_of(area, step) as usize]).collect();
        Map { areas, step, cells }
    }

    /// Passes each cell with some of the pages to `each`, with their number.
    fn on(&mut self, pfn: u64, end: u64, mut each: impl FnMut(&mut Cell, u64)) {
        let step = self.step;
        for (area, cells) in self.areas.iter().zip(&mut self.cells) {
            let base = area.pfn - area.pfn % step;
            let mut at = pfn.max(area.pfn);
            let end = end.min(area.end);
            while at < end {
                let cell = (at - base) / step;
                let until = end.min(base + (cell + 1) * step);
                if let Some(cell) = cells.get_mut(cell as usize) {
                    each(cell, until - at);
                }
                at = until;
            }
        }
    }
}

/// The number of cells of an area; they start at multiples of their size.
fn cells_of(area: &Area, step: u64) -> u64 {
    area.end.div_ceil(step) - area.pfn / step
}

fn map(dump: &Dump<'_>) -> Map {
    let ranges = &dump.facts().memory;
    let mut pieces: Vec<Area> = ranges.iter().map(|range| Area { pfn: range.pfn, end: range.end }).collect();
    if pieces.is_empty() {
        // Without a memory map, use the pages that the dump mentions.
        let whole = |first: PageRun, last: PageRun| Area { pfn: first.pfn, end: last.end() };
        let mut runs = dump.index().runs();
        pieces.extend(runs.next().map(|first| whole(first, runs.last().unwrap_or(first))));
    }
    let mut map = Map::new(areas(pieces));
    for run in dump.index().runs() {
        let fate = Fate::of(run.fate);
        map.on(run.pfn, run.end(), |cell, pages| cell.add(fate, pages));
    }
    for range in ranges {
        map.on(range.pfn, range.end, |cell, pages| {
            cell.memory = cell.memory.saturating_add(pages);
            if range.kind == RangeKind::Arena {
                // The dump does not mention most of it.
                let told = cell.fates[Fate::Arena as usize];
                cell.add(Fate::Arena, pages.saturating_sub(told));
            }
        });
    }
    for cell in map.cells.iter_mut().flatten() {
        let absent = cell.memory.saturating_sub(cell.known());
        cell.add(Fate::Missing, absent);
    }
    map
}

/// The picture.
pub(super) fn picture(dump: &Dump<'_>) -> Markup {
    let map = map(dump);
    let mut rows: Vec<(u64, &[Cell])> = Vec::new();
    for (area, cells) in map.areas.iter().zip(&map.cells) {
        let base = area.pfn - area.pfn % map.step;
        for (row, cells) in (0..).zip(cells.chunks(COLUMNS as usize)) {
            rows.push((base + row * COLUMNS * map.step, cells));
        }
    }
    let (width, height) = (LEFT + COLUMNS * CELL, rows.len() as u64 * CELL);
    html! {
        p.note {
            "Physical memory, a cell for each " (size(map.step.saturating_mul(4096)))
            ". A cell with damaged or missing pages shows that; otherwise, the more data there is, the darker the cell."
        }
        @if rows.is_empty() {
            p { "The memory map is not known." }
        } @else {
            div.scroll {
                svg #map viewBox=(format!("0 0 {width} {height}")) role="img" aria-label="Map of physical memory" {
                    @for (row, (pfn, cells)) in (0..).zip(&rows) {
                        @let y: u64 = row * CELL;
                        text x=(LEFT - 8) y=(y + CELL - 3) { (address(*pfn)) }
                        @for (column, cell) in (0..).zip(*cells) {
                            @if let Some((fate, share)) = cell.shows() {
                                @let x: u64 = LEFT + column * CELL;
                                @let opacity = (fate == Fate::Data).then(|| format!("{:.2}", 0.45 + 0.55 * share));
                                rect class=(fate.class()) fill-opacity=[opacity] x=(x) y=(y) width=(CELL - 1) height=(CELL - 1) {
                                    title { (tooltip(*pfn + column * map.step, map.step, cell)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn address(pfn: u64) -> String {
    format!("{:#x}", u128::from(pfn) << 12)
}

fn tooltip(pfn: u64, step: u64, cell: &Cell) -> String {
    let mut text = format!("{} to {}:", hex(pfn << 12), address(pfn.saturating_add(step)));
    for fate in Fate::ALL.into_iter().filter(|fate| cell.fates[*fate as usize] > 0) {
        text.push_str(&format!(" {} {},", size(cell.fates[fate as usize].saturating_mul(4096)), fate.name()));
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn pieces()(gaps in prop::collection::vec((1_u64..1 << 40, 1_u64..1 << 44), 1..200)) -> Vec<Area> {
            let mut at = 0;
            gaps.into_iter()
                .map(|(hole, length)| {
                    let pfn = at + hole;
                    at = pfn + length;
                    Area { pfn, end: at }
                })
                .collect()
        }
    }

    proptest! {
        #[test]
        fn whatever_memory_looks_like_the_map_is_small_and_has_a_cell_for_each_page(
            pieces in pieces(), picks in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 20)
        ) {
            let mut map = Map::new(areas(pieces.clone()));
            let cells: u64 = map.cells.iter().map(|cells| cells.len() as u64).sum();
            prop_assert!(cells <= ROWS * COLUMNS && map.areas.len() <= AREAS);
            for (piece, page) in picks {
                let piece = piece.get(&pieces);
                let pfn = piece.pfn + page % (piece.end - piece.pfn);
                let mut met = 0;
                map.on(pfn, pfn + 1, |_, pages| met += pages);
                prop_assert_eq!(met, 1);
            }
            // And none of them twice.
            let mut met = 0_u64;
            map.on(0, u64::MAX, |_, pages| met += pages);
            prop_assert_eq!(met, map.areas.iter().map(|area| area.end - area.pfn).sum::<u64>());
        }
    }

    #[test]
    fn a_cell_shows_the_worst_then_data_then_the_most() {
        let cell = |pages: [(Fate, u64); 2]| {
            let mut cell = Cell::default();
            for (fate, pages) in pages {
                cell.add(fate, pages);
            }
            cell.shows()
        };
        assert_eq!(cell([(Fate::LeftOut, 1), (Fate::Zero, 3)]), Some((Fate::Zero, 0.75)));
        assert_eq!(cell([(Fate::Data, 1), (Fate::Zero, 3)]), Some((Fate::Data, 0.25)));
        assert_eq!(cell([(Fate::Data, 9), (Fate::Missing, 1)]), Some((Fate::Missing, 0.1)));
        assert_eq!(cell([(Fate::Missing, 1), (Fate::Damaged, 1)]), Some((Fate::Damaged, 0.5)));
        assert_eq!(cell([(Fate::Data, 0), (Fate::Zero, 0)]), None);
    }
}
