//! Configuration space: every function is found, registers are read without side effects, and lies end the
//! walk.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use dump_drivers::bus::pci::{Address, Bar, Capability, Command, ConfigSpace, Ecam, Function, functions};
use dump_drivers::bus::registers::Registers;
use dump_drivers::fake::{DmaMemory, FakeDisk as _, Plan, VirtioFake};
use dump_drivers::virtio::blk;
use dumpcore::device::DeviceError;
use dumpcore::integrity::Digest;
use dumpcore::sim::cases;
use proptest::prelude::*;

/// Functions made only of bytes.
#[derive(Default)]
struct Machine {
    functions: Mutex<BTreeMap<u16, [u8; 256]>>,
}

impl Machine {
    fn with(functions: impl IntoIterator<Item = (Address, [u8; 256])>) -> Machine {
        Machine {
            functions: Mutex::new(functions.into_iter().map(|(at, bytes)| (at.bits(), bytes)).collect()),
        }
    }

    fn write(&self, address: Address, offset: u16, value: &[u8]) {
        if let Some(bytes) = self.functions.lock().unwrap().get_mut(&address.bits()) {
            bytes[usize::from(offset)..][..value.len()].copy_from_slice(value);
        }
    }
}

impl ConfigSpace for Machine {
    fn read32(&self, address: Address, offset: u16) -> u32 {
        assert!(offset.is_multiple_of(4));
        self.functions.lock().unwrap().get(&address.bits()).map_or(u32::MAX, |bytes| {
            u32::from_le_bytes(bytes[usize::from(offset)..][..4].try_into().unwrap())
        })
    }

    fn write16(&self, address: Address, offset: u16, value: u16) {
        self.write(address, offset, &value.to_le_bytes());
    }

    fn write32(&self, address: Address, offset: u16, value: u32) {
        self.write(address, offset, &value.to_le_bytes());
    }

    fn integrity(&self, _: &mut Digest) {}
}

fn bytes(vendor: u16, device: u16, multi: bool) -> [u8; 256] {
    let mut bytes = [0; 256];
    bytes[..2].copy_from_slice(&vendor.to_le_bytes());
    bytes[2..4].copy_from_slice(&device.to_le_bytes());
    bytes[0x0e] = if multi { 0x80 } else { 0 };
    bytes
}

fn at(bus: u8, device: u8, function: u8) -> Address {
    Address::new(bus, device, function).unwrap()
}

#[test]
fn every_function_is_found_once_on_all_buses() {
    let machine = Machine::with([
        (at(0, 0, 0), bytes(0x8086, 1, false)),
        (at(0, 31, 0), bytes(0x8086, 2, true)),
        (at(0, 31, 2), bytes(0x8086, 3, false)),
        (at(0, 31, 7), bytes(0x8086, 4, false)),
        // Other functions of a single-function device are echoes.
        (at(3, 4, 0), bytes(0x1af4, 0x1042, false)),
        (at(3, 4, 1), bytes(0x1af4, 0x1042, false)),
        // Without function 0 there is no device.
        (at(9, 1, 3), bytes(0x8086, 5, false)),
        (at(255, 31, 0), bytes(0x1af4, 0x1001, false)),
    ]);
    let found: Vec<u16> = functions(&machine).map(|function| function.address.bits()).collect();
    let expected = [at(0, 0, 0), at(0, 31, 0), at(0, 31, 2), at(0, 31, 7), at(3, 4, 0), at(255, 31, 0)];
    assert_eq!(found, expected.map(Address::bits));
    assert_eq!(blk::find(&machine, 0).unwrap().address, at(3, 4, 0));
    assert_eq!(blk::find(&machine, 1).unwrap().address.text(), *b"ff:1f.0");
    assert_eq!(blk::find(&machine, 2), None);
}

#[test]
fn base_addresses_are_decoded_as_the_specification_says() {
    let mut config = bytes(1, 2, false);
    let mut put = |index: usize, value: u32| {
        config[0x10 + index * 4..][..4].copy_from_slice(&value.to_le_bytes());
    };
    put(0, 0xfebd_1008);
    put(1, 0xc041);
    put(2, 0x1234_000c);
    put(3, 0x8);
    put(4, 0x2);
    put(5, 0x1000_0004);
    let machine = Machine::with([(at(0, 1, 0), config)]);
    let function = Function::at(&machine, at(0, 1, 0)).unwrap();
    let bar = |index| function.bar(&machine, index);
    assert_eq!(bar(0), Some(Bar::Memory { address: 0xfebd_1000, wide: false }));
    assert_eq!(bar(1), Some(Bar::Io { port: 0xc040 }));
    assert_eq!(bar(2), Some(Bar::Memory { address: 0x8_1234_0000, wide: true }));
    assert_eq!(bar(4), None, "below 1 MiB is reserved");
    assert_eq!(bar(5), None, "64 bits need a register more");
    assert_eq!([bar(6), bar(255)], [None, None]);
}

#[test]
fn sizing_restores_everything() {
    let fake = VirtioFake::virtio(DmaMemory::leak(4096), 1, Plan::default());
    let function = blk::find(&fake, 0).unwrap();
    let before: Vec<u32> = (0..64).map(|word| fake.read32(function.address, word * 4)).collect();
    assert_eq!(function.size_bar(&fake, 4), Ok(Some(0x4000)));
    assert_eq!(function.size_bar(&fake, 1), Ok(Some(0x1000)));
    assert_eq!(function.size_bar(&fake, 0), Ok(None));
    assert_eq!(function.size_bar(&fake, 6), Ok(None));
    let after: Vec<u32> = (0..64).map(|word| fake.read32(function.address, word * 4)).collect();
    assert_eq!(before, after);
    fake.unplug();
    assert_eq!(function.size_bar(&fake, 4), Err(DeviceError::Gone));
}

#[test]
fn changing_the_command_register_keeps_the_other_bits_and_is_checked() {
    let machine = Machine::with([(at(0, 1, 0), bytes(1, 2, false))]);
    machine.write16(at(0, 1, 0), 4, 0x0143);
    let function = Function::at(&machine, at(0, 1, 0)).unwrap();
    function.change_command(&machine, Command::BUS_MASTER | Command::INTERRUPT_DISABLE, Command::IO).unwrap();
    assert_eq!(function.command(&machine).bits(), 0x0546);
    machine.functions.lock().unwrap().clear();
    assert_eq!(function.change_command(&machine, Command::BUS_MASTER, Command::IO), Err(DeviceError::Gone));
    assert_eq!(function.check_present(&machine), Err(DeviceError::Gone));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(256), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_space_is_walked_in_bounded_steps(content in prop::collection::vec(any::<u8>(), 256)) {
        let mut config: [u8; 256] = content.try_into().unwrap();
        config[..2].copy_from_slice(&0x1af4_u16.to_le_bytes());
        let machine = Machine::with([(at(0, 1, 0), config)]);
        let function = Function::at(&machine, at(0, 1, 0)).unwrap();
        let walked: Vec<_> = function.capabilities(&machine).take(1_000).collect();
        prop_assert!(walked.len() <= 50);
        for (place, found) in walked.iter().enumerate() {
            match found {
                Ok(Capability { at, .. }) => prop_assert!(*at >= 0x40 && at.is_multiple_of(4)),
                Err(_) => prop_assert_eq!(place, walked.len() - 1, "an error ends the walk"),
            }
        }
        for index in 0..8 {
            let _ = function.bar(&machine, index);
        }
    }
}

/// Registers that record accesses.
struct Log {
    length: usize,
    touched: Mutex<Vec<(usize, u32)>>,
}

impl Registers for Log {
    fn length(&self) -> usize {
        self.length
    }
    fn read8(&self, _: usize) -> u8 {
        u8::MAX
    }
    fn read16(&self, _: usize) -> u16 {
        u16::MAX
    }
    fn read32(&self, offset: usize) -> u32 {
        if offset >= self.length { u32::MAX } else { offset as u32 }
    }
    fn read64(&self, _: usize) -> u64 {
        u64::MAX
    }
    fn write8(&self, _: usize, _: u8) {}
    fn write16(&self, offset: usize, value: u16) {
        self.touched.lock().unwrap().push((offset, value.into()));
    }
    fn write32(&self, offset: usize, value: u32) {
        self.touched.lock().unwrap().push((offset, value));
    }
    fn write64(&self, _: usize, _: u64) {}
    fn integrity(&self, _: &mut Digest) {}
}

#[test]
fn ecam_finds_each_register_of_its_buses_and_no_other() {
    let ecam = Ecam::new(Log { length: 2 << 20, touched: Mutex::default() }, 0x10);
    assert_eq!(ecam.read32(at(0x10, 0, 0), 0), 0);
    assert_eq!(ecam.read32(at(0x11, 31, 7), 0xffc), (1 << 20) + 31 * 0x8000 + 7 * 0x1000 + 0xffc);
    assert_eq!(ecam.read32(at(0x0f, 0, 0), 0), u32::MAX);
    assert_eq!(ecam.read32(at(0x12, 0, 0), 0), u32::MAX);
    assert_eq!(ecam.read32(at(0x10, 0, 0), 0x1000), u32::MAX);
    // Byte and word reads are extracted from the word around them.
    assert_eq!(ecam.read16(at(0x10, 2, 0), 0x06), 1);
    assert_eq!(ecam.read8(at(0x10, 2, 0), 0x35), 0);
    assert_eq!(ecam.read8(at(0x10, 2, 0), 0x34), 0x34);
}
