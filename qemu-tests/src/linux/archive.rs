//! Debian's kernel packages: which versions belong together.
//!
//! This module neither runs apt nor reads a disk: callers pass the content of apt's lists and of the cache.
//! The archive updates the packages of a kernel on different days, so the newest image and the newest symbols
//! often have different versions; and it keeps only one version of each package name.
//!
//! One file: half of it is the tests of its rules.

use std::cmp::Ordering;

use super::kernel::{Kernel, Parts};

/// The C library for running programs of a newer Debian.
pub(super) const LIBRARY: &str = "libc6";

/// One version of a package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Its name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// Its architecture: `amd64`, or `all`.
    pub(super) architecture: String,
    /// Data on its file from apt's lists, if it comes from there.
    pub(super) file: Option<File>,
}

/// Data on a package's file in apt's lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct File {
    /// Its size.
    pub(super) bytes: u64,
    /// Its checksum in hexadecimal digits.
    pub(super) sha256: String,
    /// Whether it is only in the lists in the cache, not in the machine's own.
    pub(super) is_backported: bool,
}

impl Record {
    /// The name of its file without `.deb`, in apt's notation.
    pub(super) fn stem(&self) -> String {
        format!("{}_{}_{}", self.name, self.version.replace(':', "%3a"), self.architecture)
    }

    /// Parses such a name, without data on the file.
    pub(super) fn of_stem(stem: &str) -> Option<Record> {
        let mut parts = stem.split('_');
        let (name, version, architecture) = (parts.next()?, parts.next()?, parts.next()?);
        let is_whole = parts.next().is_none() && ![name, version, architecture].contains(&"");
        is_whole.then(|| Record {
            name: name.to_owned(),
            version: version.replace("%3a", ":"),
            architecture: architecture.to_owned(),
            file: None,
        })
    }

    /// The argument that requests exactly this version from apt.
    pub(super) fn request(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// Whether both are the same version of the same package, from any source.
    pub(super) fn is(&self, other: &Record) -> bool {
        self.name == other.name && self.version == other.version && self.architecture == other.architecture
    }
}

/// Parses the output of `apt-cache show`. Packages without a file in an archive, for example those that are
/// only installed, are left out.
pub(super) fn records(said: &str) -> Vec<Record> {
    let stanza = |stanza: &str| {
        let field = |name: &str| {
            let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
            stanza.lines().find_map(value)
        };
        field("Filename")?;
        Some(Record {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            file: Some(File {
                bytes: field("Size")?.parse().ok()?,
                sha256: field("SHA256")?,
                is_backported: false,
            }),
        })
    };
    said.split("\n\n").filter_map(stanza).collect()
}

/// Compares versions by Debian's rules (Debian Policy, 5.6.12).
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let split = |version: &str| {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        (epoch.parse::<u64>().unwrap_or(0), upstream.to_owned(), revision.to_owned())
    };
    let (one, other) = (split(one), split(other));
    one.0.cmp(&other.0).then_with(|| part(&one.1, &other.1)).then_with(|| part(&one.2, &other.2))
}

/// Compares upstream versions or revisions: alternating non-numeric and numeric parts.
fn part(mut one: &str, mut other: &str) -> Ordering {
    // The end sorts before all letters, letters before everything else, and `~` even before the end.
    let weight = |byte: u8| match byte {
        b'~' => -1,
        letter if letter.is_ascii_alphabetic() => i32::from(letter),
        sign => i32::from(sign) + 256,
    };
    let cut = |text: &str, is_number: bool| {
        text.find(|sign: char| sign.is_ascii_digit() != is_number).unwrap_or(text.len())
    };
    while !one.is_empty() || !other.is_empty() {
        let (words, others) = (one.split_at(cut(one, false)), other.split_at(cut(other, false)));
        let weights = |word: &str| word.bytes().map(weight).chain([0]).collect::<Vec<i32>>();
        let (numbers, other_numbers) =
            (words.1.split_at(cut(words.1, true)), others.1.split_at(cut(others.1, true)));
        let digits = |digits: &str| {
            let digits = digits.trim_start_matches('0');
            (digits.len(), digits.to_owned())
        };
        let order = weights(words.0)
            .cmp(&weights(others.0))
            .then_with(|| digits(numbers.0).cmp(&digits(other_numbers.0)));
        if order.is_ne() {
            return order;
        }
        (one, other) = (numbers.1, other_numbers.1);
    }
    Ordering::Equal
}

/// A version without the suffix of a rebuild: the signed image is built separately, so its `6.1.192-2+b1` and
/// the other packages' `6.1.192-2` have the same source.
fn source(version: &str) -> &str {
    match version.rsplit_once("+b") {
        Some((source, times)) if !times.is_empty() && times.bytes().all(|digit| digit.is_ascii_digit()) => {
            source
        }
        _ => version,
    }
}

/// The packages of one version of a kernel. Those neither cached nor listed are missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Set {
    /// The available packages, image first.
    pub(super) records: Vec<Record>,
    /// File names of the missing packages.
    pub(super) missing: Vec<String>,
}

impl Set {
    /// The image.
    pub(super) fn image(&self) -> Option<&Record> {
        self.records.first()
    }
}

/// The version to use, and a newer one that is incomplete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// The version to use.
    pub(super) set: Set,
    /// The newest version that apt knows, if it is another one and incomplete.
    pub(super) newer: Option<Set>,
}

/// Chooses the version of a kernel: the newest one that is completely cached; otherwise the newest one that
/// is completely cached or listed.
///
/// # Errors
/// If there is none: the closest match, if apt or the cache have any image at all.
pub(super) fn choose(
    which: Kernel,
    parts: Parts,
    listed: &[Record],
    cached: &[Record],
) -> Result<Choice, Option<Set>> {
    let both: Vec<Record> = cached.iter().chain(listed).cloned().collect();
    let whole = |sets: &[Set]| sets.iter().find(|set| set.missing.is_empty()).cloned();
    if let Some(set) = whole(&sets(which, parts, cached)) {
        return Ok(Choice { set, newer: None });
    }
    let sets = sets(which, parts, &both);
    match whole(&sets) {
        Some(set) => {
            let newer = sets.into_iter().next().filter(|newest| *newest != set);
            Ok(Choice { set, newer })
        }
        // The newest of those with the fewest missing packages.
        None => Err(sets.into_iter().min_by_key(|set| set.missing.len())),
    }
}

/// The packages that belong to the image with this release and version.
pub(super) fn belonging(which: Kernel, parts: Parts, image: &Record, records: &[Record]) -> Set {
    let release = image.name.strip_prefix("linux-image-").unwrap_or_default();
    let version = which.version(release).unwrap_or_default();
    let mut set = Set { records: vec![image.clone()], missing: Vec::new() };
    let mut add = |names: &[String], file: &str, is_good: &dyn Fn(&Record) -> bool| {
        let found = records.iter().filter(|record| names.contains(&record.name) && is_good(record));
        // The closest to the image: the same source if possible, otherwise as little newer as possible. Of
        // two equals the first, which is cached.
        let far = |record: &Record| (!of_one_source(record, image), record.version != image.version);
        let nearest = found.min_by(|one, other| {
            far(one).cmp(&far(other)).then_with(|| compare(&one.version, &other.version))
        });
        match nearest {
            Some(record) => set.records.push(record.clone()),
            None => set.missing.push(file.to_owned()),
        }
    };
    let exactly = |name: &str| format!("{name}_{}_*.deb", source(&image.version).replace(':', "%3a"));
    let same = |record: &Record| of_one_source(record, image);
    // The tools keep their name for a whole series if it is Debian's own kernel, and the archive has one
    // version of them.
    let at_least = |record: &Record| compare(source(&record.version), source(&image.version)).is_ge();
    for name in which.pieces(release) {
        add(std::slice::from_ref(&name), &exactly(&name), &same);
    }
    if parts >= Parts::Headers {
        for name in [format!("linux-headers-{release}"), format!("linux-headers-{version}-common")] {
            add(std::slice::from_ref(&name), &exactly(&name), &same);
        }
        let names = [format!("linux-kbuild-{version}"), format!("linux-kbuild-{}", which.series)];
        add(&names, &format!("linux-kbuild-{}*.deb", which.series), &at_least);
        if which.is_backported() {
            add(&[LIBRARY.to_owned()], &format!("{LIBRARY}_*.deb"), &|_| true);
        }
    }
    if parts >= Parts::Symbols {
        let name = format!("{}-dbg", image.name);
        add(std::slice::from_ref(&name), &exactly(&name), &same);
    }
    set
}

fn of_one_source(one: &Record, other: &Record) -> bool {
    source(&one.version) == source(&other.version)
}

/// Each image with its packages, newest first.
fn sets(which: Kernel, parts: Parts, records: &[Record]) -> Vec<Set> {
    let is_image = |record: &&Record| {
        record.name.strip_prefix("linux-image-").is_some_and(|release| which.version(release).is_some())
    };
    let mut images: Vec<&Record> = Vec::new();
    for image in records.iter().filter(is_image) {
        if !images.iter().any(|other| other.is(image)) {
            images.push(image);
        }
    }
    images.sort_by(|one, other| compare(&other.version, &one.version));
    images.into_iter().map(|image| belonging(which, parts, image, records)).collect()
}

/// The newest version of a package: the newest cached one, otherwise the newest listed one.
pub(super) fn newest(name: &str, listed: &[Record], cached: &[Record]) -> Option<Record> {
    [cached, listed].into_iter().find_map(|records| {
        let versions = records.iter().filter(|record| record.name == name);
        versions.max_by(|one, other| compare(&one.version, &other.version)).cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::super::kernel::KERNELS;
    use super::*;
    use proptest::prelude::*;

    fn record(stem: &str) -> Record {
        Record::of_stem(stem).unwrap()
    }

    /// A complete version of the usual 6.1 kernel: `number` is the one in its release.
    fn whole(number: u32, version: &str) -> Vec<Record> {
        [
            format!("linux-image-6.1.0-{number}-amd64_{version}_amd64"),
            format!("linux-headers-6.1.0-{number}-amd64_{version}_amd64"),
            format!("linux-headers-6.1.0-{number}-common_{version}_all"),
            format!("linux-kbuild-6.1_{version}_amd64"),
            format!("linux-image-6.1.0-{number}-amd64-dbg_{version}_amd64"),
        ]
        .map(|stem| record(&stem))
        .to_vec()
    }

    fn but(records: Vec<Record>, name: &str) -> Vec<Record> {
        records.into_iter().filter(|record| !record.name.contains(name)).collect()
    }

    /// The chosen version of each package of the usual kernel.
    fn chosen(parts: Parts, listed: &[Record], cached: &[Record]) -> Vec<String> {
        let choice = choose(Kernel::USUAL, parts, listed, cached).unwrap();
        choice.set.records.iter().map(|record| record.version.clone()).collect()
    }

    /// The packages of a set that are not in `cached`.
    fn missing(set: &Set, cached: &[Record]) -> Vec<Record> {
        set.records.iter().filter(|record| !cached.contains(record)).cloned().collect()
    }

    #[test]
    fn the_newest_kernel_comes_in_pieces_and_its_tools_with_their_library() {
        let release = "7.3.4+deb13-cloud-amd64";
        let version = "7.3.4-1~bpo13+1";
        let mut listed: Vec<Record> = ["image", "base", "binary", "modules", "headers"]
            .iter()
            .map(|part| record(&format!("linux-{part}-{release}_{version}_amd64")))
            .collect();
        listed.push(record(&format!("linux-headers-7.3.4+deb13-common_{version}_all")));
        listed.push(record(&format!("linux-kbuild-7.3.4+deb13_{version}_amd64")));
        listed.push(record("libc6_2.41-12_amd64"));
        let choice = choose(Kernel::NEWEST, Parts::Headers, &listed, &[]).unwrap();
        assert_eq!(choice.set.records, listed);
        let image = choose(Kernel::NEWEST, Parts::Image, &listed, &[]).unwrap();
        assert_eq!(image.set.records, listed[..4]);
        for lacking in ["binary", "modules", "libc6"] {
            let nearest = choose(Kernel::NEWEST, Parts::Headers, &but(listed.clone(), lacking), &[]);
            let missing = nearest.unwrap_err().unwrap().missing;
            assert!(missing.len() == 1 && missing[0].contains(lacking), "{missing:?}");
        }
    }

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let ordered = [
            "6.1.0~rc1-1",
            "6.1.0-1",
            "6.1.9-1",
            "6.1.176-1",
            "6.1.192-2",
            "6.1.192-2+b1",
            "6.1.192-3",
            "6.1.192-10",
            "6.12.9-1~bpo12+1",
            "6.12.115-2~deb12u1",
            "6.12.117-1~deb12u1",
            "6.12.117-1",
            "6.12.117a-1",
            "6.12.117+1-1",
            "1:1.35.0-4",
            "1:1.35.0-4+deb12u1",
            "2:0",
        ];
        for (place, one) in ordered.iter().enumerate() {
            for (other_place, other) in ordered.iter().enumerate() {
                assert_eq!(compare(one, other), place.cmp(&other_place), "{one} and {other}");
            }
        }
        assert_eq!(compare("1.01-0", "0:1.1"), Ordering::Equal);
    }

    #[test]
    fn what_apt_says_is_read_and_what_no_archive_has_is_not() {
        let said = "Package: busybox-static\nSource: busybox (1:1.35.0-4)\nVersion: 1:1.35.0-4+b1\nArchitecture: amd64\n\
                    Description: a\n Version: 7\nFilename: pool/a_1.35_amd64.deb\nSize: 928188\nSHA256: 3d3f\n\n\
                    Package: busybox-static\nStatus: install ok installed\nVersion: 2\nArchitecture: amd64\n\n";
        let file = Some(File { bytes: 928_188, sha256: "3d3f".to_owned(), is_backported: false });
        let expected = Record { file, ..record("busybox-static_1%3a1.35.0-4+b1_amd64") };
        assert_eq!(expected.version, "1:1.35.0-4+b1");
        assert_eq!(expected.stem(), "busybox-static_1%3a1.35.0-4+b1_amd64");
        assert_eq!(expected.request(), "busybox-static=1:1.35.0-4+b1");
        assert_eq!(records(said), [expected]);
    }

    #[test]
    fn names_that_are_no_packages_are_left_alone() {
        for name in ["logs", ".1-0", "a_b", "a_b_c_d", "_1_amd64", "a__all", ""] {
            assert_eq!(Record::of_stem(name), None, "{name}");
        }
    }

    #[test]
    fn each_kernel_has_images_of_its_own_and_no_others() {
        let releases =
            ["6.1.0-56-cloud-amd64", "6.1.0-56-amd64", "6.12.117+deb12-cloud-amd64", "6.12.117+deb12-amd64"];
        let others = [
            "linux-image-amd64_1_amd64",
            "linux-image-6.1.0-56-rt-amd64_1_amd64",
            "linux-image-6.1.0-56-arm64_1_arm64",
            "linux-image-6.12.117+deb12-rt-amd64_1_amd64",
            "linux-image-cloud-amd64-dbg_1_amd64",
            "linux-image-6.12-cloud-amd64_1_amd64",
            "linux-image-6.1.0-57-amd64-unsigned_1_amd64",
            "linux-image-6.1.0-57-amd64-dbg_1_amd64",
            "busybox-static_1_amd64",
        ];
        let names = releases.iter().map(|release| format!("linux-image-{release}_1_amd64"));
        let records: Vec<Record> = names.chain(others.map(str::to_owned)).map(|stem| record(&stem)).collect();
        for (kernel, release) in KERNELS.iter().zip(releases) {
            let sets = sets(*kernel, Parts::Image, &records);
            let images: Vec<&str> = sets.iter().map(|set| set.records[0].name.as_str()).collect();
            assert_eq!(images, [format!("linux-image-{release}")]);
        }
    }

    #[test]
    fn symbols_that_are_newer_than_the_image_are_not_taken() {
        let mut listed = [whole(56, "6.1.192-2"), whole(57, "6.1.192-3")].concat();
        listed.retain(|record| record.name != "linux-image-6.1.0-57-amd64");
        assert_eq!(chosen(Parts::Symbols, &listed, &[]), ["6.1.192-2"; 5]);
        assert_eq!(choose(Kernel::USUAL, Parts::Symbols, &listed, &[]).unwrap().newer, None);
    }

    #[test]
    fn an_image_without_its_symbols_or_headers_is_passed_over_and_that_is_known() {
        for (gone, parts) in [
            ("-dbg", Parts::Symbols),
            ("linux-headers-6.1.0-57-amd64", Parts::Headers),
            ("57-common", Parts::Headers),
        ] {
            let listed =
                [whole(55, "6.1.190-1"), but(whole(57, "6.1.192-3"), gone), whole(56, "6.1.192-2")].concat();
            let choice = choose(Kernel::USUAL, parts, &listed, &[]).unwrap();
            assert_eq!(choice.set.image().unwrap().version, "6.1.192-2", "{gone}");
            let newer = choice.newer.unwrap();
            assert_eq!(newer.image().unwrap().version, "6.1.192-3");
            assert!(newer.missing.len() == 1 && newer.missing[0].contains(gone), "{:?}", newer.missing);
            // Without a need for them, the newest is chosen.
            assert_eq!(chosen(Parts::Image, &listed, &[]), ["6.1.192-3"]);
        }
    }

    #[test]
    fn without_any_symbols_the_error_says_what_comes_nearest() {
        let listed = [whole(55, "6.1.190-1"), whole(56, "6.1.192-2")].concat();
        let nearest = choose(Kernel::USUAL, Parts::Symbols, &but(listed, "-dbg"), &[]).unwrap_err().unwrap();
        assert_eq!(nearest.missing, ["linux-image-6.1.0-56-amd64-dbg_6.1.192-2_*.deb"]);
        assert_eq!(choose(Kernel::USUAL, Parts::Image, &[], &[]), Err(None));
    }

    #[test]
    fn the_programs_for_headers_may_be_newer_but_not_older() {
        let kbuild = |version: &str| record(&format!("linux-kbuild-6.1_{version}_amd64"));
        let others = but(whole(56, "6.1.192-2"), "kbuild");
        let with = |versions: &[&str]| {
            others.iter().cloned().chain(versions.iter().map(|version| kbuild(version))).collect::<Vec<_>>()
        };
        let of = |listed: &[Record]| chosen(Parts::Headers, listed, &[]).pop().unwrap();
        assert_eq!(of(&with(&["6.1.200-1", "6.1.192-3"])), "6.1.192-3");
        assert_eq!(of(&with(&["6.1.192-3", "6.1.192-2"])), "6.1.192-2");
        assert!(choose(Kernel::USUAL, Parts::Headers, &with(&["6.1.190-1"]), &[]).is_err());
    }

    #[test]
    fn an_image_that_was_signed_once_more_belongs_to_the_same_source() {
        let mut listed = but(whole(56, "6.1.192-2"), "linux-image-6.1.0-56-amd64");
        listed.extend([
            record("linux-image-6.1.0-56-amd64_6.1.192-2+b1_amd64"),
            record("linux-image-6.1.0-56-amd64-dbg_6.1.192-2_amd64"),
        ]);
        assert_eq!(chosen(Parts::Symbols, &listed, &[])[0], "6.1.192-2+b1");
        assert_eq!(source("6.12.9-1~bpo12+1"), "6.12.9-1~bpo12+1");
        assert_eq!(source("6.1.192-2+b12"), "6.1.192-2");
    }

    #[test]
    fn backports_are_kernels_like_others_by_their_own_versions() {
        let set = |release: &str, version: &str| {
            let [image, headers] =
                ["image", "headers"].map(|kind| format!("linux-{kind}-{release}-amd64_{version}_amd64"));
            let [common, kbuild] = [
                format!("linux-headers-{release}-common_{version}_all"),
                format!("linux-kbuild-{release}_{version}_amd64"),
            ];
            [image, headers, common, kbuild].map(|stem| record(&stem))
        };
        let listed = [
            set("6.12.117+deb12", "6.12.117-1~deb12u1"),
            set("6.12.120+bpo", "6.12.120-1~bpo12+1"),
            set("6.12.9+bpo", "6.12.9-1~bpo12+1"),
        ];
        let choice = choose(KERNELS[3], Parts::Headers, &listed.concat(), &[]).unwrap();
        assert_eq!(choice.set.records, listed[1]);
    }

    #[test]
    fn what_is_cached_whole_stays_in_use_when_the_archive_moves_on() {
        let (old, new) = (whole(56, "6.1.192-2"), whole(57, "6.1.192-3"));
        assert_eq!(chosen(Parts::Symbols, &new, &old), ["6.1.192-2"; 5]);
        // A package missing from the archive is not replaced by a newer one.
        let mixed = [but(old.clone(), "-dbg"), vec![new[4].clone()]].concat();
        assert_eq!(chosen(Parts::Symbols, &new, &mixed), ["6.1.192-3"; 5]);
        assert!(choose(Kernel::USUAL, Parts::Symbols, &[], &mixed).is_err());
        // If half of it is cached, only the rest is downloaded.
        let half = but(new.clone(), "headers");
        let choice = choose(Kernel::USUAL, Parts::Symbols, &new, &half).unwrap();
        assert_eq!(missing(&choice.set, &half), new[1..3]);
    }

    /// Versions, each with the subset of its five packages that a place has.
    fn place() -> impl Strategy<Value = Vec<Vec<bool>>> {
        prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.7), 5), 4)
    }

    fn of_place(place: &[Vec<bool>]) -> Vec<Record> {
        let version = |number: usize| whole(50 + number as u32, &format!("6.1.{}-1", 100 + number));
        let versions = place.iter().enumerate().map(|(number, has)| {
            version(number).into_iter().zip(has).filter(|(_, has)| **has).map(|(record, _)| record)
        });
        versions.flatten().collect()
    }

    proptest! {
        /// For any archive and cache: the chosen packages are complete and from one source, the newest such
        /// version in the cache, or else in both; none is chosen only if there is none.
        #[test]
        fn what_is_taken_is_the_newest_that_is_whole(archive in place(), cache in place(), wanted in 0..3_usize) {
            let parts = [Parts::Image, Parts::Headers, Parts::Symbols][wanted];
            let needs: &[usize] = [&[0][..], &[0, 1, 2, 3], &[0, 1, 2, 3, 4]][wanted];
            let both: Vec<Vec<bool>> = archive.iter().zip(&cache).map(|(one, other)| one.iter().zip(other).map(|(one, other)| one | other).collect()).collect();
            // Tools (3) of a later version are acceptable.
            let newest = |place: &[Vec<bool>]| (0..place.len()).rev().find(|&number| {
                needs.iter().all(|&need| place[number][need] || need == 3 && place[number..].iter().any(|has| has[3]))
            });
            let expected = newest(&cache).or_else(|| newest(&both));
            let (listed, cached) = (of_place(&archive), of_place(&cache));
            match choose(Kernel::USUAL, parts, &listed, &cached) {
                Ok(Choice { set, newer }) => {
                    let version = format!("6.1.{}-1", 100 + expected.unwrap());
                    prop_assert_eq!(set.records.len(), needs.len());
                    for record in &set.records {
                        prop_assert!(record.version == version || record.name.contains("kbuild"), "{:?}", record);
                        prop_assert!(listed.contains(record) || cached.contains(record));
                    }
                    prop_assert!(newer.is_none_or(|newer| compare(&newer.image().unwrap().version, &version).is_gt()));
                }
                Err(_) => prop_assert_eq!(expected, None),
            }
        }

        /// The order of versions is a total order.
        #[test]
        fn versions_have_an_order(one in "[0-9a~+.]{1,6}(-[0-9a~+.]{1,4})?", two in "[0-9a~+.]{1,6}(-[0-9a~+.]{1,4})?", three in "[0-9a~+.]{1,6}") {
            prop_assert_eq!(compare(&one, &two), compare(&two, &one).reverse());
            prop_assert_eq!(compare(&one, &one), Ordering::Equal);
            if compare(&one, &two).is_le() && compare(&two, &three).is_le() {
                prop_assert!(compare(&one, &three).is_le());
            }
        }
    }
}
