//! One login on one connection: security stage, operational stage, full feature phase (RFC 7143 section 6).

use secrecy::ExposeSecret as _;

use crate::error::{Error, ErrorKind, Result};
use crate::iscsi::pdu::{LoginRequest, LoginResponse, Outgoing, Serial, Stage};
use crate::iscsi::{Config, Credentials};

use super::chap::{decode_binary, encode_binary};
use super::keys::{Negotiated, Negotiation};
use super::text::{self, TextAnswer};
use super::window::Window;

/// More exchanges than this are no login but a loop.
const MAX_EXCHANGES: u32 = 64;
/// The longest text in one Login Request: MaxRecvDataSegmentLength of the login phase (section 13.12).
const MAX_SEGMENT: usize = 8192;

/// What a login is for.
#[derive(Clone, Debug)]
pub(crate) enum LoginTarget {
    /// SendTargets only.
    Discovery,
    /// The target of this name.
    Normal(String),
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum LoginStep {
    /// Send this, then wait for the answer.
    Send(Outgoing),
    /// The full feature phase begins.
    Done { negotiated: Negotiated, window: Window },
    /// Log in there instead: `host[:port][,portal group]`.
    Redirect { address: String, permanent: bool },
    /// The target does not let us in; `class` and `detail` are its reason (section 11.13.5).
    Refused { error: Error, class: u8, detail: u8 },
}

/// Where the security stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Security {
    /// AuthMethod is offered.
    Offered,
    /// CHAP_A is offered.
    Algorithms,
    /// Our response is out; with the challenge that the target must answer, if it must.
    Answered { expected: Option<Vec<u8>> },
    /// Nothing is left to prove.
    Proven,
}

/// The state of one login.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    config: &'a Config,
    target: &'a LoginTarget,
    isid: [u8; 6],
    random: [u8; 33],
    stage: Stage,
    security: Security,
    negotiation: Negotiation,
    exp_stat_sn: Serial,
    tsih: u16,
    /// What arrived of a text that goes on.
    answer: TextAnswer,
    /// What we have still to send of a text that goes on, and where to transit then.
    unsent: Vec<u8>,
    unsent_transit: Option<Stage>,
    exchanges: u32,
}

/// CmdSN of the first command: login requests carry it without using it up.
const FIRST_CMD_SN: Serial = Serial(1);
/// One tag for the whole login, as section 11.12.6 wants.
const LOGIN_TAG: u32 = 0;

impl<'a> Login<'a> {
    /// Begins a login. `random` makes the challenge of mutual CHAP; it must be fresh for each login.
    pub(crate) fn start(
        config: &'a Config,
        target: &'a LoginTarget,
        isid: [u8; 6],
        random: [u8; 33],
    ) -> Result<(Self, Outgoing)> {
        check_secrets(config)?;
        let discovery = matches!(target, LoginTarget::Discovery);
        let mut login = Self {
            config,
            target,
            isid,
            random,
            stage: Stage::Security,
            security: Security::Offered,
            negotiation: Negotiation::new(config, discovery),
            exp_stat_sn: Serial(0),
            tsih: 0,
            answer: TextAnswer::default(),
            unsent: Vec::new(),
            unsent_transit: None,
            exchanges: 0,
        };
        let mut text = Vec::new();
        text::push(&mut text, "InitiatorName", &config.initiator);
        match target {
            LoginTarget::Discovery => text::push(&mut text, "SessionType", "Discovery"),
            LoginTarget::Normal(name) => {
                text::push(&mut text, "SessionType", "Normal");
                text::push(&mut text, "TargetName", name);
            }
        }
        // Whoever wants the target to prove itself does not let it off with `None`.
        let (methods, transit) = match (&config.credentials, &config.target_credentials) {
            (None, _) => ("None", Some(Stage::Operational)),
            (Some(_), None) => ("CHAP,None", Some(Stage::Operational)),
            (Some(_), Some(_)) => ("CHAP", None),
        };
        text::push(&mut text, "AuthMethod", methods);
        let first = login.request(text, transit);
        Ok((login, first))
    }

    /// Whether we have offered several CHAP algorithms and wait for the target's choice: some targets take no
    /// list, and say so in any way that a login can fail.
    pub(crate) fn is_choosing_algorithm(&self) -> bool {
        self.security == Security::Algorithms && self.config.chap_algorithms.len() > 1
    }

    /// Takes a Login Response with its text.
    pub(crate) fn handle(&mut self, response: LoginResponse, segment: &[u8]) -> Result<LoginStep> {
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(protocol("the login does not come to an end"));
        }
        if response.itt != LOGIN_TAG {
            return Err(protocol("the login response has another task tag"));
        }
        self.answer.add(segment)?;
        if response.status_class != 0 {
            return self.refused(response);
        }
        if response.version_active != 0 {
            return Err(protocol(format!("iSCSI version {}", response.version_active)));
        }
        if response.stage != Some(self.stage) {
            return Err(protocol("the login response belongs to another stage"));
        }
        self.exp_stat_sn = response.sequence.stat_sn.next();
        if response.more {
            if response.transit {
                return Err(protocol("a login response that goes on must not change the stage"));
            }
            return Ok(LoginStep::Send(self.request(Vec::new(), None)));
        }
        if !self.unsent.is_empty() {
            return Ok(LoginStep::Send(self.send_rest()));
        }
        let text = self.answer.take();
        let pairs = text::pairs(&text)?;
        match self.stage {
            Stage::Security => self.security_stage(&pairs, response),
            Stage::Operational => self.operational_stage(&pairs, response),
            Stage::FullFeature => Err(protocol("a login response in the full feature phase")),
        }
    }

    fn security_stage(
        &mut self,
        pairs: &[(String, String)],
        response: LoginResponse,
    ) -> Result<LoginStep> {
        let value = |key: &str| pairs.iter().find(|pair| pair.0 == key).map(|pair| &*pair.1);
        let mut text = Vec::new();
        self.declarations(pairs, &mut text)?;
        match self.security.clone() {
            Security::Offered => match value("AuthMethod") {
                Some("CHAP") if self.config.credentials.is_some() => {
                    self.security = Security::Algorithms;
                    let numbers = self.config.chap_algorithms.iter();
                    let numbers: Vec<_> = numbers.map(|a| a.number().to_string()).collect();
                    text::push(&mut text, "CHAP_A", &numbers.join(","));
                    return self.more_security(response, text, None);
                }
                Some("None") if self.config.target_credentials.is_none() => {
                    self.security = Security::Proven;
                }
                // Nothing said: where nothing was asked for, that is `None`.
                None if response.transit && self.config.target_credentials.is_none() => {
                    self.security = Security::Proven;
                }
                None if !response.transit => {}
                other => return Err(no_method(self.config, other)),
            },
            Security::Algorithms => {
                return self.respond(&value, response, text);
            }
            Security::Answered { expected: Some(expected) } => {
                match (value("CHAP_N"), value("CHAP_R")) {
                    (None, None) if !response.transit => {}
                    (name, proof) => {
                        self.check_target(&expected, name, proof)?;
                        self.security = Security::Proven;
                    }
                }
            }
            Security::Answered { expected: None } | Security::Proven => {
                self.security = Security::Proven;
            }
        }
        if !response.transit {
            return Ok(LoginStep::Send(self.request(text, Some(Stage::Operational))));
        }
        if self.security != Security::Proven {
            return Err(protocol("the target left the security stage before its end"));
        }
        match response.next {
            Some(Stage::Operational) => {
                self.stage = Stage::Operational;
                self.negotiation.offer(&mut text);
                Ok(LoginStep::Send(self.request(text, Some(Stage::FullFeature))))
            }
            _ => Err(protocol("the target transits to a stage that we did not ask for")),
        }
    }

    /// The target chose an algorithm and sent its challenge.
    fn respond<'v>(
        &mut self,
        value: &dyn Fn(&str) -> Option<&'v str>,
        response: LoginResponse,
        mut text: Vec<u8>,
    ) -> Result<LoginStep> {
        let credentials =
            self.config.credentials.as_ref().expect("CHAP is offered with credentials");
        let Some(chosen) = value("CHAP_A") else {
            if response.transit {
                return Err(protocol("the target chose CHAP and then left it out"));
            }
            return Ok(LoginStep::Send(self.request(text, None)));
        };
        let algorithm = self.config.chap_algorithms.iter().copied();
        let algorithm = algorithm.into_iter().find(|a| a.number().to_string() == chosen);
        let Some(algorithm) = algorithm else {
            let names = self.config.chap_algorithms.iter().map(ToString::to_string);
            let names: Vec<_> = names.collect();
            return Err(Error::new(
                ErrorKind::Login,
                format!(
                    "CHAP: the target takes none of {} (it answered {})",
                    names.join(", "),
                    chosen.escape_debug()
                ),
            ));
        };
        let identifier = value("CHAP_I").and_then(parse_identifier);
        let challenge = value("CHAP_C").and_then(decode_binary);
        let (Some(identifier), Some(challenge)) = (identifier, challenge) else {
            return Err(protocol("CHAP: the target's challenge is missing or malformed"));
        };
        text::push(&mut text, "CHAP_N", &credentials.name);
        let proof = algorithm.response(identifier, &credentials.secret, &challenge);
        text::push(&mut text, "CHAP_R", &encode_binary(&proof));
        let expected = self.config.target_credentials.as_ref().map(|target: &Credentials| {
            let (ours, id) = (&self.random[..algorithm.response_len()], self.random[32]);
            text::push(&mut text, "CHAP_I", &id.to_string());
            text::push(&mut text, "CHAP_C", &encode_binary(ours));
            algorithm.response(id, &target.secret, ours)
        });
        if expected.is_some() && challenge == self.random[..algorithm.response_len()] {
            return Err(protocol("CHAP: the target's challenge is our own"));
        }
        if expected.as_ref() == Some(&proof) {
            return Err(protocol("CHAP: the target would prove itself with our own response"));
        }
        self.security = Security::Answered { expected };
        self.more_security(response, text, Some(Stage::Operational))
    }

    /// Sends more of the security stage, which therefore must not be over.
    fn more_security(
        &mut self,
        response: LoginResponse,
        text: Vec<u8>,
        transit: Option<Stage>,
    ) -> Result<LoginStep> {
        if response.transit {
            return Err(protocol("the target left the security stage in mid-CHAP"));
        }
        Ok(LoginStep::Send(self.request(text, transit)))
    }

    /// Mutual CHAP: the target's name and proof.
    fn check_target(&self, expected: &[u8], name: Option<&str>, proof: Option<&str>) -> Result<()> {
        let wanted = self.config.target_credentials.as_ref().map(|target| &*target.name);
        let right = name.is_some() && name == wanted;
        let proof = proof.and_then(decode_binary);
        if right && proof.is_some_and(|proof| proof == expected) {
            return Ok(());
        }
        let why = match name {
            None => "the target did not prove who it is".to_owned(),
            Some(name) if !right => {
                format!("the target calls itself \"{}\"", name.escape_debug())
            }
            Some(_) => "the target does not know its secret".to_owned(),
        };
        Err(Error::new(ErrorKind::Login, format!("mutual CHAP: {why}"))
            .with_hint("check the target's CHAP name and secret"))
    }

    fn operational_stage(
        &mut self,
        pairs: &[(String, String)],
        response: LoginResponse,
    ) -> Result<LoginStep> {
        let mut text = Vec::new();
        self.declarations(pairs, &mut text)?;
        if !response.transit {
            return Ok(LoginStep::Send(self.request(text, Some(Stage::FullFeature))));
        }
        // Some targets send the keys of normal sessions with the end of a discovery login too; nothing hangs on those.
        let open = !text.is_empty() && !self.negotiation.is_discovery();
        if response.next != Some(Stage::FullFeature) || open {
            return Err(protocol("the target ended the negotiation while keys were open"));
        }
        self.tsih = response.tsih;
        let window = Window::new(FIRST_CMD_SN, response.sequence);
        Ok(LoginStep::Done { negotiated: self.negotiation.finish()?, window })
    }

    /// Takes every key but those of authentication; answers go to `text`.
    fn declarations(&mut self, pairs: &[(String, String)], text: &mut Vec<u8>) -> Result<()> {
        for (key, value) in pairs {
            if key.starts_with("CHAP_") || key == "AuthMethod" {
                continue;
            }
            if let Some(answer) = self.negotiation.take(key, value)? {
                text::push(text, key, answer);
            }
        }
        Ok(())
    }

    /// A request of the current stage; a long text goes out in several.
    fn request(&mut self, text: Vec<u8>, transit: Option<Stage>) -> Outgoing {
        self.unsent = text;
        self.unsent_transit = transit;
        self.send_rest()
    }

    fn send_rest(&mut self) -> Outgoing {
        let rest = self.unsent.split_off(self.unsent.len().min(MAX_SEGMENT));
        let text = std::mem::replace(&mut self.unsent, rest);
        let more = !self.unsent.is_empty();
        LoginRequest {
            stage: self.stage,
            transit: if more { None } else { self.unsent_transit },
            more,
            isid: self.isid,
            tsih: self.tsih,
            itt: LOGIN_TAG,
            cmd_sn: FIRST_CMD_SN,
            exp_stat_sn: self.exp_stat_sn,
            text,
        }
        .encode()
    }

    /// A status class other than success (section 11.13.5).
    fn refused(&mut self, response: LoginResponse) -> Result<LoginStep> {
        let status = (response.status_class, response.status_detail);
        if let (1, 1 | 2) = status {
            let text = self.answer.take();
            let address = text::pairs(&text)?.into_iter().find(|pair| pair.0 == "TargetAddress");
            let Some((_, address)) = address else {
                return Err(protocol("the target redirects to nowhere (no TargetAddress)"));
            };
            return Ok(LoginStep::Redirect { address, permanent: status.1 == 2 });
        }
        let error = status_error(self.config, self.target, status);
        Ok(LoginStep::Refused { error, class: status.0, detail: status.1 })
    }
}

/// The sentence for a login status (section 11.13.5).
fn status_error(config: &Config, target: &LoginTarget, status: (u8, u8)) -> Error {
    let initiator = &config.initiator;
    let (what, hint) = match status {
        (2, 0) => ("initiator error", None),
        (2, 1) => match (&config.credentials, target) {
            (None, _) => (
                "authentication failure: the target demands CHAP",
                Some("give --user and --password-file".to_owned()),
            ),
            (Some(_), _) => (
                "authentication failure: wrong CHAP name or secret",
                Some("check --user and the password file against the SAN's account".to_owned()),
            ),
        },
        (2, 2) => (
            "authorization failure: the initiator may not use this target",
            Some(format!("allow {initiator} on the SAN")),
        ),
        (2, 3) => (
            "target not found: there is none of this name, or it hides itself from this initiator",
            Some(format!("allow {initiator} on the SAN, or check the name with `discover`")),
        ),
        (2, 4) => ("the target was removed and no address is known", None),
        (2, 5) => ("the target speaks another version of iSCSI", None),
        (2, 6) => ("too many connections in this session", None),
        (2, 7) => ("missing parameter", None),
        (2, 8) => ("the target cannot include this connection in the session", None),
        (2, 9) => ("the target does not support this session type", None),
        (2, 10) => ("the session does not exist", None),
        (2, 11) => ("invalid request during login", None),
        (3, 0) => ("target error", None),
        (3, 1) => ("the service is unavailable: the target is up but cannot serve now", None),
        (3, 2) => ("out of resources: the target has no room for another session", None),
        _ => ("unknown status", None),
    };
    let (class, detail) = status;
    let message = format!("login refused: {what} (status {class:02x}{detail:02x})");
    let error = Error::new(ErrorKind::Login, message);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// What CHAP must not be started with.
fn check_secrets(config: &Config) -> Result<()> {
    let Some(target) = &config.target_credentials else { return Ok(()) };
    let Some(own) = &config.credentials else {
        return Err(Error::new(ErrorKind::Usage, "mutual CHAP needs an account of our own too")
            .with_hint("give --user and --password-file"));
    };
    // With equal secrets a target could prove itself by reflecting (section 9.2.1).
    if own.secret.0.expose_secret() == target.secret.0.expose_secret() {
        return Err(Error::new(
            ErrorKind::Usage,
            "mutual CHAP with one secret for both sides proves nothing",
        )
        .with_hint("give the target a secret of its own"));
    }
    Ok(())
}

fn no_method(config: &Config, answer: Option<&str>) -> Error {
    let answer = answer.unwrap_or("nothing").escape_debug().to_string();
    let error = Error::new(
        ErrorKind::Login,
        format!("no authentication method suits both sides (the target answered {answer})"),
    );
    match &config.credentials {
        None => error.with_hint("the target demands CHAP: give --user and --password-file"),
        Some(_) => {
            error.with_hint("does the target have CHAP switched on, in both directions if mutual?")
        }
    }
}

fn parse_identifier(value: &str) -> Option<u8> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn protocol(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, format!("login: {}", message.into()))
}
