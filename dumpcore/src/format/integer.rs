//! Integers as they are on disk: little-endian, at any address.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Defines an integer on disk.
macro_rules! little_endian {
    ($name:ident, $native:ident, $bytes:literal, $about:literal) => {
        #[doc = $about]
        #[derive(
            Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
        )]
        #[repr(transparent)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Zero.
            pub const ZERO: $name = $name([0; $bytes]);

            /// The integer with this value.
            pub const fn new(value: $native) -> $name {
                $name(value.to_le_bytes())
            }

            /// Its value.
            pub const fn get(self) -> $native {
                $native::from_le_bytes(self.0)
            }

            /// Gives it another value.
            pub fn set(&mut self, value: $native) {
                *self = $name::new(value);
            }
        }

        impl From<$native> for $name {
            fn from(value: $native) -> $name {
                $name::new(value)
            }
        }

        impl From<$name> for $native {
            fn from(value: $name) -> $native {
                value.get()
            }
        }

        impl PartialEq<$native> for $name {
            fn eq(&self, value: &$native) -> bool {
                self.get() == *value
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Debug::fmt(&self.get(), out)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.get(), out)
            }
        }
    };
}

little_endian!(U16, u16, 2, "A 16-bit unsigned integer, least significant byte first.");
little_endian!(U32, u32, 4, "A 32-bit unsigned integer, least significant byte first.");
little_endian!(U64, u64, 8, "A 64-bit unsigned integer, least significant byte first.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_significant_byte_comes_first_on_every_machine() {
        assert_eq!(U16::new(0x0102).as_bytes(), [2, 1]);
        assert_eq!(U32::new(0x0102_0304).as_bytes(), [4, 3, 2, 1]);
        assert_eq!(U64::new(0x0102_0304_0506_0708).as_bytes(), [8, 7, 6, 5, 4, 3, 2, 1]);
        let mut value = U32::ZERO;
        value.set(u32::MAX - 1);
        assert_eq!((value.get(), u32::from(value)), (u32::MAX - 1, u32::MAX - 1));
    }
}
