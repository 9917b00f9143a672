//! VMCOREINFO: a kernel's description of itself for readers of its memory, as lines of text.
//!
//! Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst. Addresses are hexadecimal; all other numbers are
//! decimal unless they begin with `0x`.

/// The text. It may come from a damaged kernel: whatever it contains, a look-up ends and returns a value or
/// none.
#[derive(Clone, Copy, Debug)]
pub struct Vmcoreinfo<'a>(pub &'a [u8]);

impl<'a> Vmcoreinfo<'a> {
    /// The value in the first line `KEY=VALUE`. `None` if it is not UTF-8.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.value(&[key])
    }

    /// The address of a variable or a function.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hexadecimal(self.value(&["SYMBOL(", name, ")"])?)
    }

    /// Offset of a member in its structure, in bytes.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        decimal(self.value(&["OFFSET(", structure, ".", member, ")"])?)?.try_into().ok()
    }

    /// Size of a structure in bytes.
    pub fn size(&self, structure: &str) -> Option<u64> {
        decimal(self.value(&["SIZE(", structure, ")"])?)?.try_into().ok()
    }

    /// Number of elements of an array.
    pub fn length(&self, array: &str) -> Option<u64> {
        decimal(self.value(&["LENGTH(", array, ")"])?)?.try_into().ok()
    }

    /// A constant.
    pub fn number(&self, name: &str) -> Option<i64> {
        decimal(self.value(&["NUMBER(", name, ")"])?)
    }

    /// A number by its whole key, such as `NUMBER(PG_lru)` or `SYMBOL(mem_section)`. Negative numbers are
    /// returned in two's complement.
    pub(crate) fn by_key(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        if key.starts_with("SYMBOL(") { hexadecimal(text) } else { decimal(text).map(i64::cast_unsigned) }
    }

    /// The value of the key made of these parts.
    fn value(&self, key: &[&str]) -> Option<&'a str> {
        let mut lines = self.0.split(|byte| *byte == b'\n');
        let value = lines.find_map(|line| {
            let rest = key.iter().try_fold(line, |rest, part| rest.strip_prefix(part.as_bytes()))?;
            rest.strip_prefix(b"=")
        })?;
        core::str::from_utf8(value).ok()
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    // `from_str_radix` would accept a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn decimal(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => hexadecimal(digits).map(u64::cast_signed),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: Vmcoreinfo<'_> = Vmcoreinfo(
        b"OSRELEASE=6.1.0-56-cloud-amd64\nPAGESIZE=4096\nSYMBOL(mem_section)=ffff8994d7dc4000\nLENGTH(mem_section)=2048\n\
          SIZE(mem_section)=16\nOFFSET(page.flags)=0\nOFFSET(page._refcount)=52\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\n\
          SIZE(odd)=-1\nSYMBOL(odd)=+ff\nNUMBER(hex)=0x10\nNUMBER(odd)=x\nSIZE(twice)=1\nSIZE(twice)=2\nNUMBER(cut",
    );

    #[test]
    fn values_are_found_by_kind_and_name() {
        assert_eq!(TEXT.text("OSRELEASE"), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(TEXT.symbol("mem_section"), Some(0xffff_8994_d7dc_4000));
        assert_eq!(TEXT.length("mem_section"), Some(2048));
        assert_eq!(TEXT.size("mem_section"), Some(16));
        assert_eq!(TEXT.offset("page", "flags"), Some(0));
        assert_eq!(TEXT.offset("page", "_refcount"), Some(52));
        assert_eq!(TEXT.number("PAGE_BUDDY_MAPCOUNT_VALUE"), Some(-129));
        assert_eq!(TEXT.number("hex"), Some(16));
        assert_eq!(TEXT.size("twice"), Some(1));
    }

    #[test]
    fn what_is_not_there_or_no_number_is_none() {
        assert_eq!(TEXT.text("OSRELEAS"), None);
        assert_eq!(TEXT.symbol("mem"), None);
        assert_eq!(TEXT.offset("page", "flag"), None);
        assert_eq!(TEXT.size("odd"), None);
        assert_eq!(TEXT.symbol("odd"), None);
        assert_eq!(TEXT.number("odd"), None);
        assert_eq!(TEXT.number("cut"), None);
        assert_eq!(Vmcoreinfo(b"SIZE(a)=\xff\xfe").size("a"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_look_up_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), name in "\\PC{0,9}") {
            let info = Vmcoreinfo(&bytes);
            let _ = (info.text(&name), info.symbol(&name), info.size(&name), info.length(&name));
            let _ = (info.number(&name), info.offset(&name, &name), info.by_key(&name));
        }

        #[test]
        fn what_a_kernel_prints_is_what_is_read(address: u64, number: i64, length in 0..=i64::MAX) {
            let text = format!("SYMBOL(a)={address:x}\nNUMBER(a)={number}\nLENGTH(a)={length}\n");
            let info = Vmcoreinfo(text.as_bytes());
            prop_assert_eq!(info.symbol("a"), Some(address));
            prop_assert_eq!(info.number("a"), Some(number));
            prop_assert_eq!(info.length("a"), Some(length.cast_unsigned()));
        }
    }
}
