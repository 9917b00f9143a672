#[path = "../../../tests/s3/server.rs"]
mod server;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use self::server::{BUCKET, Fault, Server};
use super::*;
use crate::Error;
use crate::store::crash;

const CORE: &str = "vmcore.elf";
const FOLDER: &str = "fleet/a/host=web-1/date=2023-11-14/web-1-2023-11-14T221320Z";
/// What parts of a core are called by in requests.
const PARTS: &str = "partNumber=";

/// A machine that stores into the server, and keeps how far it got.
struct Machine {
    state: TempDir,
    environment: Vec<(String, String)>,
    patience: Duration,
}

impl Machine {
    fn new(server: &Server) -> Machine {
        let environment = server.environment();
        Machine { state: TempDir::new().unwrap(), environment, patience: PATIENT }
    }

    fn open(&self) -> Objects {
        let (patience, state) = (Some(self.patience), Some(self.state.path().to_owned()));
        let limits = Limits { patience, state, ..Limits::default() };
        Objects::open(&format!("s3://{BUCKET}/fleet/a/"), &limits, &self.environment).unwrap()
    }

    /// Stores what cannot be stored.
    fn fail(&mut self, crash: &Crash, core: &Core) -> String {
        self.patience = IMPATIENT;
        let error = self.store(crash, core).unwrap_err().to_string();
        self.patience = PATIENT;
        assert!(!error.contains('\n'), "{error}");
        error
    }

    fn store(&self, crash: &Crash, core: &Core) -> Result<Place, StoreError> {
        let mut objects = self.open();
        let room = core.says_length.then_some(Room { least: 0, most: core.length + 4096 });
        let mut folder = match objects.begin(crash, CORE, room)? {
            Begun::New(folder) => folder,
            Begun::AlreadyThere(place) => return Ok(place),
        };
        folder.file(CORE, &mut |sink| core.write(sink))?;
        folder.file("dmesg.txt", &mut |sink| sink.write_at(0, b"Oops\n").map_err(Error::Core))?;
        folder.finish(&json!({ "message": "a\nb" }))
    }

    /// What is kept of uploads.
    fn kept(&self) -> usize {
        fs::read_dir(self.state.path()).unwrap().count()
    }
}

/// What is uploaded for a core: a head, noise that depends on a seed, and holes.
struct Core {
    seed: u64,
    head: u64,
    length: u64,
    /// One in this many blocks of 64 KiB after the head is a hole.
    holes: u64,
    says_length: bool,
}

const BLOCK: u64 = 64 << 10;

impl Core {
    fn new(seed: u64, length: u64) -> Core {
        Core { seed, head: length.min(5000), length, holes: 7, says_length: true }
    }

    fn write(&self, sink: &mut dyn Sink) -> Result<(), Error> {
        self.try_write(sink).map_err(Error::Core)
    }

    fn try_write(&self, sink: &mut dyn Sink) -> io::Result<()> {
        sink.begin(self.head, self.says_length.then_some(self.length))?;
        let mut offset = self.head;
        while offset < self.length {
            let length = BLOCK.min(self.length - offset);
            if !(offset / BLOCK).is_multiple_of(self.holes) {
                sink.write_at(offset, &self.noise(offset, length))?;
            }
            offset += length;
        }
        sink.set_len(self.length)?;
        sink.write_at(0, &self.noise(0, self.head.min(self.length)))
    }

    fn noise(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut state = (offset + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed;
        let mut bytes = Vec::with_capacity(length as usize + 8);
        while (bytes.len() as u64) < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(length as usize);
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).unwrap();
        bytes
    }
}

const MIB: u64 = 1 << 20;
/// For what should work, on a machine that is busy.
const PATIENT: Duration = Duration::from_secs(60);
/// For what cannot work.
const IMPATIENT: Duration = Duration::from_millis(300);

fn is_core(server: &Server, folder: &str, core: &Core) -> bool {
    fs::read(server.bucket().join(folder).join(CORE)).is_ok_and(|bytes| bytes == core.bytes())
}

fn is_finished(server: &Server) -> bool {
    server.objects().iter().any(|name| name.ends_with("info.json"))
}

/// Loses all that the server keeps of uploads that are not finished.
fn forget_uploads(server: &Server) {
    for entry in fs::read_dir(server.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with(".upload") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// A port of this machine on which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_crash_lies_where_all_machines_are_one_table_and_is_uploaded_once() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let core = Core::new(1, 20 * MIB + 5);
    let place = machine.store(&crash(7), &core).unwrap();
    assert_eq!(place.folder, format!("s3://{BUCKET}/{FOLDER}"));
    assert_eq!(place.remarks, [""; 0]);
    let names = ["dmesg.txt", "info.json", CORE].map(|name| format!("{FOLDER}/{name}"));
    assert_eq!(server.objects(), names);
    assert!(is_core(&server, FOLDER, &core));
    for (name, bytes) in &place.files {
        assert_eq!(fs::metadata(server.bucket().join(FOLDER).join(name)).unwrap().len(), *bytes, "{name}");
    }
    let info = fs::read_to_string(server.bucket().join(FOLDER).join("info.json")).unwrap();
    assert_eq!(info.lines().count(), 1);
    assert_eq!(server.seen(PARTS), 3);
    assert_eq!(machine.kept(), 0);
    let again = machine.store(&crash(7), &core).unwrap();
    assert_eq!((&again.folder, again.files.len()), (&place.folder, 3));
    assert_eq!(server.seen("PUT"), 0);
    // Another crash of the same second.
    let other = machine.store(&crash(8), &Core::new(2, 9)).unwrap();
    assert_eq!(other.folder, format!("{}-2", place.folder));
    assert!(is_core(&server, FOLDER, &core));
    // One that was shortened behind our back does not count, and stays.
    fs::write(server.bucket().join(FOLDER).join(CORE), "short").unwrap();
    assert!(machine.store(&crash(7), &core).unwrap().folder.ends_with("Z-3"));
}

#[test]
fn without_a_clock_there_is_no_date() {
    let server = Server::start();
    let crash = Crash { seconds: None, host: "../a b".to_owned(), ..crash(7) };
    let place = Machine::new(&server).store(&crash, &Core::new(1, 10)).unwrap();
    let expected = "host=_._a_b/date=__HIVE_DEFAULT_PARTITION__/_._a_b-unknown-0000000000000007";
    assert_eq!(place.folder, format!("s3://{BUCKET}/fleet/a/{expected}"));
}

#[test]
fn an_upload_that_breaks_goes_on_where_it_stopped() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    let core = Core::new(3, 60 * MIB);
    server.fault(
        |request| request.contains(PARTS),
        [Fault::None, Fault::None, Fault::None, Fault::None, Fault::Drain],
    );
    let begun = Instant::now();
    let text = machine.fail(&crash(7), &core);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(text.starts_with(&format!("cannot upload a part of s3://{BUCKET}/{FOLDER}/{CORE}: ")), "{text}");
    assert!(text.ends_with("; try again: the upload resumes"), "{text}");
    assert!(!is_finished(&server));
    let uploaded = server.seen(PARTS);
    assert_eq!(uploaded, 4);
    server.revive();
    machine.store(&crash(7), &core).unwrap();
    assert_eq!(server.seen(PARTS), 8 - uploaded);
    assert!(is_core(&server, FOLDER, &core));
    assert_eq!(machine.kept(), 0);
}

#[test]
fn an_upload_that_was_done_is_not_done_again_when_a_later_file_breaks() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    let core = Core::new(3, 20 * MIB);
    server.fault(|request| request.contains("PUT") && request.contains("info.json"), [Fault::Die]);
    machine.fail(&crash(7), &core);
    assert!(!is_finished(&server));
    assert_eq!(server.seen(PARTS), 3);
    server.revive();
    machine.store(&crash(7), &core).unwrap();
    assert_eq!(server.seen(PARTS), 0);
    assert!(is_core(&server, FOLDER, &core) && is_finished(&server));
}

#[test]
fn an_upload_goes_on_only_with_the_same_bytes() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    for (upto, sent) in [("info.json", 0), (PARTS, 1)] {
        let chosen = move |request: &str| request.contains("PUT") && request.contains(upto);
        server.fault(chosen, vec![Fault::None; sent].into_iter().chain([Fault::Die]));
        let nonce = sent as u64;
        machine.fail(&crash(nonce), &Core::new(3, 20 * MIB));
        server.revive();
        let core = Core::new(4, 20 * MIB);
        let place = machine.store(&crash(nonce), &core).unwrap();
        let folder = place.folder.strip_prefix(&format!("s3://{BUCKET}/")).unwrap();
        assert!(is_core(&server, folder, &core), "{folder}");
    }
}

#[test]
fn an_upload_that_the_server_forgot_begins_anew() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    let core = Core::new(3, 30 * MIB);
    for finished in [false, true] {
        let chosen = move |request: &str| {
            let last = if finished { "POST" } else { PARTS };
            request.contains(last) && !request.contains("uploads")
        };
        // The last part, or the order to put them together that the server obeys before it dies.
        server.fault(chosen, if finished { vec![Fault::DieBehind] } else { vec![Fault::None, Fault::Die] });
        let nonce = u64::from(finished);
        machine.fail(&crash(nonce), &core);
        assert_eq!(machine.kept(), 1);
        forget_uploads(&server);
        server.revive();
        let place = machine.store(&crash(nonce), &core).unwrap();
        let folder = place.folder.strip_prefix(&format!("s3://{BUCKET}/")).unwrap();
        assert!(is_core(&server, folder, &core), "{folder}");
        assert_eq!(machine.kept(), 0);
    }
}

#[test]
fn a_part_that_changes_on_the_way_is_refused_and_sent_again() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    let core = Core::new(3, 30 * MIB);
    server.fault(|request| request.contains(PARTS), [Fault::Corrupt, Fault::None, Fault::Corrupt]);
    server.fault(|request| request.contains("dmesg"), [Fault::Corrupt]);
    let place = machine.store(&crash(7), &core).unwrap();
    assert!(is_core(&server, FOLDER, &core));
    assert_eq!(fs::read(server.bucket().join(FOLDER).join("dmesg.txt")).unwrap(), b"Oops\n");
    assert_eq!(place.remarks, [""; 0]);
    // A line that changes everything.
    server.fault(|request| request.contains(PARTS), [Fault::Corrupt; 99]);
    machine.fail(&crash(8), &core);
    assert!(!server.objects().iter().any(|name| name.contains("Z-2/vmcore") || name.contains("Z-2/info")));
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let busy = [Fault::Status(503), Fault::None, Fault::Status(500), Fault::Status(429), Fault::Status(502)];
    server.fault(|_| true, busy.into_iter().cycle().take(15));
    let core = Core::new(3, 30 * MIB);
    machine.store(&crash(7), &core).unwrap();
    assert!(is_core(&server, FOLDER, &core) && is_finished(&server));
}

#[test]
fn who_cannot_be_reached_or_says_no_is_said_in_one_line() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    machine.environment[1].1 = "guessed".to_owned();
    let text = machine.fail(&crash(7), &Core::new(1, 9));
    assert!(
        text.starts_with(&format!("cannot read s3://{BUCKET}/{FOLDER}/info.json: the server says ")),
        "{text}"
    );
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    assert!(text.ends_with("check the credentials in the environment"), "{text}");
    machine.environment[2].1 = format!("http://{}", nobody());
    let text = machine.fail(&crash(7), &Core::new(1, 9));
    assert!(text.contains("Connection refused"), "{text}");
    let mut machine = Machine::new(&server);
    server.fault(|_| true, [Fault::NoBucket]);
    let text = machine.fail(&crash(7), &Core::new(1, 9));
    assert!(text.contains("NoSuchBucket"), "{text}");
    for (url, word) in
        [("s3:///x", "names no bucket"), ("ftp://a/b", "ftp:// is not a kind"), ("s3://b/a//b", "empty")]
    {
        let error = Objects::open(url, &Limits::default(), &[]).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn what_cannot_be_made_is_not_uploaded_and_nothing_is_kept_of_it() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let mut objects = machine.open();
    let Begun::New(mut folder) = objects.begin(&crash(7), CORE, None).unwrap() else { panic!() };
    let error = folder.file(CORE, &mut |sink| {
        sink.begin(0, None).unwrap();
        sink.write_at(0, &vec![1; 20 << 20]).unwrap();
        Err(Error::Encrypted)
    });
    assert_eq!(error.unwrap_err().to_string(), Error::Encrypted.to_string());
    for name in ["../x", "info.json", "claim.json", "", "a/b"] {
        assert!(folder.file(name, &mut |_| Ok(())).is_err(), "{name}");
    }
    drop(folder);
    assert_eq!(server.objects(), [format!("{FOLDER}/claim.json")]);
    assert_eq!(machine.kept(), 0);
}

#[test]
fn where_nothing_can_be_kept_uploads_work_all_the_same() {
    let server = Server::start();
    let machine = Machine::new(&server);
    fs::write(machine.state.path().join("file"), "").unwrap();
    let state = Some(machine.state.path().join("file/not-a-folder"));
    let limits = Limits { state, ..Limits::default() };
    let url = format!("s3://{BUCKET}");
    let mut objects = Objects::open(&url, &limits, &machine.environment).unwrap();
    let Begun::New(mut folder) = objects.begin(&crash(7), CORE, None).unwrap() else { panic!() };
    let core = Core { says_length: false, ..Core::new(3, 20 * MIB) };
    folder.file(CORE, &mut |sink| core.write(sink)).unwrap();
    let place = folder.finish(&json!({})).unwrap();
    assert_eq!(place.remarks.len(), 1, "{:?}", place.remarks);
    assert!(place.remarks[0].starts_with("an upload that breaks off begins anew"), "{:?}", place.remarks);
    assert!(is_core(&server, "host=web-1/date=2023-11-14/web-1-2023-11-14T221320Z", &core));
}

#[test]
#[cfg_attr(sanitized, ignore = "measures memory")]
fn an_upload_takes_little_memory_however_long_the_file_is() {
    const CHILD: &str = "SAVECORE_TEST_ENDPOINT";
    // More than twice of what may be in memory, all of it bytes that count.
    let core = Core { holes: u64::MAX, ..Core::new(9, 300 * MIB) };
    if let Ok(endpoint) = std::env::var(CHILD) {
        let environment = Server::environment_for(&endpoint);
        let machine = Machine { state: TempDir::new().unwrap(), environment, patience: PATIENT };
        machine.store(&crash(7), &core).unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        println!("peak: {} MiB", peak >> 10);
        assert!(peak < 192 << 10, "{peak} KiB");
        return;
    }
    let server = Server::start();
    let name = "store::object::tests::an_upload_takes_little_memory_however_long_the_file_is";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, server.endpoint())
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored = fs::metadata(server.bucket().join(FOLDER).join(CORE)).unwrap();
    assert_eq!(stored.len(), core.length);
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::Corrupt),
        1 => Just(Fault::Status(500)),
        1 => Just(Fault::Die),
        1 => Just(Fault::DieBehind),
    ];
    prop::collection::vec(fault, 0..25)
}

#[test]
fn credentials_that_run_out_anywhere_are_asked_for_anew_and_the_upload_goes_on() {
    let core = Core::new(7, 20 * MIB);
    for request in [PARTS, "info.json", "claim.json", "dmesg", "POST /", "HEAD /", "GET /"] {
        let server = Server::start();
        let machine = Machine::new(&server);
        server.fault(move |seen| seen.contains(request), [Fault::Expired]);
        machine.store(&crash(7), &core).unwrap();
        assert!(is_core(&server, FOLDER, &core), "{request}");
    }
}

#[test]
fn credentials_that_have_run_out_for_good_are_told_of_and_what_was_uploaded_counts() {
    let core = Core::new(7, 40 * MIB);
    let server = Server::start();
    let mut machine = Machine::new(&server);
    let faults = [Fault::None, Fault::None].into_iter().chain([Fault::Expired; 200]);
    server.fault(|request| request.contains(PARTS), faults);
    let error = machine.fail(&crash(7), &core);
    assert!(error.contains("the server says ExpiredToken"), "{error}");
    assert!(
        error.ends_with("the credentials expired: renew them and try again; the upload resumes"),
        "{error}"
    );
    assert!(!is_finished(&server));
    server.revive();
    server.seen("");
    machine.store(&crash(7), &core).unwrap();
    assert!(is_core(&server, FOLDER, &core));
    assert_eq!(server.seen(PARTS), 3, "two of five parts were there");
}

#[test]
fn a_clock_that_is_wrong_is_told_of() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    server.fault(|_| true, [Fault::Skewed; 99]);
    let error = machine.fail(&crash(7), &Core::new(7, MIB));
    assert!(
        error.contains("RequestTimeTooSkewed")
            && error.ends_with("set the clock of this machine, and try again"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_breaks_a_finished_crash_is_whole_and_trying_again_ends(
        rounds in prop::collection::vec(faults(), 1..4), length in 1..30_u64, head in 0..20_u64, says_length: bool
    ) {
        let server = Server::start();
        let mut machine = Machine::new(&server);
        machine.patience = Duration::from_millis(100);
        let length = length * MIB + 77;
        let core = Core { seed: 5, head: (head * MIB + 9).min(length), length, holes: 3, says_length };
        for faults in rounds {
            server.fault(|_| true, faults);
            let stored = machine.store(&crash(7), &core);
            if stored.is_ok() || is_finished(&server) {
                prop_assert!(is_core(&server, FOLDER, &core));
            }
            server.revive();
        }
        machine.patience = PATIENT;
        let place = machine.store(&crash(7), &core).unwrap();
        prop_assert!(place.folder.ends_with(FOLDER));
        prop_assert!(is_core(&server, FOLDER, &core));
    }
}
