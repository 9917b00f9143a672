//! Whether a panic was caused by an oops.

/// Beginnings of panic messages that end an oops of the same task (Linux, arch/x86/kernel/dumpstack.c,
/// kernel/exit.c).
const ENDS: [&str; 5] = [
    "Fatal exception",
    "Aiee, killing interrupt handler",
    "Attempted to kill the idle task",
    "Attempted to kill init",
    "Oopsed too often",
];

/// Whether a panic with this message ends the last oops of the panicking task. All other panics are
/// independent: by default, a kernel continues after an oops.
pub fn ends_in(message: &str) -> bool {
    ENDS.iter().any(|end| message.starts_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_long_after_an_oops_is_not_the_oops() {
        for message in [
            "Fatal exception",
            "Fatal exception in interrupt",
            "Aiee, killing interrupt handler!",
            "Attempted to kill init! exitcode=0x00000009",
            "Oopsed too often (kernel.oops_limit is 10000)",
        ] {
            assert!(ends_in(message), "{message}");
        }
        for message in
            ["sysrq triggered crash", "softlockup: hung tasks", "hung_task: blocked tasks", "Hard LOCKUP", ""]
        {
            assert!(!ends_in(message), "{message}");
        }
    }
}
