//! The common tests of all drivers, with fakes of their controllers: with any controller within its
//! specification, data read is data written; with any fault, the driver ends in time, writes no other block,
//! and works again after the next take-over. With coherent and non-coherent DMA.
//!
//! A driver joins by a [`Kind`](kind::Kind) and a line `battery!(…)`.
#![allow(missing_docs, unreachable_pub)]

mod ahci;
mod ata;
mod hostile;
mod kind;
mod made_up;
mod nvme;
mod properties;
mod run;
mod virtio;
