//! Keys, encrypted dumps, and dumps that are striped over several devices.

use std::os::unix::fs::symlink;

use dumpcore::format::crypt::{PublicKey, SecretKey, public_key};
use dumpcore::format::label::Label;

use super::*;

/// What `keygen` prints when it writes this file.
pub(super) fn keygen(path: &str) -> String {
    let (code, stdout, stderr) = run(["keygen", path]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    stdout.trim_end().to_owned()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub(super) fn key_of(text: &str) -> [u8; 32] {
    let (_, digits) = text.split_once(':').unwrap();
    let (key, sum) = digits.split_at(64);
    // Other readers of keys need only this: the checksum is zlib's CRC-32 of the text before it.
    let behind = text.len() - sum.len();
    assert_eq!(sum, format!("{:08x}", crc32fast::hash(&text.as_bytes()[..behind])));
    hex(key).try_into().unwrap()
}

fn secret_line(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = lines.next().unwrap();
    assert_eq!((line.starts_with("diskdump-secret:"), lines.next()), (true, None));
    line.to_owned()
}

pub(super) fn secret(file: &str) -> SecretKey {
    key_of(&secret_line(file))
}

/// Text of a key with these bytes.
pub(super) fn text_of(prefix: &str, key: &[u8; 32]) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{prefix}{digits}");
    format!("{text}{:08x}", crc32fast::hash(text.as_bytes()))
}

fn recipient(disk: &[u8]) -> Option<PublicKey> {
    Label::parse(crate::common::block(disk, 0)).unwrap().recipient().copied()
}

#[test]
fn keygen_writes_a_private_file_and_prints_the_public_key_that_belongs_to_it() {
    let place = Place::new();
    let file = place.text("identity");
    let public = keygen(&file);
    assert!(public.starts_with("diskdump-public:"), "{public}");
    assert_eq!(key_of(&public), public_key(&secret(&file)));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.lines().any(|line| line == format!("# {public}")),
        "the public key can be found again: {text}"
    );

    let other = place.text("other");
    let (code, stdout, _) = run(["keygen", &other, "--json"]);
    let result = json(&stdout);
    assert_eq!((code, result["file"].as_str()), (0, Some(other.as_str())));
    assert_eq!(key_of(result["public_key"].as_str().unwrap()), public_key(&secret(&other)));
    assert_eq!(result.get("secret_key"), None, "it is in the file alone");
    assert_ne!(secret(&file), secret(&other));
}

#[test]
fn keygen_without_a_file_prints_what_would_be_in_it() {
    let place = Place::new();
    let (code, stdout, stderr) = run(["keygen"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let file = place.image("identity", stdout.as_bytes());
    let public = text_of("diskdump-public:", &public_key(&secret(&file)));
    assert!(stdout.contains(&public), "{stdout}");
    let (_, stdout, _) = run(["keygen", "--json"]);
    let result = json(&stdout);
    let key = |name: &str| key_of(result[name].as_str().unwrap());
    assert_eq!((key("public_key"), &result["file"]), (public_key(&key("secret_key")), &Value::Null));
}

#[test]
fn keygen_never_writes_over_anything_nor_through_a_link() {
    let place = Place::new();
    let file = place.image("precious", b"precious");
    fails(["keygen", &file], "exists already and was left as it is");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let link = place.text("link");
    symlink(place.path("elsewhere"), &link).unwrap();
    fails(["keygen", &link], "exists already");
    assert!(!place.path("elsewhere").exists());
    fails(["keygen", &place.text("nowhere/identity")], "cannot create");
    fails(["keygen", &place.text("")], "cannot create");
}

#[test]
fn keygen_that_finds_no_room_leaves_no_part_of_a_key() {
    let place = Place::new();
    let file = place.text("identity");
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" keygen \"$1\"";
    let output =
        Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_savecore"), &file]).output().unwrap();
    let (code, stdout, stderr) = finish(output);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
    assert!(stderr.contains("cannot write"), "{stderr}");
    assert!(!Path::new(&file).exists());
}

#[test]
fn a_recipient_is_taken_as_text_or_from_a_file_and_check_and_info_tell_it() {
    let place = Place::new();
    let public = keygen(&place.text("identity"));
    let file = place.image("key.pub", format!("\n# of rack 7\n  {public}\n\n").as_bytes());
    let upper = format!("diskdump-public:{}", public["diskdump-public:".len()..].to_uppercase());
    for argument in [&public, &file, &upper] {
        let image = place.image("image", &vec![0; 60 * BLOCK_SIZE]);
        let (code, stdout, _) = run(["format", &image, "--yes", "--recipient", argument, "--json"]);
        assert_eq!((code, json(&stdout)["recipient"].as_str()), (0, Some(public.as_str())));
        assert_eq!(recipient(&fs::read(&image).unwrap()), Some(key_of(&public)));
        let (code, stdout, _) = run(["check", &image, "--json"]);
        assert_eq!((code, json(&stdout)["recipient"].as_str()), (0, Some(public.as_str())));
        let (code, stdout, _) = run(["check", &image]);
        assert_eq!(
            (code, stdout.contains(&format!("dumps are encrypted to {public}"))),
            (0, true),
            "{stdout}"
        );
        let (code, stdout, _) = run(["info", &image, "--json"]);
        assert_eq!((code, json(&stdout)["targets"][0]["recipient"].as_str()), (1, Some(public.as_str())));
    }
    let image = place.image("image", &vec![0; 60 * BLOCK_SIZE]);
    let (code, stdout, _) = run(["format", &image, "--yes", "--recipient", &public]);
    assert_eq!((code, stdout.contains(&format!("dumps are encrypted to {public}"))), (0, true), "{stdout}");
    // Formatted again without a recipient, dumps are no longer encrypted.
    let (code, stdout, stderr) = run(["format", &image, "--yes", "--json"]);
    assert_eq!((code, &json(&stdout)["recipient"]), (0, &Value::Null));
    assert!(stderr.contains("without --recipient, new ones will not be"), "{stderr}");
    assert_eq!(recipient(&fs::read(&image).unwrap()), None);
    let (_, stdout, _) = run(["check", &image]);
    assert!(!stdout.contains("encrypted"), "{stdout}");
}

#[test]
fn a_bad_recipient_is_refused_and_nothing_is_written() {
    let place = Place::new();
    let identity = place.text("identity");
    let public = keygen(&identity);
    let private = secret_line(&identity);
    let zeros = vec![0; 60 * BLOCK_SIZE];
    let image = place.image("image", &zeros);
    let mut mistyped = public.clone();
    mistyped.replace_range(20..21, if &public[20..21] == "0" { "1" } else { "0" });
    // A point of small order: anyone can compute the key of dumps encrypted to it.
    let weak = text_of("diskdump-public:", &[0; 32]);
    let two = place.image("two", format!("{public}\n{public}\n").as_bytes());
    let none = place.image("none", b"# nothing\n");
    let wrong = place.image("wrong", format!("{mistyped}\n").as_bytes());
    let noise = place.image("noise", &vec![b'x'; 100_000]);
    let binary = place.image("binary", &[0xff; 100]);
    for (argument, part) in [
        (mistyped.as_str(), "--recipient is mistyped: its last 8 digits are not the checksum"),
        (&public[..87], "an incomplete key: it has 71 of 72 digits"),
        (&format!("{}x", &public[..87]), "mistyped: a key has hexadecimal digits only"),
        (&weak, "a weak key"),
        (&private, "a secret key: use the public one"),
        (&identity, &format!("{identity} holds a secret key")),
        (&identity, &public),
        (&two, "more than one line"),
        (&none, "holds no key"),
        (&wrong, "line 1 is mistyped"),
        (&noise, "too large to be a key"),
        (&binary, "cannot read"),
        ("nonsense", "neither a key (diskdump-public:…) nor a file with one"),
        ("", "neither a key"),
    ] {
        let (code, stdout, stderr) = run(["format", &image, "--yes", "--recipient", argument]);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{argument}: {stderr}");
        assert!(stderr.contains(part), "{stderr} should contain {part}");
        assert!(!stderr.contains(&private["diskdump-secret:".len()..]), "the secret was repeated: {stderr}");
    }
    assert!(fs::read(&image).unwrap() == zeros, "something was written");
}

#[test]
fn a_recipient_takes_no_question_away() {
    let place = Place::new();
    let public = keygen(&place.text("identity"));
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    fails(["format", &image, "--yes", "--recipient", &public], "nobody has saved: save first");
    let ext = place.image("ext", &vec![7; 60 * BLOCK_SIZE]);
    fails(["format", &ext, "--recipient", &public], "add --yes");
    assert!(fs::read(&image).unwrap() == disk && fs::read(&ext).unwrap() == vec![7; 60 * BLOCK_SIZE]);
    assert_eq!(run(["format", &image, "--yes", "--force", "--recipient", &public]).0, 0);
    assert_eq!(recipient(&fs::read(&image).unwrap()), Some(key_of(&public)));
}

#[test]
fn a_bad_identity_is_refused_before_work_and_never_repeated() {
    let place = Place::new();
    let disk = with_dump(&Machine::small());
    let image = place.image("image", &disk);
    let identity = place.text("identity");
    let public = keygen(&identity);
    let private = secret_line(&identity);
    let mut mistyped = private.clone();
    mistyped.replace_range(20..21, if &private[20..21] == "0" { "1" } else { "0" });
    let mistyped = place.image("mistyped", format!("# mine\n{mistyped}\n").as_bytes());
    let short = place.image("short", &private.as_bytes()[..80]);
    let public = place.image("public", public.as_bytes());
    let empty = place.image("empty", b"");
    let out = place.out();
    for (file, part) in [
        (mistyped.as_str(), "line 2 is mistyped: its last 8 digits are not the checksum"),
        (&short, "line 1 is an incomplete key: it has 64 of 72 digits"),
        (&public, "holds a public key: dumps are opened with the secret one"),
        (&empty, "holds no key"),
        (&image, "cannot use the identity: "),
        (&place.text("nowhere"), "cannot open"),
        // The key itself, given by mistake, is not repeated either.
        (&private, "--identity takes a file; this is a secret key"),
    ] {
        for command in [&["save", &image, "-o", &out][..], &["info", &image], &["check", &image]] {
            let arguments = [command, &["--identity", file]].concat();
            let (code, stdout, stderr) = run(&arguments);
            assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{stderr}");
            assert!(stderr.contains(part), "{stderr} should contain {part}");
            assert!(!stderr.contains(&private["diskdump-secret:".len()..][..40]), "repeated: {stderr}");
        }
    }
    assert!(fs::read(&image).unwrap() == disk && place.cores("out").is_empty());
}

#[test]
fn an_identity_that_others_can_read_is_warned_about_and_used() {
    let place = Place::new();
    let image = place.image("image", &formatted(20));
    let identity = place.text("identity");
    keygen(&identity);
    let (code, _, stderr) = run(["check", &image, "--identity", &identity]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for mode in [0o640, 0o604, 0o777] {
        fs::set_permissions(&identity, fs::Permissions::from_mode(mode)).unwrap();
        let (code, stdout, stderr) = run(["check", &image, "--identity", &identity]);
        assert_eq!((code, stderr.lines().count()), (0, 1), "{stdout}{stderr}");
        assert!(stderr.contains(&format!("others may use it (mode {mode:o}): `chmod 600` it")), "{stderr}");
    }
    // A pipe belongs to the user at both ends.
    let script = "exec \"$0\" check \"$1\" --identity <(cat \"$2\")";
    let output = Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_savecore"), &image, &identity])
        .output()
        .unwrap();
    assert_eq!(finish(output).2, "");
}
