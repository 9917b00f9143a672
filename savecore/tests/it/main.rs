//! Tests of savecore as a library and as a command, against dumps made from the format's definition.

mod arming;
mod cli;
mod common;
mod core;
mod damage;
mod encrypted;
mod facts;
#[cfg(feature = "object-store")]
mod fleet;
mod fuzzed;
mod judged_by_qemu;
mod kdump;
mod lay;
mod linux;
mod pages;
mod roundtrip;
mod sources;
mod stripes;
mod tables;
mod translated_by_qemu;
mod units;
mod unreadable;
