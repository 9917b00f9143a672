//! A kernel with CONFIG_RUST: built once from Debian's source of its own kernel, and kept in the cache next
//! to the stock kernels.
//!
//! None of Debian 12's kernels is built with Rust. The cache keeps the kernel and the files that modules are
//! built against.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::archive::newest;
use super::cache::{Cache, LIMIT, Scratch, Tell, Want, file_name, last};
use super::kernel::{Kernel, Parts};
use super::rust_tools::{CONFIG, RustTools};
use super::stock::Stock;

/// Ten minutes on an idle machine with two CPUs.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

impl Stock {
    /// Gets [`Kernel::RUST`] from the cache, or builds it, which takes some 10 minutes and temporarily 3 GB.
    /// A cached kernel built with these tools is used even if Debian has newer source. Calls `tell` before
    /// the build.
    ///
    /// # Errors
    /// As for [`Stock::get`]; also if it cannot be built with these tools.
    pub fn with_rust(tools: &RustTools, tell: &mut dyn Tell) -> Result<Stock> {
        let cache = Cache::find()?;
        let which = Kernel::RUST;
        cache.bring(&[Want { kernel: which, parts: Parts::Headers }], Some(tools), tell)?;
        let folder = match cache.built_with_rust(tools)? {
            Some(folder) => folder,
            None => {
                let source = newest(&which.source(), &[], &cache.content()?).with_context(|| {
                    format!("there is no {} in {}", which.source(), cache.folder.display())
                })?;
                let name = format!("linux-rust_{}_{}", source.version, cache.rust_key(tools)?);
                let folder = cache.folder.join(&name);
                tell.say(&format!("building {name} in {}: some 10 minutes, once", cache.folder.display()));
                let source = cache.archive(&source);
                build(&cache, &source, tools, &folder)
                    .with_context(|| format!("a kernel with Rust cannot be built of {}", source.display()))?;
                folder
            }
        };
        let headers = folder.join("build");
        let release = fs::read_to_string(headers.join("include/config/kernel.release"))
            .with_context(|| format!("{} is not whole; remove it", folder.display()))?;
        Ok(Stock {
            which,
            release: release.trim().to_owned(),
            kernel: folder.join("bzImage"),
            modules: folder.join("modules"),
            busybox: cache.busybox()?,
            package: file_name(&folder),
            rust: Some((headers, tools.clone())),
        })
    }
}

/// Builds it; `folder` appears when all of it is complete.
fn build(cache: &Cache, source: &Path, tools: &RustTools, folder: &Path) -> Result<()> {
    let scratch = Scratch::new(&cache.folder)?;
    let unpack = r#"dpkg-deb --fsys-tarfile "$1" | tar -x --wildcards --strip-components=3 './usr/src/*.tar.xz' &&
        mkdir source objects files && tar -x --strip-components=1 -C source -f linux-source-*.tar.xz"#;
    cache.run("sh", &["-c", unpack, "sh", &source.to_string_lossy()], &scratch.path, LIMIT)?;
    let [objects, files] = ["objects", "files"].map(|name| scratch.path.join(name));
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let make = |arguments: &[&str], limit: Duration| {
        let (output, jobs) = (format!("O={}", objects.display()), format!("--jobs={cpus}"));
        let mut all = vec!["-C", "source", &output, &jobs];
        let variables = tools.variables();
        all.extend(variables.iter().map(String::as_str));
        all.extend(arguments);
        cache.run("make", &all, &scratch.path, limit)
    };
    make(&["tinyconfig"], LIMIT)?;
    let config = objects.join(".config");
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    fs::write(&config, format!("{}\n{CONFIG}", read(&config)?))
        .context("cannot write a kernel's configuration")?;
    make(&["olddefconfig"], LIMIT)?;
    if !read(&config)?.lines().any(|line| line == "CONFIG_RUST=y") {
        // This prints the problem with the tools.
        make(&["rustavailable"], LIMIT)?;
        anyhow::bail!("it does not want to be built with Rust; log: {}", cache.folder.join("logs").display());
    }
    make(&["bzImage", "modules"], BUILD_LIMIT)?;
    let build = files.join("build");
    let keep = format!(
        r#"KBUILD_RUN_COMMAND=sh $(srctree)/scripts/package/install-extmod-build {}"#,
        build.display()
    );
    make(&["run-command", &keep], LIMIT)?;
    let modules = files.join("modules");
    for folder in [build.join("rust"), modules.join("kernel")] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Additional files that modules in Rust are built against.
    let rust = fs::read_dir(objects.join("rust")).context("it has no Rust")?;
    for entry in rust {
        let path = entry.context("it has no Rust")?.path();
        if path.extension().is_some_and(|end| end == "rmeta" || end == "so") {
            copy(&path, &build.join("rust").join(file_name(&path)))?;
        }
    }
    copy(&objects.join("modules.builtin"), &modules.join("modules.builtin"))?;
    copy(&objects.join("arch/x86/boot/bzImage"), &files.join("bzImage"))?;
    ensure!(last(&build.join("rust"), |name| name == "libkernel.rmeta")?.is_some(), "it has no Rust");
    match fs::rename(&files, folder) {
        // Another process may have built the same in the meantime.
        Err(error) if !folder.is_dir() => {
            Err(error).with_context(|| format!("cannot create {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}
