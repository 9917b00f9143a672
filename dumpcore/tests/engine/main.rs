//! The engine on a simulated machine: passes, levels, units, stripes, helpers, fail-over, encryption, live
//! dumps. A small reader checks the disks; it shares nothing with the engine except the format's structures.

mod encryption;
mod failover;
mod harm;
mod helpers;
mod live;
mod panics;
mod reader;
mod selection;
mod world;
