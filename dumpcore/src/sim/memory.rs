//! Memory of the simulated machine: pages, their classes, and their faults.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::numbers::Numbers;
use crate::format::PAGE_SIZE;
use crate::platform::{ClassRun, PageClass};

const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// An address where reading faults on any host: the first pages of a process are never mapped.
const NOWHERE: usize = 0x1000;

/// A page. Its words are atomic, because the kernel may change them while another thread reads.
#[repr(C, align(4096))]
pub(super) struct Page([AtomicU64; WORDS]);

static ZERO_PAGE: Page = Page::new();

thread_local! {
    /// The single mapping through which this CPU sees all pages.
    static WINDOW: &'static Page = Box::leak(Box::new(Page::new()));
    /// The page that this CPU was given last.
    static GIVEN: Cell<Given> = const { Cell::new(Given { address: 0, pfn: 0 }) };
}

#[derive(Clone, Copy)]
struct Given {
    address: usize,
    pfn: u64,
}

impl Page {
    const fn new() -> Page {
        Page([const { AtomicU64::new(0) }; WORDS])
    }

    fn fill(&self, words: impl Iterator<Item = u64>) {
        for (word, value) in self.0.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn bytes(&self) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        for (slot, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.0) {
            *slot = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        bytes
    }
}

/// What a read of a page finds.
pub(super) enum Content {
    Page(&'static Page),
    /// Its words differ at every read.
    Restless,
    /// Reading it faults.
    Faulty,
    /// It cannot be reached.
    Unreadable,
}

/// All pages.
#[derive(Default)]
pub(super) struct Memory {
    /// The pages that were ever written. They are never freed, because a late CPU may still have one.
    pages: RwLock<BTreeMap<u64, &'static Page>>,
    unreadable: BTreeSet<u64>,
    faulty: BTreeSet<u64>,
    restless: BTreeSet<u64>,
    versions: AtomicU64,
    /// The first page of each run, and its class.
    classes: BTreeMap<u64, PageClass>,
    longest_run: Option<u64>,
    pub(super) one_window: bool,
}

impl Memory {
    fn page(&self, pfn: u64) -> &'static Page {
        let known = self.pages.read().unwrap_or_else(PoisonError::into_inner).get(&pfn).copied();
        known.unwrap_or_else(|| {
            let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
            pages.entry(pfn).or_insert_with(|| Box::leak(Box::new(Page::new())))
        })
    }

    pub(super) fn fill(&self, pfn: u64, words: impl Iterator<Item = u64>) {
        self.page(pfn).fill(words);
    }

    pub(super) fn make_unreadable(&mut self, pfn: u64) {
        self.unreadable.insert(pfn);
    }

    pub(super) fn make_faulty(&mut self, pfn: u64) {
        self.faulty.insert(pfn);
    }

    pub(super) fn make_restless(&mut self, pfn: u64) {
        self.restless.insert(pfn);
    }

    pub(super) fn content(&self, pfn: u64) -> Content {
        if self.unreadable.contains(&pfn) {
            Content::Unreadable
        } else if self.faulty.contains(&pfn) {
            Content::Faulty
        } else if self.restless.contains(&pfn) {
            Content::Restless
        } else {
            let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
            Content::Page(pages.get(&pfn).copied().unwrap_or(&ZERO_PAGE))
        }
    }

    pub(super) fn bytes(&self, pfn: u64) -> Option<[u8; PAGE_SIZE]> {
        match self.content(pfn) {
            Content::Page(page) => Some(page.bytes()),
            Content::Restless | Content::Faulty | Content::Unreadable => None,
        }
    }

    /// Gives this CPU a page to read.
    pub(super) fn give(&self, pfn: u64, stays: bool) -> Option<NonNull<u8>> {
        let address = match self.content(pfn) {
            Content::Unreadable => None,
            Content::Faulty => NonNull::new(core::ptr::without_provenance_mut(NOWHERE)),
            Content::Page(page) if stays || !self.one_window => Some(NonNull::from(page).cast()),
            Content::Page(page) => {
                WINDOW.with(|window| window.fill(page.0.iter().map(|word| word.load(Ordering::Relaxed))));
                Some(WINDOW.with(|window| NonNull::from(*window).cast()))
            }
            Content::Restless => {
                self.change_window(pfn);
                Some(WINDOW.with(|window| NonNull::from(*window).cast()))
            }
        };
        let address_number = address.map_or(0, |address| address.addr().get());
        GIVEN.set(Given { address: address_number, pfn });
        address
    }

    /// Puts the next version of a restless page into this CPU's window.
    fn change_window(&self, pfn: u64) {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        WINDOW.with(|window| window.fill(restless_words(pfn, version)));
    }

    /// Copies the page that this CPU was given last. Returns `false`, with half of it in `to`, if reading it
    /// faults.
    pub(super) fn copy_given(&self, from: NonNull<u8>, to: &mut [u8; PAGE_SIZE]) -> bool {
        let given = GIVEN.get();
        assert_eq!(given.address, from.addr().get(), "a copy of another page than the one given last");
        match self.content(given.pfn) {
            Content::Restless => {
                self.change_window(given.pfn);
                *to = WINDOW.with(|window| window.bytes());
            }
            Content::Page(page) => *to = page.bytes(),
            Content::Faulty | Content::Unreadable => {
                to[..PAGE_SIZE / 2].fill(0x66);
                return false;
            }
        }
        true
    }

    pub(super) fn set_class(&mut self, pfns: Range<u64>, class: PageClass) {
        let behind = self.class(pfns.end).class;
        self.classes.retain(|start, _| !pfns.contains(start));
        self.classes.insert(pfns.start, class);
        self.classes.entry(pfns.end).or_insert(behind);
    }

    pub(super) fn set_longest_run(&mut self, longest: u64) {
        self.longest_run = Some(longest);
    }

    pub(super) fn class(&self, pfn: u64) -> ClassRun {
        let class = self.classes.range(..=pfn).next_back().map_or(PageClass::Unknown, |(_, class)| *class);
        let next = self.classes.range(pfn + 1..).find(|(_, next)| **next != class).map(|(start, _)| *start);
        let whole = next.map_or(u64::MAX, |next| next - pfn);
        let pages = self.longest_run.map_or(whole, |longest| whole.min(Numbers::new(pfn).below(longest + 1)));
        ClassRun { class, pages }
    }
}

/// The content of a restless page at its `version`-th read.
fn restless_words(pfn: u64, version: u64) -> impl Iterator<Item = u64> {
    let mut numbers = Numbers::new(pfn.rotate_left(32) ^ version);
    // Half of it compresses.
    [version].into_iter().chain(core::iter::repeat_with(move || numbers.number() & 0xffff_ffff))
}

/// Whether these bytes are the content of a restless page at one moment.
pub(super) fn is_restless_version(pfn: u64, bytes: &[u8; PAGE_SIZE]) -> bool {
    let words = || bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    words().next().is_some_and(|version| version > 0 && words().eq(restless_words(pfn, version).take(WORDS)))
}
