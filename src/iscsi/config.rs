//! Who we are and how we log in.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;

/// A CHAP secret. Never shown by `Debug`, wiped from memory when dropped.
#[derive(Clone)]
pub struct ChapSecret(pub SecretString);

impl From<&str> for ChapSecret {
    fn from(secret: &str) -> Self {
        Self(SecretString::from(secret))
    }
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChapSecret(..)")
    }
}

/// A CHAP name with its secret (RFC 7143 section 12.1.3).
#[derive(Clone, Debug)]
pub struct Credentials {
    /// CHAP_N.
    pub name: String,
    /// What CHAP_R is computed from.
    pub secret: ChapSecret,
}

impl Credentials {
    /// A name and its secret.
    pub fn new(name: impl Into<String>, secret: impl Into<ChapSecret>) -> Self {
        Self { name: name.into(), secret: secret.into() }
    }
}

/// A CHAP algorithm, by its number in IANA's registry of PPP authentication algorithms.
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

/// What we offer for HeaderDigest or DataDigest (RFC 7143 section 13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DigestPolicy {
    /// `None` only.
    None,
    /// `None,CRC32C`: takes CRC32C only where the target insists.
    #[default]
    Allow,
    /// `CRC32C,None`.
    Prefer,
    /// `CRC32C` only.
    Require,
}

/// Everything a login needs to know besides the target.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our iSCSI name (InitiatorName), which the SAN's access lists know.
    pub initiator: String,
    /// How we prove who we are.
    pub credentials: Option<Credentials>,
    /// How the target must prove who it is (mutual CHAP).
    pub target_credentials: Option<Credentials>,
    /// The CHAP algorithms that we offer, the preferred one first.
    pub chap_algorithms: Vec<ChapAlgorithm>,
    /// HeaderDigest.
    pub header_digest: DigestPolicy,
    /// DataDigest.
    pub data_digest: DigestPolicy,
    /// The longest that one operation (a login, a read) may take, retries included.
    pub timeout: Duration,
    /// The most portals of a target that are read through at the same time; 1: no more than one, and the others only
    /// in its place.
    pub paths: usize,
}

impl Config {
    /// The defaults for this initiator name: no credentials, digests where the target insists, 30 s.
    pub fn new(initiator: impl Into<String>) -> Self {
        use ChapAlgorithm::{Md5, Sha1, Sha3_256, Sha256};
        Self {
            initiator: initiator.into(),
            credentials: None,
            target_credentials: None,
            chap_algorithms: vec![Md5, Sha256, Sha1, Sha3_256],
            header_digest: DigestPolicy::default(),
            data_digest: DigestPolicy::default(),
            timeout: Duration::from_secs(30),
            paths: 8,
        }
    }
}
