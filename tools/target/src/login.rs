//! The login phase from the target's side (RFC 7143 sections 6 and 11.12-11.13), a state machine without a socket.

use std::sync::Arc;

use crate::chap::{self, Chap, ChapAlgorithm};
use crate::fault::Fault;
use crate::keys::Keys;
use crate::server::{Config, DigestSupport, Target};
use crate::wire::{Digests, MAX_RECV, Pdu, response};

const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Stages (CSG and NSG).
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Text collected over PDUs with the C bit is cut off here.
const MAX_TEXT: usize = 64 * 1024;

/// What a login agreed.
#[derive(Clone, Debug)]
pub(crate) struct Negotiated {
    pub(crate) initiator: String,
    pub(crate) isid: [u8; 6],
    /// `None` in a discovery session.
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) digests: Digests,
    /// The initiator's MaxRecvDataSegmentLength.
    pub(crate) segment: usize,
    pub(crate) max_burst: usize,
}

/// What becomes of a login request.
pub(crate) enum Verdict {
    /// The login goes on.
    Reply(Pdu),
    /// The full-feature phase follows this answer.
    Done(Pdu, Box<Negotiated>),
    /// The connection ends after this answer.
    Refuse(Pdu),
}

/// A login status (RFC 7143 section 11.13.5): class and detail.
type Status = (u8, u8);
const INITIATOR_ERROR: Status = (2, 0);
const AUTHENTICATION_FAILURE: Status = (2, 1);
const NOT_FOUND: Status = (2, 3);
const MISSING_PARAMETER: Status = (2, 7);
const SESSION_TYPE: Status = (2, 9);
const NO_SESSION: Status = (2, 0x0a);

#[derive(Debug, Default)]
enum Security {
    /// Nothing agreed yet.
    #[default]
    Open,
    /// AuthMethod=CHAP agreed.
    Chap,
    /// We have sent this challenge.
    Challenged { algorithm: ChapAlgorithm, id: u8, challenge: Vec<u8> },
    /// Nothing further is asked for.
    Passed,
}

/// A login under way.
pub(crate) struct Login<'a> {
    config: &'a Config,
    targets: &'a [Arc<Target>],
    portal: usize,
    /// Set by the first request.
    leading: Option<Leading<'a>>,
    security: Security,
    collected: Vec<u8>,
    /// The rest of an answer that goes out in pieces, and what follows it.
    pieces: Option<Pieces>,
    declared: bool,
    digests: Digests,
    segment: usize,
    max_burst: usize,
    seen: Vec<String>,
    violations: Vec<String>,
}

struct Leading<'a> {
    initiator: String,
    target: Option<&'a Arc<Target>>,
    isid: [u8; 6],
    itt: u32,
    cmd_sn: u32,
}

struct Pieces {
    rest: Vec<u8>,
    size: usize,
    flags: u8,
}

impl<'a> Login<'a> {
    pub(crate) fn new(config: &'a Config, targets: &'a [Arc<Target>], portal: usize) -> Self {
        Self {
            config,
            targets,
            portal,
            leading: None,
            security: Security::Open,
            collected: Vec::new(),
            pieces: None,
            declared: false,
            digests: Digests::default(),
            segment: 8192,
            max_burst: config.max_burst,
            seen: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// The rules that the initiator broke since the last call.
    pub(crate) fn violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Takes one login request.
    pub(crate) fn handle(&mut self, request: &Pdu, faults: &[Fault]) -> Verdict {
        match self.answer(request, faults) {
            Ok(verdict) => verdict,
            Err((class, detail)) => {
                let reply = self.response(request, 0).with_bytes(36, &[class, detail]);
                Verdict::Refuse(reply)
            }
        }
    }

    fn answer(&mut self, request: &Pdu, faults: &[Fault]) -> Result<Verdict, Status> {
        for fault in faults {
            match fault {
                Fault::LoginStatus(class, detail) => return Err((*class, *detail)),
                Fault::Redirect { to, permanent } => {
                    let mut keys = Keys::default();
                    keys.push("TargetAddress", to);
                    let reply = self
                        .response(request, 0)
                        .with_bytes(36, &[1, 1 + u8::from(*permanent)])
                        .with_data(keys.encode());
                    return Ok(Verdict::Refuse(reply));
                }
                _ => {}
            }
        }
        let flags = request.bhs[1];
        let stage = flags >> 2 & 3;
        self.check_header(request, flags);
        if let Some(mut pieces) = self.pieces.take() {
            if !request.data.is_empty() {
                self.violations.push("text in a login request while an answer goes on".into());
            }
            return Ok(self.next_piece(request, &mut pieces));
        }
        self.collected.extend_from_slice(&request.data);
        if self.collected.len() > MAX_TEXT {
            return Err(INITIATOR_ERROR);
        }
        if flags & CONTINUE != 0 {
            return Ok(Verdict::Reply(self.response(request, stage << 2)));
        }
        let keys = Keys::parse(&std::mem::take(&mut self.collected)).map_err(|what| {
            self.violations.push(format!("login: {what}"));
            INITIATOR_ERROR
        })?;
        let mut reply = Keys::default();
        if self.leading.is_none() {
            self.lead(request, &keys, &mut reply)?;
        }
        match stage {
            SECURITY => self.security(&keys, &mut reply)?,
            OPERATIONAL => self.operational(&keys, &mut reply)?,
            _ => return Err(INITIATOR_ERROR),
        }
        for fault in faults {
            if let Fault::MoreKeys(more) = fault {
                more.iter().for_each(|(key, value)| reply.push(key, value));
            }
        }
        let held_back =
            faults.contains(&Fault::NoTransit) || (stage == SECURITY && !self.may_pass());
        let flags = match flags & TRANSIT {
            0 => stage << 2,
            _ if held_back => stage << 2,
            _ => TRANSIT | stage << 2 | flags & 3,
        };
        let size = faults.iter().find_map(|fault| match fault {
            Fault::Pieces(size) => Some((*size).max(1)),
            _ => None,
        });
        let mut pieces = Pieces { rest: reply.encode(), size: size.unwrap_or(8192), flags };
        Ok(self.next_piece(request, &mut pieces))
    }

    fn check_header(&mut self, request: &Pdu, flags: u8) {
        let mut require = |holds: bool, what: &str| {
            if !holds {
                self.violations.push(format!("login request: {what}"));
            }
        };
        require(flags & (TRANSIT | CONTINUE) != TRANSIT | CONTINUE, "both T and C");
        require(flags & 0x30 == 0, "reserved flags");
        require(flags & TRANSIT != 0 || flags & 3 == 0, "an NSG without T");
        require(request.bhs[3] == 0, "a Version-min above 0");
        require(request.immediate(), "no immediate bit");
        if let Some(leading) = &self.leading {
            require(request.itt() == leading.itt, "another Initiator Task Tag within the login");
            require(request.bhs[8..14] == leading.isid, "another ISID within the login");
            require(request.cmd_sn() == leading.cmd_sn, "another CmdSN within the login");
        }
    }

    /// The names in the first request (RFC 7143 section 6.3).
    fn lead(&mut self, request: &Pdu, keys: &Keys, reply: &mut Keys) -> Result<(), Status> {
        let initiator = keys.get("InitiatorName").ok_or(MISSING_PARAMETER)?.to_owned();
        let target = match keys.get("SessionType").unwrap_or("Normal") {
            "Discovery" => None,
            "Normal" => {
                let name = keys.get("TargetName").ok_or(MISSING_PARAMETER)?;
                let target = self.targets.iter().find(|target| target.name() == name);
                let target = target.filter(|target| target.is_visible_to(&initiator));
                Some(target.ok_or(NOT_FOUND)?)
            }
            _ => return Err(SESSION_TYPE),
        };
        if request.bhs[14..16] != [0, 0] {
            return Err(NO_SESSION);
        }
        if let Some(target) = target {
            if let Some(alias) = &target.alias {
                reply.push("TargetAlias", alias);
            }
            reply.push("TargetPortalGroupTag", (self.portal + 1).to_string());
        }
        let isid = request.bhs[8..14].try_into().expect("six bytes");
        self.leading =
            Some(Leading { initiator, target, isid, itt: request.itt(), cmd_sn: request.cmd_sn() });
        Ok(())
    }

    fn chap(&self) -> Option<&'a Chap> {
        match self.leading.as_ref()?.target {
            Some(target) => target.chap.as_ref(),
            None => self.config.discovery_chap.as_ref(),
        }
    }

    fn may_pass(&self) -> bool {
        matches!(self.security, Security::Passed) || self.chap().is_none()
    }

    fn security(&mut self, keys: &Keys, reply: &mut Keys) -> Result<(), Status> {
        if let Some(offer) = keys.get("AuthMethod") {
            let wanted = if self.chap().is_some() { "CHAP" } else { "None" };
            if !offer.split(',').any(|method| method == wanted) {
                return Err(AUTHENTICATION_FAILURE);
            }
            reply.push("AuthMethod", wanted);
            self.security = if wanted == "CHAP" { Security::Chap } else { Security::Passed };
        }
        if let Some(offer) = keys.get("CHAP_A") {
            self.challenge(offer, reply)?;
        }
        if let Some(answer) = keys.get("CHAP_R") {
            self.prove(keys, answer, reply)?;
        }
        Ok(())
    }

    fn challenge(&mut self, offer: &str, reply: &mut Keys) -> Result<(), Status> {
        let (Security::Chap, Some(chap)) = (&self.security, self.chap()) else {
            return Err(INITIATOR_ERROR);
        };
        let algorithm =
            ChapAlgorithm::choose(offer, &chap.algorithms).ok_or(AUTHENTICATION_FAILURE)?;
        let mut challenge = vec![0; chap.challenge_length];
        let mut id = [0];
        getrandom::fill(&mut challenge)
            .and_then(|()| getrandom::fill(&mut id))
            .map_err(|_| (3, 0))?;
        reply.push("CHAP_A", algorithm.number().to_string());
        reply.push("CHAP_I", id[0].to_string());
        reply.push("CHAP_C", chap::write_binary(chap.form, &challenge));
        self.security = Security::Challenged { algorithm, id: id[0], challenge };
        Ok(())
    }

    fn prove(&mut self, keys: &Keys, answer: &str, reply: &mut Keys) -> Result<(), Status> {
        let (Security::Challenged { algorithm, id, challenge }, Some(chap)) =
            (&self.security, self.chap())
        else {
            return Err(INITIATOR_ERROR);
        };
        let right = algorithm.response(*id, &chap.secret, challenge);
        let found = chap::read_binary(answer).ok_or(INITIATOR_ERROR)?;
        if keys.get("CHAP_N") != Some(&chap.user) || found != right {
            return Err(AUTHENTICATION_FAILURE);
        }
        if let (Some(id), Some(theirs)) = (keys.get("CHAP_I"), keys.get("CHAP_C")) {
            let id = id.parse().map_err(|_| INITIATOR_ERROR)?;
            let theirs = chap::read_binary(theirs).ok_or(INITIATOR_ERROR)?;
            let (name, secret) = chap.mutual.as_ref().ok_or(AUTHENTICATION_FAILURE)?;
            if theirs == *challenge {
                self.violations.push("CHAP: our own challenge came back".into());
                return Err(AUTHENTICATION_FAILURE);
            }
            let response = algorithm.response(id, secret, &theirs);
            reply.push("CHAP_N", name);
            reply.push("CHAP_R", chap::write_binary(chap.form, &response));
        }
        self.security = Security::Passed;
        Ok(())
    }

    /// The operational keys (RFC 7143 section 13).
    fn operational(&mut self, keys: &Keys, reply: &mut Keys) -> Result<(), Status> {
        if !self.may_pass() {
            return Err(AUTHENTICATION_FAILURE);
        }
        for (key, value) in keys.iter() {
            if self.seen.iter().any(|seen| seen == key) {
                self.violations.push(format!("{key} was sent twice"));
            }
            self.seen.push(key.to_owned());
            if let Some(result) = self.negotiate(key, value)? {
                reply.push(key, result);
            }
        }
        if !self.declared {
            reply.push("MaxRecvDataSegmentLength", MAX_RECV.to_string());
            self.declared = true;
        }
        Ok(())
    }

    /// The result of one key; `None` for those that are only declared.
    fn negotiate(&mut self, key: &str, value: &str) -> Result<Option<String>, Status> {
        if matches!(value, "NotUnderstood" | "Reject" | "Irrelevant") {
            return Ok(None);
        }
        let result = match key {
            "InitiatorName" | "InitiatorAlias" | "SessionType" | "TargetName" => return Ok(None),
            "MaxRecvDataSegmentLength" => {
                self.segment = self.number(key, value, 512, 0x00ff_ffff)?;
                return Ok(None);
            }
            "HeaderDigest" => {
                let chosen = self.config.header_digest.choose(value).ok_or(INITIATOR_ERROR)?;
                self.digests.header = chosen == "CRC32C";
                chosen.to_owned()
            }
            "DataDigest" => {
                let chosen = self.config.data_digest.choose(value).ok_or(INITIATOR_ERROR)?;
                self.digests.data = chosen == "CRC32C";
                chosen.to_owned()
            }
            "MaxBurstLength" => {
                let theirs = self.number(key, value, 512, 0x00ff_ffff)?;
                self.max_burst = theirs.min(self.config.max_burst);
                self.max_burst.to_string()
            }
            "FirstBurstLength" => self.number(key, value, 512, 0x00ff_ffff)?.min(65536).to_string(),
            "MaxConnections" => self.number(key, value, 1, 65535)?.min(1).to_string(),
            "MaxOutstandingR2T" => self.number(key, value, 1, 65535)?.min(1).to_string(),
            "ErrorRecoveryLevel" => {
                self.number(key, value, 0, 2)?;
                "0".to_owned()
            }
            "DefaultTime2Wait" => {
                let ours = usize::from(self.config.time2wait);
                self.number(key, value, 0, 3600)?.max(ours).to_string()
            }
            "DefaultTime2Retain" => self.number(key, value, 0, 3600)?.min(20).to_string(),
            "InitialR2T" | "DataPDUInOrder" | "DataSequenceInOrder" => {
                self.boolean(key, value)?;
                "Yes".to_owned()
            }
            "ImmediateData" => if self.boolean(key, value)? { "Yes" } else { "No" }.to_owned(),
            "TaskReporting" => "RFC3720".to_owned(),
            "iSCSIProtocolLevel" => self.number(key, value, 0, 31)?.min(1).to_string(),
            "IFMarker" | "OFMarker" => "No".to_owned(),
            _ => {
                let private = key.starts_with("X-") || key.starts_with("X#");
                if !private {
                    self.violations.push(format!("{key}={value} in a login"));
                }
                "NotUnderstood".to_owned()
            }
        };
        Ok(Some(result))
    }

    fn number(&mut self, key: &str, value: &str, low: usize, high: usize) -> Result<usize, Status> {
        let number = value.parse().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| {
            self.violations.push(format!("{key}={value} is not within {low} to {high}"));
            INITIATOR_ERROR
        })
    }

    fn boolean(&mut self, key: &str, value: &str) -> Result<bool, Status> {
        match value {
            "Yes" => Ok(true),
            "No" => Ok(false),
            _ => {
                self.violations.push(format!("{key}={value} is neither Yes nor No"));
                Err(INITIATOR_ERROR)
            }
        }
    }

    fn next_piece(&mut self, request: &Pdu, pieces: &mut Pieces) -> Verdict {
        let stage = pieces.flags & 0x0c;
        if pieces.rest.len() > pieces.size {
            let rest = pieces.rest.split_off(pieces.size);
            let data = std::mem::replace(&mut pieces.rest, rest);
            let (rest, size) = (std::mem::take(&mut pieces.rest), pieces.size);
            self.pieces = Some(Pieces { rest, size, flags: pieces.flags });
            return Verdict::Reply(self.response(request, CONTINUE | stage).with_data(data));
        }
        let reply = self.response(request, pieces.flags);
        let reply = reply.with_data(std::mem::take(&mut pieces.rest));
        if pieces.flags & (TRANSIT | 3) != TRANSIT | FULL_FEATURE {
            return Verdict::Reply(reply);
        }
        let leading = self.leading.as_ref().expect("the first request was taken before");
        let negotiated = Negotiated {
            initiator: leading.initiator.clone(),
            isid: leading.isid,
            target: leading.target.cloned(),
            digests: self.digests,
            segment: self.segment,
            max_burst: self.max_burst,
        };
        Verdict::Done(reply.with_bytes(14, &[0, 1]), Box::new(negotiated))
    }

    fn response(&self, request: &Pdu, flags: u8) -> Pdu {
        Pdu::new(response::LOGIN, flags)
            .with_bytes(8, &request.bhs[8..16])
            .with_u32(16, request.itt())
    }
}

impl DigestSupport {
    /// The first digest of the initiator's list that we take.
    fn choose(self, offer: &str) -> Option<&'static str> {
        let (none, crc32c) = match self {
            Self::None => (true, false),
            Self::Allow => (true, true),
            Self::Require => (false, true),
        };
        offer.split(',').find_map(|item| match item {
            "None" if none => Some("None"),
            "CRC32C" if crc32c => Some("CRC32C"),
            _ => None,
        })
    }
}
