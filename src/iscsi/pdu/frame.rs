//! A header and its data segment become bytes: padding and digests (RFC 7143 sections 11.2.2 and 11.2.3).

use bytes::{BufMut, BytesMut};

use super::Bhs;

/// Which parts of a PDU a CRC32C follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

/// The zero bytes behind a data segment of `len` bytes, up to a multiple of four.
pub(crate) fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// A PDU as it goes out, with its data segment.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) bhs: Bhs,
    pub(crate) data: Vec<u8>,
}

impl Outgoing {
    /// Appends the PDU as it stands on the wire.
    pub(crate) fn write(mut self, digests: Digests, out: &mut BytesMut) {
        self.bhs.set_data_len(self.data.len());
        write_header(&self.bhs, digests, out);
        if self.data.is_empty() {
            return;
        }
        let start = out.len();
        out.put_slice(&self.data);
        out.put_bytes(0, padding(self.data.len()));
        if digests.data {
            let digest = crc32c::crc32c(&out[start..]);
            out.put_u32_le(digest);
        }
    }
}

/// Appends a PDU without a data segment.
pub(crate) fn write_header(bhs: &Bhs, digests: Digests, out: &mut BytesMut) {
    out.put_slice(&bhs.0);
    if digests.header {
        // The digest is stored with the byte order of the CRC's own bit order (section 13.1), which is
        // little-endian here.
        out.put_u32_le(crc32c::crc32c(&bhs.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_to_four_bytes_with_digests_over_the_padding() {
        let mut out = BytesMut::new();
        let pdu = Outgoing { bhs: Bhs::new(0, 0x80), data: b"abcde".to_vec() };
        pdu.write(Digests { header: true, data: true }, &mut out);
        assert_eq!(out.len(), 48 + 4 + 8 + 4);
        assert_eq!(out[5..8], [0, 0, 5]);
        assert_eq!(out[48..52], crc32c::crc32c(&out[..48]).to_le_bytes());
        assert_eq!(out[60..], crc32c::crc32c(b"abcde\0\0\0").to_le_bytes());
    }

    #[test]
    fn crc32c_of_thirty_two_zero_bytes() {
        // RFC 7143 appendix B.4: the digest's bytes on the wire are aa 36 91 8a.
        assert_eq!(crc32c::crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn padding_of_each_length() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }
}
