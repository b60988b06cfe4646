//! The operational keys of a login: what we offer, what may come back, what is agreed (RFC 7143 section 13).

use crate::error::{Error, ErrorKind, Result};
use crate::iscsi::pdu::Digests;
use crate::iscsi::{Config, DigestPolicy};

use super::text;

/// The longest data segment that we take in one PDU, in bytes: one READ's worth, so that it needs no more headers than one.
pub(crate) const MAX_RECV_DATA_SEGMENT: u32 = 1 << 20;

/// How offer and answer become the agreed value, and what is in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The smaller number.
    Minimum(u32, u32),
    /// The greater number.
    Maximum(u32, u32),
    /// `Yes` if either says it.
    Or,
    /// `Yes` if both say it.
    And,
}

/// A negotiated key with what we offer for it.
struct Key {
    name: &'static str,
    rule: Rule,
    offer: &'static str,
}

/// What we offer besides digests and MaxRecvDataSegmentLength. Nothing is ever written, so the keys about outgoing data
/// are offered at their most modest.
const OFFERS: [Key; 11] = [
    Key { name: "MaxConnections", rule: Rule::Minimum(1, 65535), offer: "1" },
    Key { name: "InitialR2T", rule: Rule::Or, offer: "Yes" },
    Key { name: "ImmediateData", rule: Rule::And, offer: "No" },
    Key { name: "MaxBurstLength", rule: Rule::Minimum(512, 0xff_ffff), offer: "1048576" },
    Key { name: "FirstBurstLength", rule: Rule::Minimum(512, 0xff_ffff), offer: "65536" },
    Key { name: "DefaultTime2Wait", rule: Rule::Maximum(0, 3600), offer: "0" },
    Key { name: "DefaultTime2Retain", rule: Rule::Minimum(0, 3600), offer: "0" },
    Key { name: "MaxOutstandingR2T", rule: Rule::Minimum(1, 65535), offer: "1" },
    Key { name: "DataPDUInOrder", rule: Rule::Or, offer: "Yes" },
    Key { name: "DataSequenceInOrder", rule: Rule::Or, offer: "Yes" },
    Key { name: "ErrorRecoveryLevel", rule: Rule::Minimum(0, 2), offer: "0" },
];

/// What a login has agreed on, as far as it matters to a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) digests: Digests,
    /// Seconds to wait before a reconnect.
    pub(crate) time_to_wait: u32,
    /// The target's name for people.
    pub(crate) target_alias: Option<String>,
    /// The portal group that the connection belongs to.
    pub(crate) portal_group: Option<u16>,
}

const NO_CRC32C: &str = "the target knows no CRC32C: ask for `none` or `prefer`";

/// The operational negotiation of one login.
#[derive(Clone, Debug)]
pub(crate) struct Negotiation {
    header_digest: DigestPolicy,
    data_digest: DigestPolicy,
    discovery: bool,
    agreed: Negotiated,
    /// Keys that the target has answered, so that a second answer is noticed.
    answered: Vec<&'static str>,
}

impl Negotiation {
    pub(crate) fn new(config: &Config, discovery: bool) -> Self {
        Self {
            header_digest: config.header_digest,
            data_digest: config.data_digest,
            discovery,
            agreed: Negotiated::default(),
            answered: Vec::new(),
        }
    }

    /// Our offers and declarations, as text.
    pub(crate) fn offer(&self, text: &mut Vec<u8>) {
        text::push(text, "HeaderDigest", self.header_digest.offer());
        text::push(text, "DataDigest", self.data_digest.offer());
        text::push(text, "MaxRecvDataSegmentLength", &MAX_RECV_DATA_SEGMENT.to_string());
        if !self.discovery {
            for key in &OFFERS {
                text::push(text, key.name, key.offer);
            }
        }
    }

    /// Whether it is the negotiation of a discovery session, where most keys mean nothing.
    pub(crate) fn is_discovery(&self) -> bool {
        self.discovery
    }

    /// What has been agreed in the end.
    ///
    /// # Errors
    /// [`ErrorKind::Login`] where a digest was demanded and the target passed over the offer.
    pub(crate) fn finish(&self) -> Result<Negotiated> {
        let Digests { header, data } = self.agreed.digests;
        self.header_digest.check("HeaderDigest", header)?;
        self.data_digest.check("DataDigest", data)?;
        Ok(self.agreed.clone())
    }

    /// Takes one pair of the target's; gives the value to answer with, where it asked.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<Option<&'static str>> {
        match key {
            "HeaderDigest" => {
                self.answer_once("HeaderDigest")?;
                self.agreed.digests.header = self.header_digest.accept(key, value)?;
            }
            "DataDigest" => {
                self.answer_once("DataDigest")?;
                self.agreed.digests.data = self.data_digest.accept(key, value)?;
            }
            "MaxRecvDataSegmentLength" => {
                // A declaration of what we may send: never more than one small text.
                number(key, value, 512, 0xff_ffff)?;
            }
            "TargetAlias" => self.agreed.target_alias = Some(value.to_owned()),
            "TargetPortalGroupTag" => {
                let tag = number(key, value, 0, 65535)?;
                self.agreed.portal_group = u16::try_from(tag).ok();
            }
            // Declarations that mean something in other stages only.
            "TargetName" | "TargetAddress" | "InitiatorAlias" | "AuthMethod" => {}
            // Obsolete since RFC 7143 (section 13.25), and to be rejected in just this way.
            "IFMarker" | "OFMarker" | "IFMarkInt" | "OFMarkInt" => return Ok(Some("Reject")),
            _ => match OFFERS.iter().find(|known| known.name == key) {
                Some(known) if self.discovery => {
                    // Not offered by us: the target asks, and none of these matters in a discovery session.
                    let _ = known;
                    return Ok(Some("Irrelevant"));
                }
                Some(known) => {
                    self.answer_once(known.name)?;
                    self.settle(known, value)?;
                }
                // An answer to nothing we said is not a question either.
                None if is_constant(value) => {}
                None => return Ok(Some("NotUnderstood")),
            },
        }
        Ok(None)
    }

    fn answer_once(&mut self, key: &'static str) -> Result<()> {
        if self.answered.contains(&key) {
            return Err(protocol(format!("the target answered {key} twice")));
        }
        self.answered.push(key);
        Ok(())
    }

    /// Checks an answer by the key's rule and keeps the result where somebody needs it.
    fn settle(&mut self, key: &Key, value: &str) -> Result<()> {
        if is_constant(value) {
            // The default stands; each of ours is one that a reader can live with.
            return Ok(());
        }
        match key.rule {
            Rule::Minimum(low, high) => {
                let offered = number(key.name, key.offer, low, high)?;
                let answer = number(key.name, value, low, high)?;
                if answer > offered {
                    return Err(wrong_result(key, value));
                }
            }
            Rule::Maximum(low, high) => {
                let offered = number(key.name, key.offer, low, high)?;
                let answer = number(key.name, value, low, high)?;
                if answer < offered {
                    return Err(wrong_result(key, value));
                }
                if key.name == "DefaultTime2Wait" {
                    self.agreed.time_to_wait = answer;
                }
            }
            Rule::Or | Rule::And => {
                let answer = match value {
                    "Yes" => true,
                    "No" => false,
                    _ => return Err(wrong_result(key, value)),
                };
                let offered = key.offer == "Yes";
                let fixed = (key.rule == Rule::Or) == offered;
                if fixed && answer != offered {
                    return Err(wrong_result(key, value));
                }
            }
        }
        Ok(())
    }
}

impl DigestPolicy {
    fn offer(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Allow => "None,CRC32C",
            Self::Prefer => "CRC32C,None",
            Self::Require => "CRC32C",
        }
    }

    /// Whether CRC32C is agreed, from the target's answer to the offer.
    fn accept(self, key: &str, value: &str) -> Result<bool> {
        let agreed = match value {
            "CRC32C" => Some(true),
            "None" => Some(false),
            _ => None,
        };
        match (agreed, self) {
            (Some(true), Self::None) | (Some(false), Self::Require) | (None, _) => {
                let error = Error::new(
                    ErrorKind::Login,
                    format!("{key}: we offered {}, the target answered {value}", self.offer()),
                );
                Err(error.with_hint(match self {
                    Self::None => "the target insists on a digest: allow it with `prefer`",
                    _ => NO_CRC32C,
                }))
            }
            (Some(digest), _) => Ok(digest),
        }
    }

    /// Checks what came of the offer of a key. What the target does not answer is not agreed, whatever was demanded.
    fn check(self, key: &str, agreed: bool) -> Result<()> {
        if self != Self::Require || agreed {
            return Ok(());
        }
        let message = format!("{key}: we offered {}, the target answered nothing", self.offer());
        Err(Error::new(ErrorKind::Login, message).with_hint(NO_CRC32C))
    }
}

/// The reserved answers (section 6.2).
fn is_constant(value: &str) -> bool {
    matches!(value, "Reject" | "Irrelevant" | "NotUnderstood")
}

/// A number in decimal or hexadecimal within a range.
fn number(key: &str, value: &str, low: u32, high: u32) -> Result<u32> {
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    match parsed {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(protocol(format!(
            "the target sent {key}={}, allowed are {low} to {high}",
            value.escape_debug()
        ))),
    }
}

fn wrong_result(key: &Key, value: &str) -> Error {
    protocol(format!(
        "{}: we offered {}, the target answered {}, which cannot result from it",
        key.name,
        key.offer,
        value.escape_debug()
    ))
}

fn protocol(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiation() -> Negotiation {
        Negotiation::new(&Config::new("iqn.x"), false)
    }

    #[test]
    fn results_that_follow_from_the_offer() {
        let mut negotiation = negotiation();
        for (key, value) in [
            ("HeaderDigest", "CRC32C"),
            ("DataDigest", "None"),
            ("DefaultTime2Wait", "2"),
            ("MaxBurstLength", "0x40000"),
            ("ImmediateData", "No"),
            ("InitialR2T", "Yes"),
            ("ErrorRecoveryLevel", "0"),
            ("MaxConnections", "Irrelevant"),
            ("TargetAlias", "disk one"),
            ("TargetPortalGroupTag", "3"),
        ] {
            assert_eq!(negotiation.take(key, value).unwrap(), None, "{key}");
        }
        let agreed = negotiation.finish().unwrap();
        assert_eq!(agreed.digests, Digests { header: true, data: false });
        assert_eq!(agreed.time_to_wait, 2);
        assert_eq!(agreed.target_alias.as_deref(), Some("disk one"));
        assert_eq!(agreed.portal_group, Some(3));
    }

    #[test]
    fn results_that_cannot_follow_from_the_offer() {
        for (key, value) in [
            ("ErrorRecoveryLevel", "1"),
            ("MaxConnections", "0"),
            ("MaxConnections", "4"),
            ("ImmediateData", "Yes"),
            ("InitialR2T", "No"),
            ("DataPDUInOrder", "maybe"),
            ("MaxBurstLength", "511"),
            ("DefaultTime2Wait", "3601"),
            ("MaxRecvDataSegmentLength", "16777216"),
            ("DataDigest", "Reject"),
            ("HeaderDigest", "MD5"),
        ] {
            assert!(negotiation().take(key, value).is_err(), "{key}={value}");
        }
        let mut twice = negotiation();
        twice.take("MaxBurstLength", "512").unwrap();
        assert!(twice.take("MaxBurstLength", "512").is_err());
    }

    #[test]
    fn questions_get_their_reserved_answers() {
        let mut negotiation = negotiation();
        assert_eq!(negotiation.take("X-com.example.speed", "9").unwrap(), Some("NotUnderstood"));
        assert_eq!(negotiation.take("OFMarkInt", "1~2").unwrap(), Some("Reject"));
        assert_eq!(negotiation.take("X-never-asked", "NotUnderstood").unwrap(), None);
    }

    #[test]
    fn a_policy_is_kept() {
        let mut config = Config::new("iqn.x");
        config.data_digest = DigestPolicy::Require;
        config.header_digest = DigestPolicy::None;
        let mut negotiation = Negotiation::new(&config, false);
        let error = negotiation.take("DataDigest", "None").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login);
        assert!(negotiation.take("HeaderDigest", "CRC32C").is_err());
    }

    #[test]
    fn a_demanded_digest_is_not_passed_over_in_silence() {
        let mut config = Config::new("iqn.x");
        config.data_digest = DigestPolicy::Require;
        let mut negotiation = Negotiation::new(&config, false);
        let error = negotiation.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login);
        let why = "DataDigest: we offered CRC32C, the target answered nothing";
        assert!(error.to_string().contains(why), "{error}");
        negotiation.take("DataDigest", "CRC32C").unwrap();
        assert!(negotiation.finish().unwrap().digests.data);
    }
}
