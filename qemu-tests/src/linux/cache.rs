//! The cache folder for Debian packages: downloaded once, verified, unpacked. It is outside the source tree.
//!
//! One file: a package goes through it step by step, and each step depends on what the one before it left
//! there.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh3::xxh3_64;

use super::archive::{self, Choice, File, LIBRARY, Record, Set, choose, compare, newest};
use super::kernel::{Kernel, Parts};
use super::rust_tools::{CONFIG, RustTools};
use crate::process::{self, LOOK_EVERY, Output};

/// The environment variable for the download folder; the default is `diskdump` in the user's cache folder
/// (`$XDG_CACHE_HOME`, or `~/.cache`).
pub const CACHE: &str = "DISKDUMP_CACHE";

/// The folder of the kernel itself in the package with its symbols; the rest belongs to the modules.
pub(super) const SYMBOLS: &str = "usr/lib/debug/boot";

/// The apt source of [`Kernel::NEWEST`].
const BACKPORTS: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
";

/// The package with the program that makes up a small system.
pub(super) const BUSYBOX: &str = "busybox-static";

/// Anything slower hangs; a download may be slow.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// For a kernel's symbols, on a slow disk that is busy.
const UNPACK_LIMIT: Duration = Duration::from_secs(1200);

/// How often the progress of a download is reported.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// How old an unfinished folder must be before it may count as abandoned.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Receives messages.
pub trait Tell: Send {
    /// A message of one line.
    fn say(&mut self, line: &str);

    /// Progress of a long operation.
    fn progress(&mut self, _what: &str, _done: u64, _of: u64) {}
}

impl<F: FnMut(&str) + Send> Tell for F {
    fn say(&mut self, line: &str) {
        self(line);
    }
}

/// The cache folder.
///
/// # Errors
/// If the environment does not define one.
pub fn cache() -> Result<PathBuf> {
    location(|name| std::env::var_os(name).map(PathBuf::from))
}

/// The cache folder according to the environment's variables.
fn location(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    // A relative path in XDG_CACHE_HOME has to be ignored (XDG Base Directory Specification).
    let user = set("XDG_CACHE_HOME")
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .map(|folder| folder.join("diskdump"));
    let folder = set(CACHE).or(user);
    let folder =
        folder.with_context(|| format!("neither {CACHE} nor HOME says where downloads may be kept"))?;
    Ok(std::path::absolute(folder)?.join("linux"))
}

/// A kernel that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// Which kernel.
    pub kernel: Kernel,
    /// How much of it; for [`Kernel::RUST`] it is always the packages it is built from.
    pub parts: Parts,
}

/// Packages missing from the cache.
#[derive(Clone, Default, Debug)]
pub struct Downloads {
    cache: Cache,
    records: Vec<Record>,
    /// Notes on the choice for the user, one line each.
    pub notes: Vec<String>,
}

/// A file to be downloaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Download {
    /// Its name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}

impl Downloads {
    /// Finds the packages of these kernels, and of the systems around them, that are missing from the cache.
    /// `tools` are those for building a kernel with Rust, if they are already installed.
    ///
    /// # Errors
    /// If apt does not know them either; the error gives a remedy in one line.
    pub fn find(wants: &[Want], tools: Option<&RustTools>) -> Result<Downloads> {
        match wants {
            [] => Ok(Downloads::default()),
            _ => Cache::find()?.plan(wants, tools),
        }
    }

    /// The files.
    pub fn files(&self) -> Vec<Download> {
        let bytes = |record: &Record| record.file.as_ref().map_or(0, |file| file.bytes);
        let files = self.records.iter();
        files
            .map(|record| Download { file: format!("{}.deb", record.stem()), bytes: bytes(record) })
            .collect()
    }

    /// Downloads them with apt, without root, and verifies each. After an error, finished downloads are kept.
    ///
    /// # Errors
    /// If one fails; the error gives a remedy in one line.
    pub fn fetch(&self, tell: &mut dyn Tell) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.cache.make()?;
        let of = self.files().iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for record in &self.records {
            self.cache.download(record, &mut |bytes| tell.progress(&record.stem(), done + bytes, of))?;
            done += record.file.as_ref().map_or(0, |file| file.bytes);
        }
        Ok(())
    }
}

/// The folder with archives as downloaded and with their unpacked content, under the same name without
/// `.deb`. Everything in it is complete, except archives that a user put there.
#[derive(Clone, Default, Debug)]
pub(super) struct Cache {
    pub(super) folder: PathBuf,
}

impl Cache {
    /// The cache folder given by the environment.
    pub(super) fn find() -> Result<Cache> {
        Ok(Cache { folder: cache()? })
    }

    /// Creates the folder, if necessary.
    fn make(&self) -> Result<()> {
        fs::create_dir_all(self.folder.join("logs"))
            .with_context(|| format!("cannot create {}", self.folder.display()))
    }

    /// The content of the folder: complete archives and unpacked packages.
    pub(super) fn content(&self) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut unpacked: Vec<Record> = Vec::new();
        for path in entries(&self.folder)? {
            let name = file_name(&path);
            let archive = name.strip_suffix(".deb");
            let Some(record) = Record::of_stem(archive.unwrap_or(&name)) else { continue };
            match archive {
                Some(_) if is_whole_archive(&path) => records.push(record),
                None if path.is_dir() => unpacked.push(record),
                _ => {}
            }
        }
        for record in unpacked {
            // A kernel's headers are unpacked into one folder, named after the first package. For this kernel
            // the other two are present too; their archives, if present, may also serve other kernels.
            if let Some(version) = record.name.strip_prefix("linux-headers-").and_then(Kernel::version_of) {
                let series: String = version.split('.').take(2).collect::<Vec<_>>().join(".");
                let common = format!("linux-headers-{version}-common");
                let kbuild = format!("linux-kbuild-{version}");
                let is_there =
                    |names: &[&str]| records.iter().any(|record| names.contains(&record.name.as_str()));
                let (has_common, has_kbuild) =
                    (is_there(&[&common]), is_there(&[&kbuild, &format!("linux-kbuild-{series}")]));
                for (name, is_there) in [(common, has_common), (kbuild, has_kbuild)] {
                    if !is_there {
                        records.push(Record { name, ..record.clone() });
                    }
                }
            }
            records.push(record);
        }
        Ok(records)
    }

    /// All versions of the packages that may be wanted, from apt's lists; none without apt. If one of the
    /// kernels is from backports, includes the lists of backports.
    fn listed(&self, wants: &[Want]) -> Result<Vec<Record>> {
        let mut records = Cache::listed_with(&[], BUSYBOX);
        if wants.iter().any(|want| want.kernel.is_backported()) {
            self.list_backports()?;
            let mut known = Cache::listed_with(&self.backports(), LIBRARY);
            // Older kernels of that Debian release differ from those of this one.
            known.retain(|record| {
                record.name == LIBRARY || record.name.contains(&format!("-{}.", Kernel::NEWEST.series))
            });
            records.extend(known.into_iter().map(|record| Record {
                file: record.file.map(|file| File { is_backported: true, ..file }),
                ..record
            }));
        }
        Ok(records)
    }

    /// Options that make apt use only the lists of backports in the cache, and nothing from the machine.
    fn backports(&self) -> Vec<String> {
        let folder = self.folder.join("backports");
        let at = |key: &str, file: &str| format!("{key}={}", folder.join(file).display());
        let options = [
            at("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            at("Dir::State::lists", "lists"),
            at("Dir::State::status", "status"),
            at("Dir::Cache", "cache"),
            // The user that apt would switch to may not write there.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
    }

    /// Updates apt's lists of backports; without a network, the earlier ones are good enough.
    fn list_backports(&self) -> Result<()> {
        let folder = self.folder.join("backports");
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        fs::create_dir_all(self.folder.join("logs")).context("cannot create a folder for logs")?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("status", "")?;
        write("sources.list", BACKPORTS)?;
        let options = self.backports();
        let arguments = options.iter().map(String::as_str).chain(["update"]).collect::<Vec<_>>();
        let updated = self.run("apt-get", &arguments, &folder, LIMIT);
        let has_lists =
            || entries(&folder.join("lists")).is_ok_and(|lists| lists.iter().any(|path| path.is_file()));
        match updated {
            Err(error) if !has_lists() => Err(error.context("apt does not reach Debian's backports")),
            _ => Ok(()),
        }
    }

    /// All versions of kernel packages, and of another package.
    fn listed_with(options: &[String], other: &str) -> Vec<Record> {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-cache");
            let output = command.args(options).args(arguments).env("LC_ALL", "C").output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let names = apt(&["pkgnames", "linux-"]);
        let kinds = [
            "linux-image-",
            "linux-base-",
            "linux-binary-",
            "linux-modules-",
            "linux-headers-",
            "linux-kbuild-",
            "linux-source-",
        ];
        let is_ours = |name: &&str| {
            kinds.iter().any(|kind| {
                name.strip_prefix(kind)
                    .is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
            })
        };
        let names: Vec<&str> = names.lines().filter(is_ours).chain([other]).collect();
        archive::records(&apt(&[&["show", "--all-versions"], &*names].concat()))
    }

    /// The newest kernel with Rust in the cache that was built with these tools.
    pub(super) fn built_with_rust(&self, tools: &RustTools) -> Result<Option<PathBuf>> {
        if last(&self.folder, |name| name.starts_with("linux-rust_"))?.is_none() {
            return Ok(None);
        }
        let key = self.rust_key(tools)?;
        let mut versions = Vec::new();
        for record in self.content()? {
            if record.name == "linux-rust" && record.architecture == key {
                versions.push(record);
            }
        }
        versions.sort_by(|one, other| compare(&one.version, &other.version));
        Ok(versions.last().map(|record| self.folder.join(record.stem())))
    }

    /// A hash of everything that a kernel with Rust is built with.
    pub(super) fn rust_key(&self, tools: &RustTools) -> Result<String> {
        let mut all = CONFIG.to_owned();
        for tool in [&tools.rustc, &tools.bindgen] {
            let program = tool.to_string_lossy();
            all.push_str(&self.run(&program, &["--version"], &self.folder, LIMIT)?.stdout);
        }
        Ok(format!("{:08x}", xxh3_64(all.as_bytes()) as u32))
    }

    /// The downloads for these.
    fn plan(&self, wants: &[Want], tools: Option<&RustTools>) -> Result<Downloads> {
        let cached = self.content()?;
        let built = match tools {
            Some(tools) => self.built_with_rust(tools)?.is_some(),
            None => false,
        };
        let wants: Vec<Want> =
            wants.iter().copied().filter(|want| want.kernel != Kernel::RUST || !built).collect();
        let Needed { records, mut notes } = match needed(&wants, &[], &cached) {
            Ok(nothing) => nothing,
            // Only now, because reading apt's lists takes seconds.
            Err(_) => needed(&wants, &self.listed(&wants)?, &cached).map_err(|lack| self.advice(&lack))?,
        };
        let halves = records.iter().map(|record| self.archive(record)).filter(|path| path.exists());
        notes.extend(halves.map(|path| format!("{} is not whole; it is downloaded again", path.display())));
        Ok(Downloads { cache: self.clone(), records, notes })
    }

    /// A remedy for the user.
    fn advice(&self, lack: &Lack) -> anyhow::Error {
        anyhow::anyhow!(
            "apt's lists have no {}; `apt-get update` as root on a Debian may bring it, or put into {}: {}",
            lack.what,
            self.folder.display(),
            lack.files.join(" ")
        )
    }

    /// The packages of a kernel, after making sure that they are in the cache.
    pub(super) fn take(&self, want: Want, tell: &mut dyn Tell) -> Result<Set> {
        self.bring(&[want], None, tell)?;
        match choose(want.kernel, want.parts, &[], &self.content()?) {
            Ok(Choice { set, .. }) => Ok(set),
            Err(_) => bail!("what was downloaded is not in {} any more", self.folder.display()),
        }
    }

    /// Downloads what is missing for these.
    pub(super) fn bring(&self, wants: &[Want], tools: Option<&RustTools>, tell: &mut dyn Tell) -> Result<()> {
        self.make()?;
        let downloads = self.plan(wants, tools)?;
        for note in &downloads.notes {
            tell.say(note);
        }
        let files = downloads.files();
        if !files.is_empty() {
            let sizes: Vec<String> = files
                .iter()
                .map(|file| format!("{} ({:.1} MB)", file.file, file.bytes as f64 / 1e6))
                .collect();
            tell.say(&format!("downloading {} into {}", sizes.join(" and "), self.folder.display()));
        }
        downloads.fetch(tell)
    }

    /// The archive of a package.
    pub(super) fn archive(&self, record: &Record) -> PathBuf {
        self.folder.join(format!("{}.deb", record.stem()))
    }

    /// A package, unpacked; `only` limits that to one of its folders.
    pub(super) fn unpacked(&self, record: &Record, only: Option<&str>) -> Result<PathBuf> {
        self.unpacked_with(record, [], only)
    }

    /// The same, with others in the same folder.
    pub(super) fn unpacked_with<'r>(
        &self,
        record: &'r Record,
        others: impl IntoIterator<Item = &'r Record>,
        only: Option<&str>,
    ) -> Result<PathBuf> {
        let folder = self.folder.join(record.stem());
        let archives: Vec<PathBuf> =
            [record].into_iter().chain(others).map(|record| self.archive(record)).collect();
        if folder.is_dir() {
            return Ok(folder);
        }
        self.unpack(&archives, &record.stem(), only, |_| Ok(()))
    }

    /// busybox, from the cache.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        let record = newest(BUSYBOX, &[], &self.content()?)
            .with_context(|| format!("there is no {BUSYBOX} in {}", self.folder.display()))?;
        let package = self.unpacked(&record, None)?;
        ["bin/busybox", "usr/bin/busybox"]
            .map(|program| package.join(program))
            .into_iter()
            .find(|program| program.is_file())
            .with_context(|| format!("{} has no busybox; remove it", package.display()))
    }

    /// Runs a program in `folder`, with messages in the C locale.
    pub(super) fn run(
        &self,
        program: &str,
        arguments: &[&str],
        folder: &Path,
        limit: Duration,
    ) -> Result<Output> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        ensure!(
            Path::new(program).is_absolute()
                || std::env::split_paths(&path).any(|folder| folder.join(program).is_file()),
            "{program} is not installed"
        );
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).env("LC_ALL", "C");
        let log = self.folder.join("logs").join(format!("{}.log", file_name(Path::new(program))));
        process::run(&mut command, limit, &log)?.success(program)
    }

    /// Downloads one version of a package. `progress` gets the number of bytes received.
    fn download(&self, record: &Record, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let file = format!("{}.deb", record.stem());
        let facts = record.file.as_ref().with_context(|| format!("apt does not say how large {file} is"))?;
        // In a separate folder, so that a partial file never has the final name.
        let scratch = Scratch::new(&self.folder)?;
        let mut arguments = if facts.is_backported { self.backports() } else { Vec::new() };
        arguments.extend(["download".to_owned(), record.request()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let result = std::thread::scope(|scope| {
            let apt = scope.spawn(|| self.run("apt-get", &arguments, &scratch.path, DOWNLOAD_LIMIT));
            let mut wait = 0;
            while !apt.is_finished() {
                std::thread::sleep(LOOK_EVERY);
                wait += 1;
                if wait % (TELL_EVERY.as_millis() / LOOK_EVERY.as_millis()) == 0 {
                    let lengths = entries(&scratch.path).into_iter().flatten();
                    progress(lengths.filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum());
                }
            }
            apt.join().expect("it does not panic")
        });
        result.with_context(|| {
            format!(
                "cannot download {file}; `apt-get update` as root if the archive has moved on, or put the file into {}",
                self.folder.display()
            )
        })?;
        let path = scratch.path.join(&file);
        let length = fs::metadata(&path).with_context(|| format!("apt did not download {file}"))?.len();
        ensure!(length == facts.bytes, "apt downloaded {length} bytes of {file} instead of {}", facts.bytes);
        let sums = scratch.path.join("sums");
        fs::write(&sums, format!("{}  {file}\n", facts.sha256)).context("cannot write a checksum")?;
        self.run("sha256sum", &["--check", "--quiet", "--strict", "sums"], &scratch.path, LIMIT)
            .with_context(|| format!("what apt downloaded as {file} has not the checksum in its lists"))?;
        fs::rename(&path, self.folder.join(&file)).with_context(|| format!("cannot keep {file}"))
    }

    /// Unpacks archives into one folder, and compares each file with the checksum in its package. `only`
    /// limits that to one of their folders. `finish` may modify the folder before it is renamed to `name`.
    pub(super) fn unpack(
        &self,
        archives: &[PathBuf],
        name: &str,
        only: Option<&str>,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let target = self.folder.join(name);
        let scratch = Scratch::new(&self.folder)?;
        let files = scratch.path.join("files");
        for (number, archive) in archives.iter().enumerate() {
            let text = archive.to_string_lossy();
            let control = format!("control-{number}");
            // A full disk and a timeout cause the same error.
            let stopped = || format!("cannot unpack {text} (if it is damaged, remove it)");
            self.run("dpkg-deb", &["--control", &text, &control], &scratch.path, UNPACK_LIMIT)
                .with_context(stopped)?;
            let sums = format!("../{control}/md5sums");
            let mut check = vec!["--check", "--quiet", "--strict", &sums];
            if let Some(only) = only {
                // The modules' symbols would take another 3 GB.
                let script = r#"mkdir files && dpkg-deb --fsys-tarfile "$1" | tar -x -C files "./$2""#;
                self.run("sh", &["-c", script, "sh", &text, only], &scratch.path, UNPACK_LIMIT)
                    .with_context(stopped)?;
                check.insert(0, "--ignore-missing");
            } else {
                self.run("dpkg-deb", &["--extract", &text, "files"], &scratch.path, UNPACK_LIMIT)
                    .with_context(stopped)?;
            }
            self.run("md5sum", &check, &files, UNPACK_LIMIT).with_context(stopped)?;
        }
        finish(&files)?;
        match fs::rename(&files, &target) {
            // Another process may have unpacked the same in the meantime.
            Err(error) if !target.is_dir() => {
                Err(error).with_context(|| format!("cannot create {}", target.display()))
            }
            _ => Ok(target),
        }
    }
}

/// Packages that are needed and not cached.
#[derive(Default, Debug)]
struct Needed {
    records: Vec<Record>,
    notes: Vec<String>,
}

/// Packages that are neither cached nor listed.
#[derive(PartialEq, Eq, Debug)]
struct Lack {
    what: String,
    files: Vec<String>,
}

/// The packages to download, given the content of apt's lists and of the cache.
fn needed(wants: &[Want], listed: &[Record], cached: &[Record]) -> Result<Needed, Lack> {
    let mut needed = Needed::default();
    let single = |name: &str| {
        let lack = || Lack { what: name.to_owned(), files: vec![format!("{name}_*.deb")] };
        newest(name, listed, cached).ok_or_else(lack)
    };
    let mut all = vec![single(BUSYBOX)?];
    for Want { kernel, parts } in wants {
        if *kernel == Kernel::RUST {
            all.push(single(&kernel.source())?);
            continue;
        }
        match choose(*kernel, *parts, listed, cached) {
            Ok(Choice { set, newer }) => {
                let version = |set: &Set| set.image().map(|image| image.version.clone()).unwrap_or_default();
                if let Some(newer) = newer {
                    needed.notes.push(format!(
                        "{}: {} is taken, since apt's lists have of {} no {}",
                        kernel.name(),
                        version(&set),
                        version(&newer),
                        newer.missing.join(" and no ")
                    ));
                }
                all.extend(set.records);
            }
            Err(nearest) => {
                let what = format!("whole kernel {} of Debian's", kernel.name());
                return Err(match nearest {
                    Some(set) => Lack { what, files: set.missing },
                    None => Lack { what, files: vec![kernel.pattern()] },
                });
            }
        }
    }
    for record in all {
        let is_known = |others: &[Record]| others.iter().any(|other| other.is(&record));
        if !is_known(cached) && !is_known(&needed.records) {
            needed.records.push(record);
        }
    }
    Ok(needed)
}

/// Whether this is a complete Debian package: an `ar` archive whose members end exactly at its end. A
/// truncated download does not.
fn is_whole_archive(path: &Path) -> bool {
    const MAGIC: &[u8; 8] = b"!<arch>\n";
    const HEADER: usize = 60;
    let ends = || -> std::io::Result<bool> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        let (mut at, mut parts) = (MAGIC.len() as u64, 0);
        while at < length && magic == *MAGIC {
            let mut header = [0; HEADER];
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut header)?;
            // Ten digits, padded with spaces.
            let bytes = std::str::from_utf8(&header[48..58])
                .ok()
                .and_then(|text| text.trim_end().parse::<u64>().ok());
            let Some(bytes) = bytes else { return Ok(false) };
            at += HEADER as u64 + bytes.next_multiple_of(2);
            parts += 1;
        }
        Ok(parts >= 3 && at == length)
    };
    ends().unwrap_or(false)
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let say = || format!("cannot read the folder {}", folder.display());
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>().with_context(say),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(say),
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A folder for unfinished work, removed when dropped. It is locked while in use, so that leftovers of a
/// killed process can be told from work in progress.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The folder.
    pub(super) path: PathBuf,
    /// Holds the lock.
    _lock: fs::File,
}

impl Scratch {
    pub(super) fn new(folder: &Path) -> Result<Scratch> {
        sweep(folder)?;
        for number in 0..1000 {
            let path = folder.join(format!(".{}-{number}", std::process::id()));
            let cannot = || format!("cannot create {}", path.display());
            match fs::create_dir(&path) {
                Ok(()) => {
                    let lock = fs::File::open(&path).with_context(cannot)?;
                    flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(cannot)?;
                    return Ok(Scratch { path, _lock: lock });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(cannot),
            }
        }
        bail!("{} is full of unfinished folders; remove those that begin with a dot", folder.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Leftovers are harmless but use space.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes leftovers of killed processes: a kernel being built takes 3 GB.
fn sweep(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        let name = file_name(&path);
        let is_scratch =
            name.strip_prefix('.').and_then(|name| name.split_once('-')).is_some_and(|(process, number)| {
                [process, number]
                    .iter()
                    .all(|part| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit()))
            });
        // Between creation and locking, a folder is young.
        let is_old = || {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > FORGOTTEN))
        };
        if is_scratch && is_old() {
            let Ok(lock) = fs::File::open(&path) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // As above.
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
    Ok(())
}

/// The entry of `folder` with the last name that `pleases` accepts.
pub(super) fn last(folder: &Path, pleases: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let names = entries(folder)?.into_iter();
    Ok(names.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&pleases)).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_the_variable_says_else_where_the_user_has_caches() {
        let place = |set: &[(&str, &str)]| {
            location(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
        };
        let of = |path: &str| PathBuf::from(path);
        let (home, xdg) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/caches"));
        assert_eq!(place(&[home, xdg, (CACHE, "/here")]).unwrap(), of("/here/linux"));
        assert_eq!(place(&[home, xdg, (CACHE, "")]).unwrap(), of("/caches/diskdump/linux"));
        assert_eq!(place(&[home]).unwrap(), of("/home/a/.cache/diskdump/linux"));
        assert_eq!(
            place(&[home, ("XDG_CACHE_HOME", "caches")]).unwrap(),
            of("/home/a/.cache/diskdump/linux")
        );
        assert!(place(&[]).unwrap_err().to_string().contains(CACHE));
    }

    /// A package called `name` with one file and these checksums for it.
    fn package(folder: &Path, name: &str, sums: &str) -> PathBuf {
        let tree = folder.join("tree");
        for folder in ["DEBIAN", "bin"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(tree.join("bin/busybox"), "hello\n").unwrap();
        let control = format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("DEBIAN/md5sums"), sums).unwrap();
        let archive = folder.join(format!("{name}_1_all.deb"));
        let built = Command::new("dpkg-deb").arg("--build").arg(&tree).arg(&archive).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        fs::remove_dir_all(tree).unwrap();
        archive
    }

    #[test]
    fn a_package_whose_files_are_not_what_it_says_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        let unpack = |archive: &Path| {
            let name = archive.file_stem().unwrap().to_str().unwrap();
            cache.unpack(&[archive.to_path_buf()], name, None, |_| Ok(()))
        };
        let good = "b1946ac92492d2347c6235b4d2611184  bin/busybox\n";

        let archive = package(folder.path(), "busybox-static", &good.replace('b', "c"));
        let error = format!("{:#}", unpack(&archive).unwrap_err());
        assert!(error.contains("damaged"), "{error}");
        assert!(!folder.path().join("busybox-static_1_all").exists());

        let archive = package(folder.path(), "busybox-static", good);
        let unpacked = unpack(&archive).unwrap();
        assert_eq!(unpacked, folder.path().join("busybox-static_1_all"));
        assert_eq!(cache.busybox().unwrap(), unpacked.join("bin/busybox"));
        assert_eq!(fs::read(unpacked.join("bin/busybox")).unwrap(), b"hello\n");
        // A second time, as if two processes had started at once.
        assert_eq!(unpack(&archive).unwrap(), unpacked);
        let left = fs::read_dir(folder.path()).unwrap().flatten();
        assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
    }

    #[test]
    fn half_an_archive_is_no_archive() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        let archive =
            package(folder.path(), "busybox-static", "b1946ac92492d2347c6235b4d2611184  bin/busybox\n");
        let record = Record::of_stem("busybox-static_1_all").unwrap();
        assert_eq!(cache.content().unwrap(), std::slice::from_ref(&record));
        let whole = fs::read(&archive).unwrap();
        for length in [0, 7, 8, 20, 68, 100, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
            fs::write(&archive, &whole[..length]).unwrap();
            assert_eq!(cache.content().unwrap(), [], "{length} bytes of {}", whole.len());
        }
        fs::write(&archive, [&whole[..], &[0; 100]].concat()).unwrap();
        assert_eq!(cache.content().unwrap(), []);
        // The content unpacked from it earlier is complete.
        fs::create_dir(folder.path().join("busybox-static_1_all")).unwrap();
        assert_eq!(cache.content().unwrap(), [record]);
    }

    #[test]
    fn a_cache_that_nobody_has_made_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().join("cache/linux") };
        assert_eq!(cache.content().unwrap(), []);
        assert!(!folder.path().join("cache").exists());
    }

    #[test]
    fn unpacked_headers_stand_for_all_three_packages_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { folder: folder.path().to_path_buf() };
        for name in [
            "linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64",
            "linux-headers-6.1.0-56-cloud-amd64_6.1.192-2_amd64",
        ] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let cached = cache.content().unwrap();
        let choice = choose(Kernel::CLOUD, Parts::Headers, &[], &cached).unwrap();
        assert!(choice.set.records.iter().all(|record| cached.contains(record)));
        assert!(choose(Kernel::CLOUD, Parts::Symbols, &[], &cached).is_err());
    }

    #[test]
    fn what_nobody_has_is_named_with_what_would_bring_it() {
        let cache = Cache { folder: PathBuf::from("/caches/linux") };
        let cached = [
            Record::of_stem("linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64").unwrap(),
            Record::of_stem("busybox-static_1_amd64").unwrap(),
        ];
        let want = Want { kernel: Kernel::CLOUD, parts: Parts::Symbols };
        let said = cache.advice(&needed(&[want], &[], &cached).unwrap_err()).to_string();
        assert_eq!(
            said,
            "apt's lists have no whole kernel 6.1-cloud of Debian's; `apt-get update` as root on a Debian may bring it, or put into \
             /caches/linux: linux-headers-6.1.0-56-cloud-amd64_6.1.192-2_*.deb linux-headers-6.1.0-56-common_6.1.192-2_*.deb \
             linux-kbuild-6.1*.deb linux-image-6.1.0-56-cloud-amd64-dbg_6.1.192-2_*.deb"
        );
        let said = cache.advice(&needed(&[want], &[], &cached[1..]).unwrap_err()).to_string();
        assert!(said.ends_with("put into /caches/linux: linux-image-6.1.*-cloud-amd64_*.deb"), "{said}");
    }

    #[test]
    fn only_what_somebody_who_is_gone_has_left_is_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - 2 * FORGOTTEN;
        let age = |path: &Path| fs::File::open(path).unwrap().set_modified(old).unwrap();
        let in_use = Scratch::new(folder.path()).unwrap();
        let [left, young, foreign] = [".1-0", ".1-1", ".git"].map(|name| folder.path().join(name));
        for path in [&left, &young, &foreign] {
            fs::create_dir(path).unwrap();
        }
        for path in [&left, &foreign, &in_use.path] {
            age(path);
        }
        Scratch::new(folder.path()).unwrap();
        assert!(!left.exists());
        assert!(young.exists() && foreign.exists() && in_use.path.exists());
    }
}
