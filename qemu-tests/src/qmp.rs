//! QMP, QEMU's control protocol (QEMU Machine Protocol Specification, docs/interop/qmp-spec): JSON lines over
//! a socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    partial: Vec<u8>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// A connection, and the end of it for QEMU's standard input and output (`-qmp stdio`). A pair of sockets
    /// has no path that could be too long, be left over, or belong to another process.
    ///
    /// # Errors
    /// If the system cannot create sockets.
    pub fn pair() -> Result<(Qmp, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets for QMP")?;
        Ok((Qmp { socket: ours, partial: Vec::new(), events: VecDeque::new() }, theirs.into()))
    }

    /// Waits for QEMU's greeting and negotiates no capabilities.
    ///
    /// # Errors
    /// If QEMU does not greet within `limit`.
    pub fn handshake(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let greeting = self.message(deadline).context("QEMU did not greet on QMP")?;
        if greeting.get("QMP").is_none() {
            bail!("QMP began with {greeting} instead of a greeting");
        }
        self.command("qmp_capabilities", json!({}), limit)?;
        Ok(())
    }

    /// Executes a command and returns its result. Events that arrive meanwhile are kept.
    ///
    /// # Errors
    /// If QEMU refuses, is gone, or does not answer within `limit`; the error names the command.
    pub fn command(&mut self, name: &str, arguments: Value, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        let mut text = json!({ "execute": name, "arguments": arguments }).to_string();
        text.push('\n');
        self.socket.write_all(text.as_bytes()).with_context(|| format!("QMP {name}: QEMU is gone"))?;
        loop {
            let message = self.message(deadline).with_context(|| format!("QMP {name}"))?;
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                bail!("QMP {name}: QEMU refused: {why}");
            }
            self.events.push_back(message);
        }
    }

    /// Waits for an event with this name; drops others before it.
    ///
    /// # Errors
    /// If it does not happen within `limit`, or QEMU is gone.
    pub fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let message = match self.events.pop_front() {
                Some(event) => event,
                None => self.message(deadline).with_context(|| format!("QMP event {name}"))?,
            };
            if message.get("event").and_then(Value::as_str) == Some(name) {
                return Ok(message);
            }
        }
    }

    /// Forgets the events so far, so that the next wait is for a future one.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn forget_events(&mut self) -> Result<()> {
        // Events before the answer have arrived with it.
        self.command("query-status", json!({}), Duration::from_secs(10))?;
        self.events.clear();
        Ok(())
    }

    /// Stops the guest.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop", json!({}), Duration::from_secs(10)).map(|_| ())
    }

    /// Resumes a stopped guest.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn go_on(&mut self) -> Result<()> {
        self.command("cont", json!({}), Duration::from_secs(10)).map(|_| ())
    }

    /// Presses the NMI button.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn inject_nmi(&mut self) -> Result<()> {
        self.command("inject-nmi", json!({}), Duration::from_secs(10)).map(|_| ())
    }

    /// Makes a CPU report failed memory at this physical address, as a fatal machine check, through QEMU's
    /// own monitor.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn fail_memory(&mut self, cpu: u32, address: u64) -> Result<()> {
        // Bank 1; uncorrected, processor context corrupt, address valid; machine check in progress; a
        // physical address with page granularity.
        let line = format!("mce {cpu} 1 0xbe00000000000135 0x5 {address:#x} 0x8c");
        let arguments = json!({ "command-line": line });
        self.command("human-monitor-command", arguments, Duration::from_secs(10)).map(|_| ())
    }

    /// Saves `length` bytes of physical memory from `start` into a file.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn pmemsave(&mut self, start: u64, length: u64, file: &Path) -> Result<()> {
        let arguments = json!({ "val": start, "size": length, "filename": file });
        self.command("pmemsave", arguments, Duration::from_secs(120)).map(|_| ())
    }

    /// Makes QEMU write its own dump of the guest as an ELF core. Returns how long that took.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn dump_guest_memory(&mut self, file: &Path) -> Result<Duration> {
        let arguments = json!({ "paging": false, "protocol": format!("file:{}", file.display()) });
        let begin = Instant::now();
        self.command("dump-guest-memory", arguments, Duration::from_secs(120))?;
        Ok(begin.elapsed())
    }

    /// Unplugs a device; the guest may have to agree.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn device_del(&mut self, id: &str) -> Result<()> {
        self.command("device_del", json!({ "id": id }), Duration::from_secs(10)).map(|_| ())
    }

    /// Plugs in a virtio disk with the content of a raw image; `id` becomes the device's id. What the guest flushes need not
    /// reach the host's disk.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn plug_disk(&mut self, id: &str, image: &Path) -> Result<()> {
        let limit = Duration::from_secs(10);
        let node = format!("{id}-image");
        let file = json!({ "driver": "file", "filename": image, "cache": { "no-flush": true } });
        self.command("blockdev-add", json!({ "driver": "raw", "node-name": node, "file": file }), limit)?;
        let device = json!({ "driver": "virtio-blk-pci", "drive": node, "id": id });
        self.command("device_add", device, limit).map(|_| ())
    }

    /// Makes QEMU exit at the guest's next reset.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn end_at_reset(&mut self) -> Result<()> {
        self.command("set-action", json!({ "reboot": "shutdown" }), Duration::from_secs(10)).map(|_| ())
    }

    /// Limits a disk, by the id of its drive, to this many bytes and requests per second; 0 means no limit.
    /// (Not by the id of the device: the disk of a virtio-blk-pci is a child of it.)
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn throttle(&mut self, drive: &str, bytes: u64, requests: u64) -> Result<()> {
        let arguments = json!({
            "device": drive, "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": requests, "iops_rd": 0, "iops_wr": 0,
        });
        self.command("block_set_io_throttle", arguments, Duration::from_secs(10)).map(|_| ())
    }

    /// The next message.
    fn message(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).context("QEMU said something that is not JSON");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("QEMU did not answer in time");
            }
            self.socket.set_read_timeout(Some(left)).context("cannot set a deadline on QMP")?;
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => bail!("QEMU is gone"),
                Ok(length) => self.partial.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read from QMP"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// A QEMU that sends these lines, one for each line that it receives (after an unsolicited greeting).
    fn fake(
        greeting: &'static str,
        answers: Vec<&'static str>,
    ) -> (Qmp, std::thread::JoinHandle<Vec<String>>) {
        let (qmp, theirs) = Qmp::pair().unwrap();
        let mut socket = UnixStream::from(theirs);
        let thread = std::thread::spawn(move || {
            socket.write_all(greeting.as_bytes()).unwrap();
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            let mut heard = Vec::new();
            for answer in answers {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap() == 0 {
                    break;
                }
                heard.push(line);
                socket.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        (qmp, thread)
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn events_between_command_and_answer_are_kept() {
        let (mut qmp, thread) = fake(
            "{\"QMP\": {}}\r\n",
            vec![
                "{\"return\": {}}\r\n",
                "{\"event\": \"STOP\"}\r\n{\"return\": {\"status\": \"paused\"}}\r\n",
            ],
        );
        qmp.handshake(SOON).unwrap();
        let answer = qmp.command("query-status", json!({}), SOON).unwrap();
        assert_eq!(answer["status"], "paused");
        assert_eq!(qmp.event("STOP", SOON).unwrap()["event"], "STOP");
        drop(qmp);
        let heard = thread.join().unwrap();
        assert!(heard[1].contains("query-status"));
    }

    #[test]
    fn a_refusal_names_the_command_and_the_reason() {
        let (mut qmp, _thread) = fake(
            "{\"QMP\": {}}\n",
            vec![
                "{\"return\": {}}\n",
                "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such disk\"}}\n",
            ],
        );
        qmp.handshake(SOON).unwrap();
        let error = qmp.device_del("disk").unwrap_err().to_string();
        assert!(error.contains("device_del") && error.contains("no such disk"), "{error}");
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (mut qmp, theirs) = Qmp::pair().unwrap();
        let begin = Instant::now();
        assert!(qmp.handshake(Duration::from_millis(50)).is_err());
        assert!(begin.elapsed() < SOON);
        drop(theirs);
    }

    #[test]
    fn a_dead_qemu_is_noticed_at_once() {
        let (mut qmp, theirs) = Qmp::pair().unwrap();
        drop(theirs);
        let error = format!("{:#}", qmp.handshake(SOON).unwrap_err());
        assert!(error.contains("gone"), "{error}");
    }
}
