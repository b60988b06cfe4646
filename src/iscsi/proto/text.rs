//! Text segments: `key=value` pairs, each ended by a zero byte (RFC 7143 section 6.1).

use crate::error::{Error, ErrorKind, Result};

/// The longest text that is collected over several PDUs, in bytes: room for some ten thousand targets.
const MAX_TEXT: usize = 4 << 20;

/// Appends `key=value\0`.
pub(crate) fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// The pairs of a whole text. Bytes that are not UTF-8 are replaced; a pair without `=` is an error.
pub(crate) fn pairs(text: &[u8]) -> Result<Vec<(String, String)>> {
    let parts = text.split(|&byte| byte == 0).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let part = String::from_utf8_lossy(part);
            match part.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(Error::new(
                    ErrorKind::Protocol,
                    format!(
                        "the target sent text that is no key=value: \"{}\"",
                        part.escape_debug()
                    ),
                )),
            }
        })
        .collect()
}

/// A text that arrives over several PDUs.
#[derive(Debug, Default)]
pub(crate) struct TextAnswer(Vec<u8>);

impl TextAnswer {
    /// Adds the data segment of one PDU.
    pub(crate) fn add(&mut self, segment: &[u8]) -> Result<()> {
        if self.0.len().saturating_add(segment.len()) > MAX_TEXT {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("the target sent more than {MAX_TEXT} bytes of text"),
            ));
        }
        self.0.extend_from_slice(segment);
        Ok(())
    }

    /// Takes the whole text.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equal_signs_and_a_pair_may_span_segments() {
        let mut answer = TextAnswer::default();
        answer.add(b"TargetName=iqn.x\0Target").unwrap();
        answer.add(b"Alias=a=b\0\0").unwrap();
        let pairs = pairs(&answer.take()).unwrap();
        assert_eq!(
            pairs,
            [("TargetName", "iqn.x"), ("TargetAlias", "a=b")].map(|(k, v)| (k.into(), v.into()))
        );
    }

    #[test]
    fn not_a_pair_and_too_much() {
        assert!(pairs(b"Nonsense\0").is_err());
        let mut answer = TextAnswer::default();
        answer.add(&vec![b'x'; MAX_TEXT]).unwrap();
        assert!(answer.add(b"x").is_err());
    }
}
