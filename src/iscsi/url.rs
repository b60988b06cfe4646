//! The URL form of libiscsi and QEMU.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

use super::ChapSecret;

/// A network portal: where a target listens. Port 3260 unless the URL says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Portal {
    /// A name or an address; IPv6 addresses without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `iscsi://[user[%password]@]host[:port][/target[/lun]]`.
#[derive(Clone, Debug)]
pub struct IscsiUrl {
    /// Where to connect.
    pub portal: Portal,
    /// The CHAP name in the URL.
    pub user: Option<String>,
    /// The CHAP secret in the URL, as libiscsi allows; whoever uses it warns.
    pub password: Option<ChapSecret>,
    /// The target's name; absent where a portal is meant.
    pub target: Option<String>,
    /// The LUN; absent for the target's only disk.
    pub lun: Option<u64>,
}

impl FromStr for IscsiUrl {
    type Err = Error;

    fn from_str(_text: &str) -> Result<Self> {
        Err(Error::new(ErrorKind::Usage, "iSCSI URLs are not there yet"))
    }
}
