//! Bytes from a fuzzer, used as a partition, a disk with a table, an image, a stream, a kernel's file or a
//! configuration. `cargo xtask fuzz` makes them up; every test run tries those in `fuzz/corpus` again.

pub(crate) mod configuration;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod partition;
pub(crate) mod stream;
pub(crate) mod table;

/// The fuzzer's bytes, followed by zeros.
pub(crate) struct Input<'a>(&'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }

    /// A number below `count`.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        self.number(2) % count.max(1)
    }

    /// A number that programs stumble over, or any other.
    pub(crate) fn tricky(&mut self) -> u64 {
        let which = self.byte();
        match which {
            0..=63 => 1 << which,
            64..=127 => (1 << (which - 64)) - 1,
            128..=191 => u64::MAX << (which - 128),
            192..=223 => u64::from(which - 192),
            _ => self.number(8),
        }
    }
}

#[cfg(not(fuzzing))]
mod kept {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// Time limit of a run, on a busy machine.
    const LIMIT: Duration = Duration::from_secs(60);

    fn try_again(corpus: &str, run: fn(&[u8])) {
        if crate::common::is_packed() {
            return eprintln!("what the fuzzer has kept is not in the package");
        }
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(corpus);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            // If this one fails, the output names it.
            eprintln!("{}", path.display());
            let start = Instant::now();
            run(&fs::read(&path).unwrap());
            assert!(start.elapsed() < LIMIT, "{}: {:?}", path.display(), start.elapsed());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }

    #[test]
    fn no_partition_does_harm() {
        try_again("partition", super::partition::no_harm);
    }

    #[test]
    fn no_partition_table_does_harm() {
        try_again("table", super::table::no_harm);
    }

    #[test]
    fn no_configuration_does_harm() {
        try_again("configuration", super::configuration::no_harm);
    }

    #[test]
    fn no_image_does_harm() {
        try_again("image", super::image::no_harm);
    }

    #[test]
    fn no_stream_does_harm() {
        try_again("stream", super::stream::no_harm);
    }

    #[test]
    fn no_kernel_file_does_harm() {
        try_again("kernel", super::kernel::no_harm);
    }
}
