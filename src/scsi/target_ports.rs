//! Asymmetric access: which ports of a target serve a unit, and how well (SPC-5 sections 5.18 and 6.36).

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

use super::VpdPage;
use super::inquiry::vpd_body;

/// An asymmetric access state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessState {
    Optimized,
    NonOptimized,
    Standby,
    Unavailable,
    /// Optimized for some blocks and not for others.
    LbaDependent,
    Offline,
    Transitioning,
    Other(u8),
}

impl AccessState {
    /// Whether a READ is answered with data.
    pub(crate) fn serves_reads(self) -> bool {
        matches!(self, Self::Optimized | Self::NonOptimized | Self::LbaDependent)
    }
}

impl From<u8> for AccessState {
    fn from(state: u8) -> Self {
        match state {
            0x0 => Self::Optimized,
            0x1 => Self::NonOptimized,
            0x2 => Self::Standby,
            0x3 => Self::Unavailable,
            0x4 => Self::LbaDependent,
            0xe => Self::Offline,
            0xf => Self::Transitioning,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for AccessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "active/optimized",
            Self::NonOptimized => "active/non-optimized",
            Self::Standby => "standby",
            Self::Unavailable => "unavailable",
            Self::LbaDependent => "logical block dependent",
            Self::Offline => "offline",
            Self::Transitioning => "transitioning",
            Self::Other(state) => return write!(f, "access state {state:x}"),
        })
    }
}

/// The port that a command came in through, as the Device Identification page (0x83) names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortIds {
    /// Designator type 5.
    pub(crate) group: Option<u16>,
    /// Designator type 4.
    pub(crate) relative_port: Option<u16>,
}

impl PortIds {
    /// The designators with association 1, the target port; what is cut off is left out.
    pub(crate) fn parse(page: &[u8]) -> Result<Self> {
        let mut rest = vpd_body(page, VpdPage::DeviceIdentification)?;
        let mut ids = Self::default();
        while let [_, kind, _, length, tail @ ..] = rest {
            let Some((designator, tail)) = tail.split_at_checked(usize::from(*length)) else {
                break;
            };
            if let (1, [_, _, high, low]) = (kind >> 4 & 3, designator) {
                let number = Some(u16::from_be_bytes([*high, *low]));
                match kind & 0x0f {
                    4 => ids.relative_port = ids.relative_port.or(number),
                    5 => ids.group = ids.group.or(number),
                    _ => {}
                }
            }
            rest = tail;
        }
        Ok(ids)
    }

    /// The state of this port in an answer to REPORT TARGET PORT GROUPS; `None` where the answer does not tell.
    pub(crate) fn state_in(self, report: &[u8]) -> Result<Option<AccessState>> {
        let Some((length, mut rest)) = report.split_first_chunk::<4>() else {
            let what =
                format!("REPORT TARGET PORT GROUPS answered with {} bytes only", report.len());
            return Err(Error::new(ErrorKind::Protocol, what));
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        rest = &rest[..length.min(rest.len())];
        while let [state, _, high, low, _, _, _, count, tail @ ..] = rest {
            let (ports, tail) = tail.split_at(tail.len().min(4 * usize::from(*count)));
            let group = u16::from_be_bytes([*high, *low]);
            let has_port = |wanted: u16| {
                ports.chunks_exact(4).any(|port| u16::from_be_bytes([port[2], port[3]]) == wanted)
            };
            let is_ours = match self {
                Self { group: Some(ours), .. } => ours == group,
                Self { relative_port: Some(port), .. } => has_port(port),
                Self { .. } => false,
            };
            if is_ours {
                return Ok(Some(AccessState::from(state & 0x0f)));
            }
            rest = tail;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identification(designators: &[&[u8]]) -> Vec<u8> {
        let body = designators.concat();
        let mut page = vec![0, 0x83, 0, u8::try_from(body.len()).unwrap()];
        page.extend(body);
        page
    }

    fn report(groups: &[(u8, u16, &[u16])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (state, group, ports) in groups {
            body.extend([0x80 | state, 0x8f]);
            body.extend(group.to_be_bytes());
            body.extend([0, 0, 0, u8::try_from(ports.len()).unwrap()]);
            for port in *ports {
                body.extend([0, 0]);
                body.extend(port.to_be_bytes());
            }
        }
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn the_ports_designators_and_not_the_units() {
        let page = identification(&[
            &[1, 0x03, 0, 2, 9, 9],
            &[1, 0x05, 0, 4, 0, 0, 0, 7],
            &[1, 0x14, 0, 4, 0, 0, 0, 2],
            &[1, 0x15, 0, 4, 0, 0, 1, 1],
        ]);
        let ids = PortIds::parse(&page).unwrap();
        assert_eq!(ids, PortIds { group: Some(0x101), relative_port: Some(2) });
        assert_eq!(PortIds::parse(&page[..page.len() - 1]).unwrap().group, None);
        assert!(PortIds::parse(&page[..2]).is_err());
    }

    #[test]
    fn the_state_of_our_group_or_of_the_group_of_our_port() {
        let report = report(&[(0, 1, &[1, 2]), (2, 2, &[3]), (0x0f, 3, &[])]);
        let state =
            |group, relative_port| PortIds { group, relative_port }.state_in(&report).unwrap();
        assert_eq!(state(Some(1), None), Some(AccessState::Optimized));
        assert_eq!(state(Some(3), Some(1)), Some(AccessState::Transitioning));
        assert_eq!(state(None, Some(3)), Some(AccessState::Standby));
        assert_eq!(state(None, Some(4)), None);
        assert_eq!(state(Some(9), None), None);
        assert_eq!(state(None, None), None);
    }

    #[test]
    fn a_report_that_is_cut_off_or_lies() {
        let mut report = report(&[(1, 1, &[1, 2])]);
        let ids = PortIds { group: None, relative_port: Some(2) };
        assert_eq!(ids.state_in(&report[..15]).unwrap(), None);
        report[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(ids.state_in(&report).unwrap(), Some(AccessState::NonOptimized));
        assert!(ids.state_in(&[0, 0]).is_err());
    }
}
