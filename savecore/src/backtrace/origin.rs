//! The function of a backtrace that crashed, after those that only handle the crash.

use super::{By, CpuBacktrace};

/// Number of innermost functions to search for crash handling.
const DEPTH: usize = 24;

/// Functions of crash handling, by prefix: those of Rust's core library.
const BEGINNINGS: [&str; 9] = [
    "core::panicking::",
    "std::panicking::",
    "rust_begin_unwind",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "core::result::unwrap_failed",
    "core::slice::index::slice_",
    "core::cell::panic_",
    "core::str::slice_error_fail",
];

/// The same by the last part of the name: panic handlers, and Linux's functions between an exception and its
/// end (kernel/panic.c, and for each architecture its traps.c, fault.c, and entry code).
const NAMES: [&str; 46] = [
    "panic",
    "panic_handler",
    "panic_fmt",
    "vpanic",
    "nmi_panic",
    "begin_panic",
    "die",
    "__die",
    "die_kernel_fault",
    "oops_end",
    "oops_begin",
    "no_context",
    "page_fault_oops",
    "kernelmode_fixup_or_oops",
    "bad_area_nosemaphore",
    "__bad_area_nosemaphore",
    "do_user_addr_fault",
    "exc_page_fault",
    "asm_exc_page_fault",
    "exc_general_protection",
    "asm_exc_general_protection",
    "exc_invalid_op",
    "asm_exc_invalid_op",
    "handle_bug",
    "do_error_trap",
    "do_trap",
    "exc_double_fault",
    "asm_exc_double_fault",
    "crash_kexec",
    "__crash_kexec",
    "machine_kexec",
    "crash_setup_regs",
    "dump_stack",
    "dump_stack_lvl",
    "el1h_64_sync",
    "el1h_64_sync_handler",
    "el1_abort",
    "el1_dbg",
    "do_mem_abort",
    "do_translation_fault",
    "do_page_fault",
    "__do_kernel_fault",
    "bug_handler",
    "brk_handler",
    "do_debug_exception",
    "handle_exception",
];

impl CpuBacktrace {
    /// Index among [`calls`](CpuBacktrace::calls) of the function that crashed: the first one after the last
    /// crash handling function, and after leftovers of printing. A good guess; `None` if there are no calls.
    pub fn origin(&self) -> Option<usize> {
        let found: Vec<(By, Option<&str>)> =
            self.calls().map(|(frame, call)| (frame.by, call.map(|call| call.function.as_str()))).collect();
        let tells = |(_, name): &(By, Option<&str>)| name.is_some_and(tells_of_a_crash);
        let behind = found.iter().take(DEPTH).rposition(tells).map_or(0, |last| last + 1);
        // A frame found only by scanning is a leftover, unless the next frame follows from it.
        let is_sure = |number: usize| found.get(number).is_some_and(|(by, _)| *by != By::Scan);
        let sure = (behind..found.len()).find(|&number| is_sure(number) || is_sure(number + 1));
        let origin = sure.filter(|_| behind > 0).unwrap_or(behind);
        (!found.is_empty()).then(|| origin.min(found.len() - 1))
    }
}

fn tells_of_a_crash(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) || NAMES.contains(&last)
}

#[cfg(test)]
mod tests {
    use super::super::{By, Call, CpuBacktrace, End, Frame};

    /// A question mark before a name marks a frame found only by scanning.
    fn origin(names: &[&str]) -> Option<usize> {
        let frame = |name: &&str| Frame {
            address: "0x1".to_owned(),
            by: if name.starts_with('?') { By::Scan } else { By::FrameInformation },
            in_code: true,
            calls: vec![Call {
                function: name.trim_start_matches('?').to_owned(),
                offset: None,
                file: None,
                line: None,
                inlined: false,
            }],
        };
        let frames = names.iter().map(frame).collect();
        CpuBacktrace { cpu: 0, condition: "crashing", frames, end: End::Outermost }.origin()
    }

    #[test]
    fn the_function_that_crashed_is_behind_those_that_tell_of_it() {
        let rust = [
            "kernel::arch::here",
            "kernel::panic::panic",
            "core::panicking::panic_fmt",
            "kernel::free",
            "main",
        ];
        assert_eq!(origin(&rust), Some(3));
        let linux =
            ["crash_setup_regs", "panic", "sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger"];
        assert_eq!(origin(&linux), Some(2));
        assert_eq!(origin(&["kernel::read", "kernel::main"]), Some(0), "a fault is where it happened");
        assert_eq!(origin(&["core::panicking::panic"]), Some(0));
        assert_eq!(origin(&[]), None);
    }

    #[test]
    fn leftovers_on_the_stack_are_not_where_it_crashed() {
        let stale = ["vpanic", "panic", "?_printk", "?sysrq_handle_crash", "__handle_sysrq"];
        assert_eq!(origin(&stale), Some(3));
        assert_eq!(origin(&["panic", "?_printk", "?do_mount", "mount", "main"]), Some(2));
        // If no frame is sure, take the first; and without a panic before it, a scanned frame is left alone.
        assert_eq!(origin(&["panic", "?one", "?two"]), Some(1));
        assert_eq!(origin(&["?one", "?two", "three"]), Some(0));
    }
}
