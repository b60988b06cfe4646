//! The protocol core: PDUs and times in, PDUs, results and the next deadline out. No sockets and no clock here.

mod backoff;
mod buffers;
mod chap;
mod engine;
mod keys;
mod login;
mod notices;
mod receiver;
mod text;
mod verdict;
mod window;

pub(crate) use backoff::Backoff;
pub(crate) use engine::{Check, Command, Engine, Event, Fault, Limits, Payload};
#[cfg(any(test, fuzzing))]
pub(crate) use keys::Negotiation;
pub(crate) use keys::{MAX_RECV_DATA_SEGMENT, Negotiated};
pub(crate) use login::{Login, LoginStep, LoginTarget};
pub(crate) use notices::Notices;
pub(crate) use receiver::{Need, Receiver};
pub(crate) use text::{TextAnswer, pairs};
pub(crate) use verdict::MAX_TRIES;
pub(crate) use window::Window;
