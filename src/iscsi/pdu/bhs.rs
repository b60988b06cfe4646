//! The Basic Header Segment that begins every PDU (RFC 7143 section 11.2.1).

use super::Serial;

/// Bytes in a Basic Header Segment.
pub(crate) const BHS_LEN: usize = 48;

/// The reserved task tag: "no task".
pub(crate) const NO_TAG: u32 = 0xffff_ffff;

/// The opcode's bits in the first byte.
const OPCODE_MASK: u8 = 0x3f;
/// I: outside the command window.
const IMMEDIATE: u8 = 0x40;
/// F in the second byte.
pub(crate) const FINAL: u8 = 0x80;

/// Forty-eight bytes with big-endian fields at fixed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bhs(pub(crate) [u8; BHS_LEN]);

impl Bhs {
    /// An initiator's header: opcode and flags; all else is zero.
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; BHS_LEN];
        bytes[0] = opcode & OPCODE_MASK;
        bytes[1] = flags;
        Self(bytes)
    }

    /// Marks it for immediate delivery.
    pub(crate) fn immediate(mut self) -> Self {
        self.0[0] |= IMMEDIATE;
        self
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.0[0] & OPCODE_MASK
    }

    pub(crate) fn flags(&self) -> u8 {
        self.0[1]
    }

    /// Bytes of Additional Header Segments that follow.
    pub(crate) fn ahs_len(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// DataSegmentLength, without padding.
    pub(crate) fn data_len(&self) -> usize {
        let [_, _, _, _, _, a, b, c, ..] = self.0;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// Sets DataSegmentLength; `len` is below 2^24.
    pub(crate) fn set_data_len(&mut self, len: usize) {
        let bytes = u32::try_from(len).expect("data segments are below 16 MiB").to_be_bytes();
        debug_assert_eq!(bytes[0], 0);
        self.0[5..8].copy_from_slice(&bytes[1..]);
    }

    pub(crate) fn itt(&self) -> u32 {
        self.u32(16)
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.0[at..].first_chunk().expect("fields lie inside the header")
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn put<const N: usize>(&mut self, at: usize, field: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&field);
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, value.to_be_bytes());
    }

    pub(crate) fn put_serial(&mut self, at: usize, value: Serial) {
        self.put_u32(at, value.0);
    }
}

/// The three serial numbers that every PDU of a target carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) stat_sn: Serial,
    pub(crate) exp_cmd_sn: Serial,
    pub(crate) max_cmd_sn: Serial,
}

impl Sequence {
    pub(crate) fn parse(bhs: &Bhs) -> Self {
        Self {
            stat_sn: Serial(bhs.u32(24)),
            exp_cmd_sn: Serial(bhs.u32(28)),
            max_cmd_sn: Serial(bhs.u32(32)),
        }
    }
}
