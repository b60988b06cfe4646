//! CHAP from the target's side (RFC 7143 section 12.1.3): we challenge, and prove ourselves where asked to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Digest as _;

/// A hash for CHAP_A, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChapAlgorithm {
    /// 5
    Md5,
    /// 6
    Sha1,
    /// 7
    Sha256,
    /// 8
    Sha3_256,
}

impl ChapAlgorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3_256 => 8,
        }
    }

    /// The first algorithm of the initiator's list that is among `accepted`.
    pub(crate) fn choose(offer: &str, accepted: &[Self]) -> Option<Self> {
        offer.split(',').find_map(|item| {
            let number: u8 = item.trim().parse().ok()?;
            Self::ALL.into_iter().find(|a| a.number() == number && accepted.contains(a))
        })
    }

    /// The response to a challenge (RFC 1994 section 4.1): the hash of identifier, secret and challenge.
    pub(crate) fn response(self, id: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
        let message = [&[id], secret.as_bytes(), challenge].concat();
        match self {
            Self::Md5 => md5::Md5::digest(message).to_vec(),
            Self::Sha1 => sha1::Sha1::digest(message).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(message).to_vec(),
            Self::Sha3_256 => sha3::Sha3_256::digest(message).to_vec(),
        }
    }
}

/// How binary values are written (RFC 7143 section 6.1, "binary-value").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryForm {
    /// `0x` and hexadecimal digits.
    #[default]
    Hex,
    /// `0b` and base64.
    Base64,
}

/// What a target asks of initiators.
#[derive(Clone)]
pub struct Chap {
    /// CHAP_N of the initiator.
    pub user: String,
    /// The initiator's secret.
    pub secret: String,
    /// Our own name and secret, where the initiator asks us to prove ourselves.
    pub mutual: Option<(String, String)>,
    /// The algorithms we take.
    pub algorithms: Vec<ChapAlgorithm>,
    /// Length of our challenge in bytes, 1 to 1024.
    pub challenge_length: usize,
    /// How we write our challenge and response.
    pub form: BinaryForm,
}

impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chap").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Chap {
    /// One-way CHAP with MD5 and a challenge of 16 bytes.
    pub fn new(user: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            secret: secret.into(),
            mutual: None,
            algorithms: vec![ChapAlgorithm::Md5],
            challenge_length: 16,
            form: BinaryForm::Hex,
        }
    }

    /// The same, and we prove ourselves as `user` where asked to.
    #[must_use]
    pub fn mutual(mut self, user: impl Into<String>, secret: impl Into<String>) -> Self {
        self.mutual = Some((user.into(), secret.into()));
        self
    }
}

pub(crate) fn write_binary(form: BinaryForm, bytes: &[u8]) -> String {
    match form {
        BinaryForm::Hex => {
            bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
        }
        BinaryForm::Base64 => format!("0b{}", BASE64.encode(bytes)),
    }
}

pub(crate) fn read_binary(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let padded = if hex.len() % 2 == 1 { format!("0{hex}") } else { hex.to_owned() };
        return padded
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
    }
    let base64 = text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"))?;
    BASE64.decode(base64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_in_both_forms() {
        for form in [BinaryForm::Hex, BinaryForm::Base64] {
            assert_eq!(read_binary(&write_binary(form, &[0, 1, 255])), Some(vec![0, 1, 255]));
        }
        assert_eq!(read_binary("0Xf"), Some(vec![15]));
        assert_eq!(read_binary("12"), None);
        assert_eq!(read_binary("0xzz"), None);
    }

    #[test]
    fn the_initiators_order_decides() {
        use ChapAlgorithm::{Md5, Sha1, Sha256};
        assert_eq!(ChapAlgorithm::choose("7,6,5", &[Md5, Sha1]), Some(Sha1));
        assert_eq!(ChapAlgorithm::choose("99,5", &[Md5]), Some(Md5));
        assert_eq!(ChapAlgorithm::choose("5", &[Sha256]), None);
    }

    #[test]
    fn the_md5_response_covers_identifier_secret_and_challenge() {
        // md5sum of the six bytes 01 "abc" 02 03
        let response = ChapAlgorithm::Md5.response(1, "abc", &[2, 3]);
        assert_eq!(response, md5::Md5::digest(b"\x01abc\x02\x03").to_vec());
        assert_eq!(response.len(), 16);
    }
}
