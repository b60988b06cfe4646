//! The iSCSI initiator (RFC 7143): discovery, sessions and LUNs that can only be read.
//!
//! `pdu` is bytes to and from PDUs; `proto` the protocol without sockets or clock; `connect` and `driver` give it
//! both. Retries live here and nowhere above: a [`Lun`] answers with right data or, within the time that an operation
//! may take, with an error.

mod config;
mod connect;
mod discovery;
mod driver;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod lun;
mod paths;
mod pdu;
mod proto;
mod routes;
mod session;
mod told;
mod unit;
mod url;
mod watch;

pub use config::{ChapAlgorithm, ChapSecret, Config, Credentials, DigestPolicy};
pub use discovery::{TargetRecord, discover};
pub use lun::Lun;
pub use paths::PathInfo;
pub use session::{LunInfo, Session};
pub use url::{IscsiUrl, Portal};

/// Whether a header is one that a target may send; parses it as a whole, for the benches.
#[doc(hidden)]
pub fn is_target_pdu(header: &[u8; 48]) -> bool {
    pdu::Incoming::parse(&pdu::Bhs(*header)).is_ok()
}
