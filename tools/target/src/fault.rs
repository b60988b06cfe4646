//! What is to go wrong, and when: the script of a target.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use crate::lock;
use crate::lun::AccessState;
use crate::scsi;
use crate::sense::Sense;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// In order (FIN).
    Fin,
    /// With a reset (RST).
    Reset,
}

/// The residual that an answer to a READ claims (RFC 7143 section 11.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// No residual at all.
    None,
    /// U flag and count.
    Underflow(u32),
    /// O flag and count.
    Overflow(u32),
}

/// One thing that goes wrong. Those on answers change the answer to the command or PDU that the rule matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends instead of an answer.
    Close(Close),
    /// The connection ends when this many bytes of the answer's data have been sent.
    CloseAfter(usize, Close),
    /// The answer comes later; other answers do not wait for it.
    Delay(Duration),
    /// This is never answered.
    Silence,
    /// Nothing is ever sent on this connection again, keepalives included.
    Mute,
    /// The first PDU of the answer comes in two TCP segments, cut at this byte, with a pause between.
    Split(usize, Duration),
    /// The first PDU of the answer has a wrong header digest.
    BadHeaderDigest,
    /// A bit of the answer's first data is flipped after its digest was computed.
    BadData,
    /// The answer's Data-In PDU with this index is not sent; the others are as if it had been.
    LoseDataIn(usize),
    /// The answer's Data-In PDU with this index is sent twice.
    RepeatDataIn(usize),
    /// A Data-In without data goes out before the one with this index.
    EmptyDataIn(usize),
    /// DataSN jumps by one at this index; no data is missing.
    SkipDataSn(usize),
    /// The answer has another Initiator Task Tag, one that no task uses.
    WrongItt,
    /// This many bytes are missing at the end of the data, and the status claims this residual.
    Short(usize, Residual),
    /// The Buffer Offset of the last Data-In is this one.
    WildOffset(u32),
    /// The header of the answer's first PDU claims a data segment of this many bytes.
    ClaimLength(u32),
    /// The header of the answer's first PDU claims this many words of AHS.
    ClaimAhs(u8),
    /// The answer's first PDU has another opcode.
    Opcode(u8),
    /// StatSN jumps by this much before the answer.
    StatSnJump(u32),
    /// This status and sense instead of the answer.
    Status(u8, Option<Sense>),
    /// A Reject PDU with this reason instead of the answer.
    Reject(u8),
    /// An asynchronous message before the answer (RFC 7143 section 11.9).
    Async(AsyncMessage),
    /// MaxCmdSN stays where it is for a time; then a NOP-In opens the window again.
    FreezeWindow(Duration),
    /// A login is answered with this status class and detail.
    LoginStatus(u8, u8),
    /// A login is answered with a redirection to this `address:port` (0102 where permanent, else 0101).
    Redirect {
        /// TargetAddress.
        to: String,
        /// 0102 instead of 0101.
        permanent: bool,
    },
    /// The text of login or text answers comes in pieces of at most this many bytes, with the C bit.
    Pieces(usize),
    /// More keys in the answer to a login or text request.
    MoreKeys(Vec<(String, String)>),
    /// This login request is answered without the transit that the initiator asks for.
    NoTransit,
    /// The LUN is deleted, from this command on.
    Vanish,
    /// The LUN has this many blocks, from this command on.
    Resize(u64),
    /// A unit attention (or several) arises for every session, before this command.
    Attention(Vec<Sense>),
    /// The LUN has these access states, one for each portal, from this command on, with unit attention 2A/06.
    Access(Vec<AccessState>),
    /// The LUN is not ready, from this command on, for a time.
    NotReady(Duration),
}

/// An asynchronous message (RFC 7143 section 11.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncMessage {
    /// Event 0: a SCSI asynchronous event with sense data.
    Scsi(Sense),
    /// Event 1: the target asks for a logout within this many seconds.
    LogoutRequest(u16),
    /// Event 2: the target is about to drop the connection; then it does.
    DropConnection {
        /// Time2Wait in seconds.
        time2wait: u16,
    },
    /// Event 3: the target is about to drop all connections of the session; then it does.
    DropSession {
        /// Time2Wait in seconds.
        time2wait: u16,
    },
    /// Event 4: parameters should be negotiated again within this many seconds.
    Renegotiate(u16),
}

/// What a rule waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A connection.
    Connect,
    /// A login request.
    Login,
    /// A text request.
    Text,
    /// A NOP-Out that wants an answer.
    Nop,
    /// A logout request.
    Logout,
    /// A task management request.
    TaskManagement,
    /// Any SCSI command.
    Command,
    /// A SCSI command with this operation code.
    Opcode(u8),
    /// READ(10) or READ(16).
    Read,
    /// READ(10) or READ(16) of any block in this range of LBAs.
    ReadOf(Range<u64>),
}

/// A fault, and when it happens.
#[derive(Clone, Debug)]
pub struct Rule {
    on: On,
    fault: Fault,
    skip: u64,
    left: Option<u64>,
    portal: Option<usize>,
}

impl Rule {
    /// `fault` happens once, at the first event that `on` describes.
    pub fn new(on: On, fault: Fault) -> Self {
        Self { on, fault, skip: 0, left: Some(1), portal: None }
    }

    /// The first `n` matching events pass without it.
    #[must_use]
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// It happens `n` times.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.left = Some(n);
        self
    }

    /// It happens every time.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// Only at the portal with this index.
    #[must_use]
    pub fn at_portal(mut self, index: usize) -> Self {
        self.portal = Some(index);
        self
    }
}

/// Something that just happened.
pub(crate) enum Occasion<'a> {
    Connect,
    Login,
    Text,
    Nop,
    Logout,
    TaskManagement,
    Command(&'a [u8]),
}

impl On {
    fn matches(&self, occasion: &Occasion<'_>) -> bool {
        match (self, occasion) {
            (Self::Connect, Occasion::Connect)
            | (Self::Login, Occasion::Login)
            | (Self::Text, Occasion::Text)
            | (Self::Nop, Occasion::Nop)
            | (Self::Logout, Occasion::Logout)
            | (Self::TaskManagement, Occasion::TaskManagement)
            | (Self::Command, Occasion::Command(_)) => true,
            (Self::Opcode(opcode), Occasion::Command(cdb)) => cdb[0] == *opcode,
            (Self::Read, Occasion::Command(cdb)) => scsi::read_range(cdb).is_some(),
            (Self::ReadOf(wanted), Occasion::Command(cdb)) => scsi::read_range(cdb)
                .is_some_and(|range| range.start < wanted.end && wanted.start < range.end),
            _ => false,
        }
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Script(Mutex<Vec<Rule>>);

impl Script {
    pub(crate) fn add(&self, rule: Rule) {
        lock(&self.0).push(rule);
    }

    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The faults that happen now, in the order in which their rules were given; every rule counts the occasion.
    pub(crate) fn faults(&self, portal: usize, occasion: &Occasion<'_>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for rule in lock(&self.0).iter_mut() {
            let here = rule.portal.is_none_or(|wanted| wanted == portal);
            if !here || rule.left == Some(0) || !rule.on.matches(occasion) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.left = rule.left.map(|left| left - 1);
            faults.push(rule.fault.clone());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read10(lba: u8, blocks: u8) -> [u8; 16] {
        let mut cdb = [0; 16];
        (cdb[0], cdb[5], cdb[8]) = (0x28, lba, blocks);
        cdb
    }

    #[test]
    fn a_rule_waits_fires_and_is_spent() {
        let script = Script::default();
        script.add(Rule::new(On::Read, Fault::Silence).after(1).times(2));
        let fired: Vec<_> =
            (0..5).map(|_| script.faults(0, &Occasion::Command(&read10(0, 1))).len()).collect();
        assert_eq!(fired, [0, 1, 1, 0, 0]);
    }

    #[test]
    fn ranges_and_portals_narrow_a_rule() {
        let script = Script::default();
        script.add(Rule::new(On::ReadOf(8..16), Fault::Silence).always().at_portal(1));
        let fires = |portal, lba, blocks| {
            !script.faults(portal, &Occasion::Command(&read10(lba, blocks))).is_empty()
        };
        assert!(fires(1, 8, 1) && fires(1, 15, 1) && fires(1, 0, 9));
        assert!(!fires(1, 0, 8) && !fires(1, 16, 4) && !fires(0, 8, 1));
        assert!(script.faults(1, &Occasion::Login).is_empty());
    }
}
