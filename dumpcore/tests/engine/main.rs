//! The engine on a simulated machine: passes, levels, units, stripes, helpers, fail-over, encryption, live dumps. What is on
//! the disks is read by a small reader that has nothing from the engine but the format's structures.

mod encryption;
mod failover;
mod harm;
mod helpers;
mod live;
mod panics;
mod reader;
mod selection;
mod world;
