//! Which system calls each scenario makes, and what can happen at each.

use std::collections::BTreeMap;

use crate::scenario::{Place, Scenario, Trouble};
use crate::work::Run;

/// Possible errors of a call: those of disks, file systems, servers and limits, and missing system calls.
const ERRORS: &[&str] = &[
    "EIO",
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "EINTR",
    "EAGAIN",
    "EACCES",
    "EPERM",
    "EINVAL",
    "ENOSYS",
    "EOPNOTSUPP",
    "ENOMEM",
    "EMFILE",
    "ESTALE",
    "ENOENT",
    "EBADF",
];

/// Calls that cannot fail, or whose failure ends any program: those of the C library itself and of threads.
const NEVER: &[&str] = &[
    "execve",
    "exit",
    "exit_group",
    "futex",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "brk",
    "munmap",
    "mprotect",
    "mmap",
    "mremap",
    "madvise",
    "clone",
    "clone3",
    "rt_sigprocmask",
    "rt_sigaction",
    "rt_sigreturn",
    "sigaltstack",
    "sched_yield",
    "sched_getaffinity",
    "restart_syscall",
    // The standard library makes this call before main() and cannot do without it.
    "poll",
    // They cannot fail.
    "geteuid",
    "getpid",
    "gettid",
    // The standard library trusts their results.
    "clock_nanosleep",
    // The standard library ends a program whose closedir() fails, which no file system causes. Files are
    // synced before they are closed.
    "close",
];

/// A kill before each system call of each scenario.
pub(crate) fn kills(scenarios: &[Scenario]) -> Vec<Run> {
    each(scenarios, &[], |call, when| vec![format!("inject={call}:signal=KILL:when={when}")])
}

/// Each system call of each scenario fails once with each error, and with some errors from then on.
pub(crate) fn faults(scenarios: &[Scenario]) -> Vec<Run> {
    each(scenarios, NEVER, |call, when| {
        // fcntl is only called on files that are known to be open, so it cannot return EBADF.
        let likely = |error: &&&str| !(call == "fcntl" && **error == "EBADF");
        let once =
            ERRORS.iter().filter(likely).map(|error| format!("inject={call}:error={error}:when={when}"));
        let for_good = ["EIO", "ENOSPC", "EROFS"]
            .iter()
            .map(|error| format!("inject={call}:error={error}:when={when}+"));
        once.chain(for_good).collect()
    })
}

fn each(scenarios: &[Scenario], without: &[&str], rules: impl Fn(&str, u64) -> Vec<String>) -> Vec<Run> {
    let place = Place::new();
    let mut runs = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let counts = count(&scenario.trace(&place));
        for (call, count) in counts.iter().filter(|(call, _)| !without.contains(&call.as_str())) {
            for when in 1..=*count {
                for rule in rules(call, when) {
                    let trouble = Trouble::Rule { call: call.clone(), rule };
                    runs.push(Run { scenario: index, trouble });
                }
            }
        }
    }
    runs
}

/// Counts each call in strace's output, whose lines begin with `PID NAME(`. An interrupted call has a second
/// line, for its end, which does not count.
fn count(trace: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in trace.lines() {
        let said = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let Some((name, _)) = said.split_once('(') else { continue };
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}
