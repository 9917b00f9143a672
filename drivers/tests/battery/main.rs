//! What every driver has to go through, with a fake of its controller: whatever the controller is like within its
//! specification, what was written is what is read; whatever it does wrong, the driver ends in time, has no other block
//! written, and works again after the next takeover. With coherent DMA, and without.
//!
//! A driver joins by a [`Kind`](kind::Kind), a line `battery!(…)`, and its name in [`kinds`].
#![allow(missing_docs, unreachable_pub)]

mod ahci;
mod ata;
mod found;
mod hostile;
mod kind;
mod kinds;
mod made_up;
mod nvme;
mod properties;
mod run;
mod virtio;
