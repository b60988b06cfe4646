//! CHAP (RFC 7143 section 12.1.3, RFC 1994): each side proves that it knows a secret without sending it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use md5::Md5;
use secrecy::ExposeSecret;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

use crate::iscsi::{ChapAlgorithm, ChapSecret};

/// The longest challenge or response, in bytes (RFC 7143 section 12.1.3).
const MAX_BINARY: usize = 1024;

impl ChapAlgorithm {
    /// The number in CHAP_A.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3_256 => 8,
        }
    }

    /// Bytes in a response; a challenge of ours has the same length.
    pub(crate) fn response_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }

    /// CHAP_R: the digest of identifier, secret and challenge.
    pub(crate) fn response(self, identifier: u8, secret: &ChapSecret, challenge: &[u8]) -> Vec<u8> {
        fn digest<D: Digest>(identifier: u8, secret: &ChapSecret, challenge: &[u8]) -> Vec<u8> {
            let digest = D::new().chain_update([identifier]);
            let digest = digest.chain_update(secret.0.expose_secret());
            digest.chain_update(challenge).finalize().to_vec()
        }
        match self {
            Self::Md5 => digest::<Md5>(identifier, secret, challenge),
            Self::Sha1 => digest::<Sha1>(identifier, secret, challenge),
            Self::Sha256 => digest::<Sha256>(identifier, secret, challenge),
            Self::Sha3_256 => digest::<Sha3_256>(identifier, secret, challenge),
        }
    }
}

impl fmt::Display for ChapAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA-256",
            Self::Sha3_256 => "SHA3-256",
        })
    }
}

/// Base64 with or without its padding: targets send both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// A binary value: `0x` hexadecimal or `0b` base64 (RFC 7143 section 6.1). `None`: neither, or too long.
pub(crate) fn decode_binary(value: &str) -> Option<Vec<u8>> {
    let (form, digits) = value.split_at_checked(2)?;
    let bytes = match form {
        "0x" | "0X" => decode_hex(digits)?,
        "0b" | "0B" => BASE64.decode(digits).ok()?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= MAX_BINARY).then_some(bytes)
}

fn decode_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    // An odd number of digits has lost its leading zero.
    let (first, rest) = digits.as_bytes().split_at(digits.len() % 2);
    let first = first.iter().map(|&byte| digit(byte));
    let rest = rest.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
    first.chain(rest).collect()
}

/// The hexadecimal form of a binary value.
pub(crate) fn encode_binary(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_by_its_known_answer() {
        let secret = ChapSecret::from("bc");
        // Digests of "abc", spread over identifier 'a', secret "bc" and an empty challenge.
        for (algorithm, known) in [
            (ChapAlgorithm::Md5, "0x900150983cd24fb0d6963f7d28e17f72"),
            (ChapAlgorithm::Sha1, "0xa9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                ChapAlgorithm::Sha256,
                "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                ChapAlgorithm::Sha3_256,
                "0x3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
            ),
        ] {
            let response = algorithm.response(b'a', &secret, b"");
            assert_eq!(encode_binary(&response), known, "{algorithm}");
            assert_eq!(response.len(), algorithm.response_len());
        }
    }

    #[test]
    fn binary_values_in_both_forms() {
        assert_eq!(decode_binary("0x0aFF").unwrap(), [0x0a, 0xff]);
        assert_eq!(decode_binary("0xabc").unwrap(), [0x0a, 0xbc]);
        assert_eq!(decode_binary("0bQUJD").unwrap(), b"ABC");
        assert_eq!(decode_binary("0bQUI=").unwrap(), b"AB");
        assert_eq!(decode_binary("0bQUI").unwrap(), b"AB");
        let long = encode_binary(&[7; MAX_BINARY]);
        assert_eq!(decode_binary(&long).unwrap().len(), MAX_BINARY);
        for bad in ["", "0", "12", "0x", "0xzz", "0b!", "0x+1", "é"] {
            assert_eq!(decode_binary(bad), None, "{bad}");
        }
        assert_eq!(decode_binary(&format!("{long}00")), None);
    }
}
