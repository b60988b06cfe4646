//! SendTargets (RFC 7143 appendix C): one answer, in as many text responses as it takes.

use crate::keys::Keys;
use crate::wire::{NO_TAG, Pdu, response};

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Text collected over PDUs with the C bit is cut off here.
const MAX_TEXT: usize = 64 * 1024;

/// The exchange under way on one connection.
#[derive(Default)]
pub(crate) struct Exchange {
    collected: Vec<u8>,
    rest: Option<Vec<u8>>,
    /// How many pieces have gone out: the Target Transfer Tag of the next one.
    pieces: u32,
}

/// Why a text request is rejected: a reason of RFC 7143 section 11.17.1, and words.
pub(crate) type Refusal = (u8, String);
const PROTOCOL_ERROR: u8 = 0x04;

impl Exchange {
    /// Takes one text request; `answer` makes the answer to the keys, `size` caps the text of one response.
    pub(crate) fn handle(
        &mut self,
        request: &Pdu,
        size: usize,
        answer: impl FnOnce(&Keys) -> Keys,
    ) -> Result<Pdu, Refusal> {
        let flags = request.bhs[1];
        let tag = request.u32_at(20);
        if let Some(rest) = self.rest.take().filter(|_| tag != NO_TAG) {
            if tag != self.pieces || !request.data.is_empty() {
                return Err((
                    PROTOCOL_ERROR,
                    format!("text request with tag {tag:#x} or with text"),
                ));
            }
            return Ok(self.next_piece(request, rest, size));
        }
        if tag != NO_TAG && self.collected.is_empty() {
            return Err((PROTOCOL_ERROR, format!("text request with unknown tag {tag:#x}")));
        }
        self.collected.extend_from_slice(&request.data);
        if self.collected.len() > MAX_TEXT {
            return Err((PROTOCOL_ERROR, "too much text".into()));
        }
        if flags & CONTINUE != 0 {
            self.pieces += 1;
            let reply = Pdu::new(response::TEXT, 0).with_u32(20, self.pieces);
            return Ok(reply.with_u32(16, request.itt()));
        }
        let keys = Keys::parse(&std::mem::take(&mut self.collected))
            .map_err(|what| (PROTOCOL_ERROR, format!("text: {what}")))?;
        let reply = answer(&keys).encode();
        Ok(self.next_piece(request, reply, size))
    }

    fn next_piece(&mut self, request: &Pdu, mut text: Vec<u8>, size: usize) -> Pdu {
        if text.len() <= size {
            return Pdu::new(response::TEXT, FINAL)
                .with_u32(16, request.itt())
                .with_u32(20, NO_TAG)
                .with_data(text);
        }
        self.rest = Some(text.split_off(size));
        self.pieces += 1;
        Pdu::new(response::TEXT, CONTINUE)
            .with_u32(16, request.itt())
            .with_u32(20, self.pieces)
            .with_data(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request;

    #[test]
    fn a_long_answer_comes_in_pieces_that_the_initiator_asks_for() {
        let mut exchange = Exchange::default();
        let long = |_: &Keys| {
            let mut keys = Keys::default();
            keys.push("TargetName", "x".repeat(25));
            keys
        };
        let first = Pdu::new(request::TEXT, FINAL)
            .with_u32(20, NO_TAG)
            .with_data(&b"SendTargets=All\0"[..]);
        let mut reply = exchange.handle(&first, 10, long).unwrap();
        let mut text = reply.data.to_vec();
        while reply.bhs[1] == CONTINUE {
            let next = Pdu::new(request::TEXT, FINAL).with_u32(20, reply.u32_at(20));
            reply = exchange.handle(&next, 10, |_| panic!("already answered")).unwrap();
            assert!(reply.data.len() <= 10);
            text.extend_from_slice(&reply.data);
        }
        assert_eq!((reply.bhs[1], reply.u32_at(20)), (FINAL, NO_TAG));
        assert_eq!(text, format!("TargetName={}\0", "x".repeat(25)).as_bytes());
    }

    #[test]
    fn a_tag_nobody_gave_is_rejected() {
        let stray = Pdu::new(request::TEXT, FINAL).with_u32(20, 9);
        assert!(Exchange::default().handle(&stray, 10, Keys::clone).is_err());
    }
}
