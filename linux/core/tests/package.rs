//! The DKMS package has what the module is built of, under this version.

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
    assert!(text("README.md").contains(&format!("diskdump-dkms_{version}_amd64.deb")));
}

#[test]
fn the_package_has_every_source_that_make_copies() {
    let make = text("Makefile");
    let sources = make.lines().find_map(|line| line.strip_prefix("sources := ")).unwrap();
    let script = text("dkms/deb.sh");
    let packed = script.lines().find_map(|line| line.strip_prefix("for file in ")).unwrap();
    let packed: Vec<&str> = packed.trim_end_matches("; do").split_whitespace().collect();
    for source in sources.split_whitespace().chain(["Makefile", "dkms.conf"]) {
        assert!(packed.contains(&source), "{source} is not in {packed:?}");
    }
}
