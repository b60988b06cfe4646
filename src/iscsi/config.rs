//! Who we are and how we log in.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;

/// A CHAP secret. Never shown by `Debug`, wiped from memory when dropped.
#[derive(Clone)]
pub struct ChapSecret(pub SecretString);

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
    /// HeaderDigest.
    pub header_digest: DigestPolicy,
    /// DataDigest.
    pub data_digest: DigestPolicy,
    /// The longest that one operation (a login, a read) may take, retries included.
    pub timeout: Duration,
}
