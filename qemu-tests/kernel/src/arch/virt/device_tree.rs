//! The device tree: the firmware's description of the machine.
//!
//! Specification: Devicetree Specification 0.4; for memory reserved by firmware, chapter 3.5.

use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::{NodeStandard, Status};
use dtoolkit::{Node as _, Property, ToCellInt};
use dumpcore::platform::RamRange;
use zeroize::Zeroize;

use super::random;
use crate::arch::paging::{self, direct};
use crate::memory::{FRAME, RamMap};

/// A node of the tree.
pub(crate) type Node = FdtNode<'static>;

/// Maximum nesting of nodes.
const DEPTH: usize = 16;
/// Maximum size of a tree in bytes, to detect a wrong address: the format's authors ask for no more than 2
/// MiB.
const MOST: u32 = 2 << 20;
/// The tree's magic number; the tree's size follows (5.2). Both are big-endian.
const MAGIC: u32 = 0xd00d_feed;

static TREE: spin::Once<Fdt<'static>> = spin::Once::new();

/// Reads the tree at this physical address and keeps it. Removes the secret in it, because the tree is dumped
/// like all memory.
///
/// # Safety
/// Once, on the boot CPU, on page tables that map this memory, which belongs to the tree for good.
pub(crate) unsafe fn read(physical: u64) -> Result<(), &'static str> {
    let start = direct(physical);
    if physical == 0 || !start.cast::<u32>().is_aligned() {
        return Err("there is no device tree");
    }
    // SAFETY: the caller promises that the tree is there; its header has 40 bytes.
    let [magic, size] = unsafe { start.cast::<[u32; 2]>().read_volatile() }.map(u32::from_be);
    if magic != MAGIC || size > MOST {
        return Err("there is no device tree where the firmware says");
    }
    // SAFETY: as above, now with its size.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, size as usize) };
    take_seed(bytes)?;
    let tree = Fdt::new(bytes).map_err(|_| "the device tree is damaged")?;
    TREE.call_once(|| tree);
    Ok(())
}

/// Moves the numbers in `/chosen/rng-seed` to the entropy pool and wipes them.
fn take_seed(tree: &mut [u8]) -> Result<(), &'static str> {
    let parsed = Fdt::new(tree).map_err(|_| "the device tree is damaged")?;
    let chosen = parsed.find_node("/chosen");
    let Some(seed) = chosen.and_then(|chosen| chosen.property("rng-seed")?.value_as::<&[u8]>().ok()) else {
        return Ok(());
    };
    random::stir(seed);
    let (at, length) = ((seed.as_ptr() as usize).wrapping_sub(tree.as_ptr() as usize), seed.len());
    tree.get_mut(at..at.saturating_add(length)).ok_or("the device tree is damaged")?.zeroize();
    Ok(())
}

/// The tree's own memory.
fn place() -> RamRange {
    let data = TREE.get().map_or(&[][..], |tree| tree.data());
    let start = paging::physical(data.as_ptr());
    RamRange { start, end: start + data.len() as u64 }
}

/// Calls `visit` for each enabled node, parents first, until it returns false.
fn walk(node: Node, depth: usize, visit: &mut dyn FnMut(Node) -> bool) -> bool {
    if depth == DEPTH || matches!(node.status(), Ok(Status::Disabled)) {
        return true;
    }
    visit(node) && node.children().all(|child| walk(child, depth + 1, visit))
}

fn each_node(visit: &mut dyn FnMut(Node) -> bool) {
    if let Some(tree) = TREE.get() {
        walk(tree.root(), 0, visit);
    }
}

/// The first node for which `is` holds.
fn find_by(is: impl Fn(&Node) -> bool) -> Option<Node> {
    let mut found = None;
    each_node(&mut |node| {
        found = is(&node).then_some(node);
        found.is_none()
    });
    found
}

/// Calls `visit` for each device of this kind.
pub(crate) fn each(compatible: &str, mut visit: impl FnMut(Node)) {
    each_node(&mut |node| {
        if node.is_compatible(compatible) {
            visit(node);
        }
        true
    });
}

/// The first device of this kind.
pub(crate) fn find(compatible: &str) -> Option<Node> {
    find_by(|node| node.is_compatible(compatible))
}

/// The node with this phandle.
pub(crate) fn by_handle(handle: u32) -> Option<Node> {
    find_by(|node| node.phandle() == Ok(Some(handle)))
}

/// The node at this path.
pub(crate) fn at(path: &str) -> Option<Node> {
    TREE.get()?.find_node(path)
}

/// Calls `visit` for each CPU that can be started, with its hardware number (`reg`).
pub(crate) fn each_cpu(mut visit: impl FnMut(Node, u64)) {
    for node in at("/cpus").into_iter().flat_map(|cpus| cpus.children()) {
        let usable = !matches!(node.status(), Ok(Status::Disabled | Status::Fail | Status::FailSss));
        if text(node, "device_type") == Some("cpu") && usable {
            let cells = cells(node, "reg").fold(0, |number, cell| number << 32 | u64::from(cell));
            visit(node, cells);
        }
    }
}

/// Physical address and size of a device's registers, by their index in `reg`.
pub(crate) fn registers(node: Node, index: usize) -> Option<(u64, u64)> {
    let window = node.reg().ok()??.nth(index)?;
    Some((window.address.to_int().ok()?, window.size.to_int().ok()?))
}

/// A property that is a list of 32-bit numbers.
pub(crate) fn cells(node: Node, property: &str) -> impl Iterator<Item = u32> + use<> {
    let bytes: &[u8] =
        node.property(property).and_then(|property| property.value_as().ok()).unwrap_or_default();
    bytes.as_chunks().0.iter().map(|cell| u32::from_be_bytes(*cell))
}

/// A property that is one 32-bit number.
pub(crate) fn number(node: Node, property: &str) -> Option<u32> {
    node.property(property)?.value_as().ok()
}

/// A property that is a string.
pub(crate) fn text(node: Node, property: &str) -> Option<&'static str> {
    node.property(property)?.value_as().ok()
}

/// The phandle of a node's child.
#[allow(dead_code, reason = "only riscv64 needs it")]
pub(crate) fn child_handle(node: Node, name: &str) -> Option<u32> {
    node.child(name)?.phandle().ok()?
}

/// The command line; empty if there is none.
pub(crate) fn command_line() -> &'static str {
    at("/chosen").and_then(|chosen| text(chosen, "bootargs")).unwrap_or_default()
}

/// RAM without reserved memory (3.5): the firmware protects that, and reading it faults.
pub(crate) fn ram() -> Result<RamMap, &'static str> {
    let mut ram = RamMap::new();
    let mut result = Ok(());
    each_node(&mut |node| {
        if text(node, "device_type") == Some("memory") {
            for (start, size) in (0..).map_while(|index| registers(node, index)) {
                result = ram.add(RamRange { start, end: start.saturating_add(size) });
            }
        }
        result.is_ok()
    });
    result?;
    for node in TREE.get().into_iter().flat_map(|tree| tree.reserved_memory()).flatten() {
        for (start, size) in (0..).map_while(|index| registers(*node, index)) {
            ram.remove(RamRange { start, end: start.saturating_add(size) })?;
        }
    }
    Ok(ram)
}

/// The parts of RAM that are taken, in whole frames: the tree itself, and its list of reservations (5.3).
pub(crate) fn taken() -> Result<RamMap, &'static str> {
    let mut taken = RamMap::new();
    let listed = TREE
        .get()
        .into_iter()
        .flat_map(|tree| tree.memory_reservations())
        .map(|entry| RamRange { start: entry.address(), end: entry.address().saturating_add(entry.size()) });
    let ranges = core::iter::once(place()).chain(listed);
    for range in ranges {
        // Rounded outwards: a frame is taken as a whole.
        let end = range.end.checked_next_multiple_of(FRAME).ok_or("memory is reserved that is none")?;
        taken.add(RamRange { start: range.start & !(FRAME - 1), end })?;
    }
    Ok(taken)
}

/// Register addresses of virtio devices that are not on a bus, in ascending order. A slot without a device
/// has device id 0.
pub(crate) fn virtio_mmio() -> &'static [u64] {
    static FOUND: spin::Once<Vec<u64>> = spin::Once::new();
    FOUND.call_once(|| {
        let mut found = Vec::new();
        each("virtio,mmio", |node| found.extend(registers(node, 0).map(|(address, _)| address)));
        found.sort_unstable();
        found
    })
}
