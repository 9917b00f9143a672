//! diskdump in a stock Linux kernel: what `shim.c` calls, and what it lends.

#![cfg_attr(target_os = "none", no_std)]
