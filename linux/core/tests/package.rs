//! The DKMS package contains the module's sources and has this version.

use std::fs;
use std::path::Path;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_packages_version_is_that_of_the_sources() {
    let version = env!("CARGO_PKG_VERSION");
    let dkms = text("dkms.conf");
    assert!(dkms.contains(&format!("PACKAGE_VERSION=\"{version}\"\n")), "{dkms}");
    assert!(dkms.contains(&format!("/diskdump/{version}/build/libdump_linux_module.a")), "{dkms}");
    assert!(text("shim.c").contains(&format!("MODULE_VERSION(\"{version}\");")));
    assert!(text("rust/sysfs.rs").contains(&format!("b\"version={version}\\0\"")));
    assert!(text("README.md").contains(&format!("diskdump-dkms_{version}_amd64.deb")));
}

#[test]
fn the_package_is_built_for_kernels_from_6_1_on() {
    let is_meant = |release: &str| {
        // Same match as in dkms.
        let script = ". ../dkms.conf; [[ $1 =~ $BUILD_EXCLUSIVE_KERNEL ]]";
        let mut shell = std::process::Command::new("bash");
        shell.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", script, "bash", release]);
        shell.status().unwrap().success()
    };
    for release in ["6.1.0-56-cloud-amd64", "6.12.117+deb12-amd64", "6.16.1", "7.3.4+deb13-amd64"] {
        assert!(is_meant(release), "{release}");
    }
    for release in ["5.10.0-28-amd64", "6.0.19", "4.19.0", "16.1.0", "5.16.1"] {
        assert!(!is_meant(release), "{release}");
    }
}

/// The files in a list in the Makefile.
fn list(name: &str) -> Vec<String> {
    let make = text("Makefile").replace("\\\n", " ");
    let line = make.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" := ")).unwrap();
    let words = line
        .trim_end_matches(')')
        .split([' ', '\t', ','])
        .filter(|word| word.contains('.') || *word == "Kbuild");
    words.map(str::to_owned).collect()
}

#[test]
fn the_package_has_every_source_that_make_copies() {
    let script = text("dkms/deb.sh");
    let packed = script.lines().find_map(|line| line.strip_prefix("for file in ")).unwrap();
    let packed: Vec<&str> = packed.trim_end_matches("; do").split_whitespace().collect();
    let own = ["Makefile", "dkms.conf"].map(str::to_owned);
    for source in list("shim_c").into_iter().chain(list("common")).chain(own) {
        assert!(packed.contains(&source.as_str()), "{source} is not in {packed:?}");
    }
}

#[test]
fn make_copies_every_source_of_the_shim_in_rust() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rust");
    let mut there: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut copied = list("shim_rust");
    there.sort_unstable();
    copied.sort_unstable();
    assert_eq!(there, copied);
}
