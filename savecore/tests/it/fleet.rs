//! Many machines that store dumps in one bucket, and the documentation page about that.

// The store's own tests use all of it.
#[allow(dead_code)]
#[path = "../s3/server.rs"]
mod server;

use std::fs;
use std::process::{Command, Output};

use dumpcore::format::chunk::ChunkHeader;
use dumpcore::format::frame;
use dumpcore::format::header::Trigger;
use savecore::partition;
use tempfile::TempDir;

use self::server::{BUCKET, Fault, Server};
use crate::common::{Machine, Page, block_mut, close, is_packed, partition as formatted, write_dump};

/// Host, kernel, trigger, message, and time of a crash: `None` without a clock.
type Crash = (&'static str, &'static str, Trigger, &'static str, Option<u64>);

const CRASHES: [Crash; 8] = [
    ("web-1", "hobby 0.7.1", Trigger::Panic, "heap: double free of 0xffff8000_01c4a080", Some(1_793_600_000)),
    ("web-1", "hobby 0.7.1", Trigger::Panic, "heap: double free of 0xffff8000_03b11f40", Some(1_794_700_123)),
    ("web-2", "hobby 0.7.1", Trigger::Panic, "heap: double free of 0xffff8000_00ff7b40", Some(1_795_011_222)),
    ("web-3", "hobby 0.7.1", Trigger::Watchdog, "CPU 2 is stuck", Some(1_794_000_777)),
    ("db-1", "hobby 0.7.2", Trigger::Fault, "page fault at 0x18", Some(1_795_300_042)),
    ("db-1", "hobby 0.7.2", Trigger::Fault, "page fault at 0x18", Some(1_795_301_900)),
    ("db-2", "hobby 0.6.0", Trigger::Panic, "out of memory", Some(1_780_000_000)),
    ("old-clock", "hobby 0.7.2", Trigger::Nmi, "NMI: I/O check", None),
];

/// A machine of a fleet: its disk, and the state that its savecore keeps between runs.
struct Member {
    folder: TempDir,
}

impl Member {
    fn crashed(nonce: u64, (_, kernel, trigger, message, time): Crash) -> Member {
        let mut disk = formatted(300);
        let (system, message) = (kernel.to_owned(), message.to_owned());
        let machine = Machine { nonce, system, message, wall_clock: time.unwrap_or(0), ..Machine::small() };
        write_dump(&mut disk, 1, &machine);
        let mut header = (*partition::scan(&disk).unwrap().dumps[0].header).clone();
        header.trigger = (trigger as u32).into();
        close(&mut disk, None, &header);
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("disk"), disk).unwrap();
        Member { folder }
    }

    /// Saves the dump into the server's bucket.
    fn save(&self, server: &Server, host: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_savecore"));
        command.args(["save", "-o", &format!("s3://{BUCKET}/fleet"), "--host", host]);
        command.arg(self.folder.path().join("disk")).envs(server.environment());
        command.env("STATE_DIRECTORY", self.folder.path().join("state")).output().unwrap()
    }

    fn dumps(&self) -> usize {
        partition::scan(&fs::read(self.folder.path().join("disk")).unwrap()).unwrap().dumps.len()
    }
}

#[test]
fn a_dump_is_on_the_partition_until_all_of_it_is_in_the_store() {
    let server = Server::start();
    let machine = Member::crashed(1, CRASHES[0]);
    for file in ["claim.json", "vmcore.elf", "dmesg.txt", "info.json"] {
        for fault in [Fault::NoBucket, Fault::Status(403)] {
            server.fault(move |request| request.contains("PUT") && request.contains(file), [fault]);
            let output = machine.save(&server, "web-1");
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.starts_with("savecore: error: ") && error.lines().count() == 1, "{error}");
            assert!(error.contains(&format!("s3://{BUCKET}/fleet/host=web-1/date=2026-11-02/")), "{error}");
            assert!(error.contains(file), "{error}");
            assert_eq!(machine.dumps(), 1);
            assert!(!server.objects().iter().any(|name| name.ends_with("info.json")));
        }
    }
    server.revive();
    let output = machine.save(&server, "web-1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(machine.dumps(), 0);
    let folder = "fleet/host=web-1/date=2026-11-02/web-1-2026-11-02T061320Z";
    let files = ["dmesg.txt", "info.json", "vmcore.elf"].map(|file| format!("{folder}/{file}"));
    assert_eq!(server.objects(), files);
}

#[test]
fn what_claims_zeros_without_end_is_not_sent_as_zeros() {
    let server = Server::start();
    let mut machine = Machine::small();
    let mut far = |count: u32| {
        machine.pages.insert(1 << 21, Page::Zero);
        let mut disk = formatted(300);
        let chunks = write_dump(&mut disk, 1, &machine).chunks;
        let mut claimed = 0;
        for at in chunks {
            let block = block_mut(&mut disk, at);
            let header = ChunkHeader::of_mut(block).unwrap();
            let runs = header.run_count.get() as usize;
            for run in header.runs[..runs].iter_mut().filter(|run| run.pfn.get() == 1 << 21) {
                run.count = count.into();
                claimed += 1;
            }
            frame::set_checksum(block);
        }
        assert_eq!(claimed, 1);
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("disk"), disk).unwrap();
        Member { folder }
    };
    // 1.1 GiB, and a terabyte.
    for count in [300_000, 0x0fff_ffff] {
        let member = far(count);
        let output = member.save(&server, &format!("claims-{count}"));
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if count == 300_000 {
            assert!(output.status.success() && stdout.contains("vmcore.kdump"), "{stdout}{stderr}");
            assert!(stderr.contains("saved as kdump: as ELF it would have 1.1 GiB of zeros"), "{stderr}");
        } else {
            assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
            assert_eq!(member.dumps(), 1);
        }
    }
    let sent: u64 =
        server.objects().iter().map(|name| fs::metadata(server.bucket().join(name)).unwrap().len()).sum();
    assert!(sent < 64 << 20, "{sent} bytes were sent");
}

/// The first block of a page in the given language.
fn block<'p>(page: &'p str, language: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("there is one");
    rest.split_once("```").expect("it ends").0
}

#[test]
fn the_query_in_the_docs_says_what_they_say_it_does() {
    let python = std::env::var_os("DISKDUMP_PYTHON").unwrap_or("python3".into());
    let has_duckdb = Command::new(&python).args(["-c", "import duckdb"]).output();
    if !has_duckdb.is_ok_and(|output| output.status.success()) {
        return eprintln!("python3 has no duckdb: not tried");
    }
    if is_packed() {
        return eprintln!("the book is not in the package");
    }
    let server = Server::start();
    for (nonce, crash) in CRASHES.into_iter().enumerate() {
        let output = Member::crashed(nonce as u64, crash).save(&server, crash.0);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/guide/fleet.md")).unwrap();
    let bucket = server.bucket();
    let query = block(&page, "sql")
        .replace(&format!("s3://{BUCKET}"), bucket.to_str().unwrap())
        .replace("current_date", "DATE '2026-11-22'");
    let script = "import duckdb, sys\n\
        table = duckdb.sql(sys.argv[1])\n\
        print(*table.columns, sep='\\t')\n\
        for row in table.fetchall(): print(*row, sep='\\t')\n\
        print(table, file=sys.stderr)";
    let output = Command::new(&python).args(["-c", script, &query]).env("TZ", "UTC").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<Vec<&str>> = told.lines().map(|line| line.split('\t').collect()).collect();
    let cells =
        |line: &'_ str| line.trim_matches('│').split('│').map(|cell| cell.trim().to_owned()).collect();
    let mut shown: Vec<Vec<String>> =
        block(&page, "text").lines().filter(|line| line.starts_with('│')).map(cells).collect();
    // The line below the column names shows their types.
    shown.remove(1);
    assert_eq!(told, shown, "{}", String::from_utf8_lossy(&output.stderr));
}
