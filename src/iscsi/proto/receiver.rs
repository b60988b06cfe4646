//! The byte stream of a target becomes PDUs: headers, digests, padding, and data that goes straight to its command.

use std::time::Instant;

use bytes::{Buf, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::iscsi::pdu::{BHS_LEN, Bhs, Digests, Incoming, padding};

use super::{Engine, Fault, Payload};

/// The longest data segment that is collected apart, in bytes: sense data, text, rejected headers.
const MAX_SEGMENT: usize = 64 << 10;

/// Data segments of at least this many bytes are read past the inbox.
const BULKY: usize = 32 << 10;

/// What the receiver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// More bytes in [`Receiver::inbox`].
    Bytes,
    /// So many bytes of data behind what is in the buffer of this command; [`Receiver::received`] tells of them.
    Data { itt: u32, left: usize },
}

/// Where in a PDU the stream stands.
#[derive(Debug)]
enum State {
    Header,
    /// In the data segment (`left` bytes are missing) or in the padding and digest behind it.
    Body {
        incoming: Incoming,
        payload: Payload,
        len: usize,
        left: usize,
        digest: u32,
    },
}

/// Takes the stream of one connection apart.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// What has been read from the socket and not been looked at.
    pub(crate) inbox: BytesMut,
    digests: Digests,
    state: State,
    segment: Vec<u8>,
    bulky: bool,
}

impl Receiver {
    /// `inbox` may hold bytes that came behind the last login response.
    pub(crate) fn new(digests: Digests, inbox: BytesMut) -> Self {
        Self { inbox, digests, state: State::Header, segment: Vec::new(), bulky: false }
    }

    /// Works through the inbox.
    pub(crate) fn process<T>(
        &mut self,
        engine: &mut Engine<T>,
        now: Instant,
    ) -> Result<Need, Fault> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(bhs) = self.header()? else { return Ok(Need::Bytes) };
                    let (incoming, payload) = engine.begin(&bhs, now)?;
                    let len = bhs.data_len();
                    if payload == Payload::Segment && len > MAX_SEGMENT {
                        return Err(Fault::protocol(format!(
                            "the target sent a PDU with {len} bytes that are no data"
                        )));
                    }
                    if len > 0 {
                        self.bulky = len >= BULKY;
                    }
                    self.state = State::Body { incoming, payload, len, left: len, digest: 0 };
                }
                State::Body { payload, left, digest, .. } if *left > 0 => {
                    let there = self.inbox.len().min(*left);
                    let bytes = &self.inbox[..there];
                    match *payload {
                        Payload::Segment => self.segment.extend_from_slice(bytes),
                        Payload::Discard => {}
                        Payload::Data(itt) => match engine.buffer(itt) {
                            Some(buffer) => buffer.extend_from_slice(bytes),
                            // Given up while its data was coming in.
                            None => *payload = Payload::Discard,
                        },
                    }
                    if self.digests.data {
                        *digest = crc32c::crc32c_append(*digest, bytes);
                    }
                    *left -= there;
                    self.inbox.advance(there);
                    if *left > 0 {
                        return Ok(match *payload {
                            Payload::Data(itt) => Need::Data { itt, left: *left },
                            _ => Need::Bytes,
                        });
                    }
                }
                State::Body { incoming, payload, len, digest, .. } => {
                    let pad = padding(*len);
                    let with_digest = self.digests.data && *len > 0;
                    let trailer = pad + if with_digest { 4 } else { 0 };
                    if self.inbox.len() < trailer {
                        return Ok(Need::Bytes);
                    }
                    if with_digest {
                        let digest = crc32c::crc32c_append(*digest, &self.inbox[..pad]);
                        if digest.to_le_bytes() != self.inbox[pad..trailer] {
                            let mut fault = Fault::protocol("data digest mismatch");
                            if let Payload::Data(itt) = *payload {
                                fault.blame = Some(itt);
                            }
                            return Err(fault);
                        }
                    }
                    self.inbox.advance(trailer);
                    let incoming = *incoming;
                    self.state = State::Header;
                    let result = engine.finish(&incoming, &self.segment, now);
                    self.segment.clear();
                    result?;
                }
            }
        }
    }

    /// Whether data comes in segments so long that a large read into the inbox would only be copied on.
    pub(crate) fn is_bulky(&self) -> bool {
        self.bulky
    }

    /// `count` bytes were appended to the buffer of the command that [`Need::Data`] named.
    pub(crate) fn received<T>(&mut self, engine: &mut Engine<T>, count: usize) {
        if let State::Body { payload: Payload::Data(itt), left, digest, .. } = &mut self.state {
            debug_assert!(count <= *left, "no more was asked for");
            *left = left.saturating_sub(count);
            if self.digests.data {
                if let Some(buffer) = engine.buffer(*itt) {
                    let new = buffer.len().saturating_sub(count);
                    *digest = crc32c::crc32c_append(*digest, &buffer[new..]);
                }
            }
        }
    }

    /// A whole header with its AHS and digest, if it is there. AHS of a target mean nothing here and are skipped.
    fn header(&mut self) -> Result<Option<Bhs>, Fault> {
        let Some(bytes) = self.inbox.first_chunk::<BHS_LEN>() else { return Ok(None) };
        let bhs = Bhs(*bytes);
        let len = BHS_LEN + bhs.ahs_len();
        let whole = len + if self.digests.header { 4 } else { 0 };
        if self.inbox.len() < whole {
            return Ok(None);
        }
        if self.digests.header {
            let digest = crc32c::crc32c(&self.inbox[..len]);
            if digest.to_le_bytes() != self.inbox[len..whole] {
                let error = Error::new(ErrorKind::Protocol, "header digest mismatch");
                return Err(Fault::new(error));
            }
        }
        self.inbox.advance(whole);
        Ok(Some(bhs))
    }
}
