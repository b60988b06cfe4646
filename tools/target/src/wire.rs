//! PDUs as the wire has them (RFC 7143 section 11): header, additional header segments, digests, data, padding.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a basic header segment.
pub(crate) const BHS: usize = 48;

/// The tag that names no task (RFC 7143 section 11.2.1.8) and no transfer.
pub(crate) const NO_TAG: u32 = 0xffff_ffff;

/// The longest data segment taken from an initiator, in bytes; also what we declare as MaxRecvDataSegmentLength.
pub(crate) const MAX_RECV: usize = 8192;

/// Opcodes an initiator sends (RFC 7143 section 11.2.1.2).
pub(crate) mod request {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const LOGOUT: u8 = 0x06;
}

/// Opcodes a target sends.
pub(crate) mod response {
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x22;
    pub(crate) const LOGIN: u8 = 0x23;
    pub(crate) const TEXT: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT: u8 = 0x26;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// Whether serial number `a` comes before `b` (RFC 1982, as RFC 7143 section 4.2.2 asks for).
pub(crate) fn is_before(a: u32, b: u32) -> bool {
    let ahead = b.wrapping_sub(a);
    ahead != 0 && ahead < 1 << 31
}

/// Which digests are in force (RFC 7143 section 13.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

/// One PDU without digests and padding.
#[derive(Clone, Debug)]
pub(crate) struct Pdu {
    pub(crate) bhs: [u8; BHS],
    pub(crate) data: Bytes,
}

impl Pdu {
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut bhs = [0; BHS];
        bhs[0] = opcode;
        bhs[1] = flags;
        Self { bhs, data: Bytes::new() }
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.bhs[0] & 0x3f
    }

    pub(crate) fn immediate(&self) -> bool {
        self.bhs[0] & 0x40 != 0
    }

    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.bhs[at], self.bhs[at + 1], self.bhs[at + 2], self.bhs[at + 3]])
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.bhs[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// The same with a 32-bit field set.
    pub(crate) fn with_u32(mut self, at: usize, value: u32) -> Self {
        self.set_u32(at, value);
        self
    }

    /// The same with some header bytes set.
    pub(crate) fn with_bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.bhs[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn with_data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = data.into();
        self
    }

    /// Initiator Task Tag.
    pub(crate) fn itt(&self) -> u32 {
        self.u32_at(16)
    }

    pub(crate) fn cmd_sn(&self) -> u32 {
        self.u32_at(24)
    }

    pub(crate) fn exp_stat_sn(&self) -> u32 {
        self.u32_at(28)
    }

    pub(crate) fn lun_field(&self) -> [u8; 8] {
        self.bhs[8..16].try_into().expect("eight bytes of a fixed array")
    }
}

/// Why no further PDU can be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection ended in the middle of one, or failed.
    Lost,
    /// A digest did not match, or a length was too large: the stream is lost (error recovery level 0).
    Broken(String),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Reads one PDU; `None` where the peer closed between two.
pub(crate) async fn read_pdu(
    stream: &mut (impl AsyncRead + Unpin),
    digests: Digests,
) -> Result<Option<Pdu>, ReadError> {
    let mut bhs = [0; BHS];
    if stream.read(&mut bhs[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bhs[1..]).await?;
    let mut ahs = vec![0; usize::from(bhs[4]) * 4];
    stream.read_exact(&mut ahs).await?;
    if digests.header {
        let wanted = crc32c::crc32c_append(crc32c::crc32c(&bhs), &ahs);
        let found = stream.read_u32_le().await?;
        if found != wanted {
            return Err(ReadError::Broken(format!("header digest {found:#x}, not {wanted:#x}")));
        }
    }
    let length = usize::try_from(u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]))
        .expect("24 bits fit a usize");
    if length > MAX_RECV {
        return Err(ReadError::Broken(format!(
            "data segment of {length} bytes, at most {MAX_RECV}"
        )));
    }
    let mut data = BytesMut::zeroed(length.next_multiple_of(4));
    stream.read_exact(&mut data).await?;
    if digests.data && length > 0 {
        let wanted = crc32c::crc32c(&data);
        let found = stream.read_u32_le().await?;
        if found != wanted {
            return Err(ReadError::Broken(format!("data digest {found:#x}, not {wanted:#x}")));
        }
    }
    if data[length..].iter().any(|&pad| pad != 0) {
        return Err(ReadError::Broken("padding that is not zero".into()));
    }
    data.truncate(length);
    Ok(Some(Pdu { bhs, data: data.freeze() }))
}

/// How one PDU is to differ from what the RFC asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mangle {
    /// Flip a bit of the header digest.
    pub(crate) bad_header_digest: bool,
    /// Flip a bit of the data after its digest was computed.
    pub(crate) bad_data: bool,
    /// Say this DataSegmentLength instead of the true one.
    pub(crate) claim_length: Option<u32>,
    /// Say this TotalAHSLength (in words) and send no AHS.
    pub(crate) claim_ahs: Option<u8>,
}

/// The header part of a PDU on the wire, and what follows its data.
pub(crate) struct Encoded {
    pub(crate) head: Vec<u8>,
    pub(crate) data: Bytes,
    pub(crate) tail: Vec<u8>,
}

/// Lays one PDU out; sets its length fields.
pub(crate) fn encode(mut pdu: Pdu, digests: Digests, mangle: &Mangle) -> Encoded {
    let length = u32::try_from(pdu.data.len()).expect("segments are cut to 24 bits");
    let claimed = mangle.claim_length.unwrap_or(length) & 0x00ff_ffff;
    pdu.bhs[4] = mangle.claim_ahs.unwrap_or(0);
    pdu.bhs[5..8].copy_from_slice(&claimed.to_be_bytes()[1..]);
    let mut head = pdu.bhs.to_vec();
    if digests.header {
        let flip = u32::from(mangle.bad_header_digest);
        head.extend((crc32c::crc32c(&pdu.bhs) ^ flip).to_le_bytes());
    }
    let mut tail = vec![0; pdu.data.len().next_multiple_of(4) - pdu.data.len()];
    if digests.data && !pdu.data.is_empty() {
        let digest = crc32c::crc32c_append(crc32c::crc32c(&pdu.data), &tail);
        tail.extend(digest.to_le_bytes());
    }
    let mut data = pdu.data;
    if mangle.bad_data && !data.is_empty() {
        let mut flipped = BytesMut::from(&data[..]);
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        data = flipped.freeze();
    }
    Encoded { head, data, tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(encoded: &Encoded) -> Vec<u8> {
        [&encoded.head[..], &encoded.data[..], &encoded.tail[..]].concat()
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_with_every_choice_of_digests() {
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let digests = Digests { header, data };
            let pdu = Pdu::new(request::TEXT, 0x80).with_data(&b"SendTargets=All\0x"[..]);
            let wire = bytes(&encode(pdu, digests, &Mangle::default()));
            let mut stream = &wire[..];
            let back = read_pdu(&mut stream, digests).await.unwrap().unwrap();
            assert_eq!(
                (back.opcode(), &back.data[..]),
                (request::TEXT, &b"SendTargets=All\0x"[..])
            );
            assert!(read_pdu(&mut stream, digests).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn mangled_digests_do_not_match() {
        let digests = Digests { header: true, data: true };
        for mangle in [
            Mangle { bad_header_digest: true, ..Mangle::default() },
            Mangle { bad_data: true, ..Mangle::default() },
        ] {
            let pdu = Pdu::new(request::TEXT, 0x80).with_data(&b"abcd"[..]);
            let wire = bytes(&encode(pdu, digests, &mangle));
            let answer = read_pdu(&mut &wire[..], digests).await;
            assert!(matches!(answer, Err(ReadError::Broken(_))), "{mangle:?}");
        }
    }

    #[test]
    fn the_digest_is_the_one_of_the_rfc() {
        // RFC 7143 appendix A.5 (examples of CRC32C): 32 bytes of zeros give aa 36 91 8a on the wire.
        assert_eq!(crc32c::crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }
}
