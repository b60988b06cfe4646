//! Serial numbers that wrap (RFC 7143 section 4.2.2, RFC 1982).

/// A CmdSN or StatSN: 32 bits, ordered by serial-number arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serial(pub(crate) u32);

impl Serial {
    /// The number after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether this one comes before the other: by less than half the circle.
    pub(crate) fn precedes(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead < 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(Serial(u32::MAX).precedes(Serial(0)));
        assert!(!Serial(0).precedes(Serial(u32::MAX)));
        assert!(!Serial(5).precedes(Serial(5)));
        assert_eq!(Serial(u32::MAX).next(), Serial(0));
    }
}
