//! Which panic an oops led to.

/// How the messages of panics begin that are the end of an oops of the same task (Linux, arch/x86/kernel/dumpstack.c, kernel/exit.c).
const ENDS: [&str; 5] = [
    "Fatal exception",
    "Aiee, killing interrupt handler",
    "Attempted to kill the idle task",
    "Attempted to kill init",
    "Oopsed too often",
];

/// Whether a panic with this message is the end of the last oops of the task that panics. All other panics come later, by themselves:
/// a kernel goes on after an oops unless it was told otherwise.
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
