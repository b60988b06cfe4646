//! Bytes of a fuzzer, taken apart.

/// What is left of the input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Two bytes, little-endian: a comparison's operand that the fuzzer puts in is found again as it stands.
    pub(crate) fn half(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// Four bytes, little-endian.
    pub(crate) fn word(&mut self) -> Option<u32> {
        Some(u32::from(self.half()?) | u32::from(self.half()?) << 16)
    }

    /// At most `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Exactly `len` bytes, zeros where the input has no more.
    pub(crate) fn padded(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = self.take(len).to_vec();
        bytes.resize(len, 0);
        bytes
    }
}
