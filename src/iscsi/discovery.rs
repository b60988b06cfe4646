//! SendTargets: which targets a portal knows (RFC 7143 section 4.3 and appendix C).

use std::collections::HashMap;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Error, ErrorKind, Result};

use super::connect::{
    Connection, LoginFailure, log_in_patiently, parse_target_address, random_isid, receive, send,
};
use super::pdu::{Digests, Incoming, LogoutReason, LogoutRequest, NO_TAG, Outgoing, TextRequest};
use super::proto::{LoginTarget, MAX_RECV_DATA_SEGMENT, TextAnswer, Window, pairs};
use super::{Config, DigestPolicy, Portal};

/// The logout of a discovery session is a courtesy: nobody waits long for its answer.
const LOGOUT_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// A target with more portals than this is listed with so many: each is compared with the others.
const MAX_PORTALS: usize = 1024;

/// The one exchange of a discovery session.
const ITT: u32 = 1;

/// A target that a portal reported, with the portals that reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// The target's iSCSI name.
    pub name: String,
    /// The portals that reach it, with their portal group tags.
    pub portals: Vec<(Portal, u16)>,
}

impl TargetRecord {
    fn add(&mut self, portal: Portal, tag: u16) {
        let portal = (portal, tag);
        if self.portals.len() < MAX_PORTALS && !self.portals.contains(&portal) {
            self.portals.push(portal);
        }
    }

    /// The portals to log in by, the best first, where `asked` told of the target: those can be reached, and others
    /// that it lists may stand in another network.
    pub fn ways(&self, asked: &[Portal]) -> Vec<Portal> {
        let listed = self.portals.iter().map(|(portal, _)| portal.clone());
        let (mut ways, others): (Vec<_>, Vec<_>) =
            listed.partition(|portal| asked.contains(portal));
        ways.extend(others);
        if ways.is_empty() { asked.to_vec() } else { ways }
    }
}

/// Asks portals for their targets (SendTargets=All); what several of them report is merged.
///
/// A portal that does not answer is skipped with a warning while another one does.
///
/// # Errors
/// [`ErrorKind::Connect`], [`ErrorKind::NoAnswer`], [`ErrorKind::Login`], [`ErrorKind::Timeout`],
/// [`ErrorKind::Protocol`].
pub async fn discover(portals: &[Portal], config: &Config) -> Result<Vec<TargetRecord>> {
    let mut all = Records::default();
    let mut failure = None;
    let mut answered = false;
    for portal in portals {
        match ask(portal, config).await {
            Ok(records) => {
                answered = true;
                records.into_iter().for_each(|record| all.add(record));
            }
            Err(error) => {
                if portals.len() > 1 {
                    tracing::warn!("{error}");
                }
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if !answered => Err(error),
        _ => Ok(all.list),
    }
}

/// Targets without duplicates, in the order in which they were told of.
#[derive(Default)]
struct Records {
    list: Vec<TargetRecord>,
    /// Where in the list each name stands: there may be a hundred thousand.
    places: HashMap<String, usize>,
}

impl Records {
    fn add(&mut self, record: TargetRecord) {
        match self.places.get(&record.name) {
            None => {
                self.places.insert(record.name.clone(), self.list.len());
                self.list.push(record);
            }
            Some(&place) => {
                let known = &mut self.list[place];
                record.portals.into_iter().for_each(|(portal, tag)| known.add(portal, tag));
            }
        }
    }
}

async fn ask(portal: &Portal, config: &Config) -> Result<Vec<TargetRecord>> {
    let end = Instant::now() + config.timeout;
    let portals = std::slice::from_ref(portal);
    // A list of names needs no digests; `send` and `receive` know none.
    let config = Config {
        header_digest: DigestPolicy::None,
        data_digest: DigestPolicy::None,
        ..config.clone()
    };
    let login = log_in_patiently(portals, &LoginTarget::Discovery, &config, random_isid()?);
    let Connection { stream, inbox, window, .. } = login.await?;
    let mut exchange = Exchange { stream, inbox, window, is_leaving: false };
    let answer = match timeout_at(end, exchange.send_targets()).await {
        Ok(Ok(text)) => parse(&text, portal),
        Ok(Err(failure)) => Err(failure.error),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "no answer to SendTargets")),
    };
    let _ = timeout(LOGOUT_LIMIT, exchange.log_out()).await;
    answer.map_err(|error| error.context(portal))
}

/// A discovery session from its login to its logout.
struct Exchange {
    stream: TcpStream,
    inbox: BytesMut,
    window: Window,
    is_leaving: bool,
}

impl Exchange {
    /// After the login a target may send PDUs as long as we have declared (RFC 7143 section 13.12): with a thousand
    /// targets it does.
    async fn receive(&mut self) -> Result<(Incoming, Vec<u8>), LoginFailure> {
        let longest = MAX_RECV_DATA_SEGMENT as usize;
        receive(&mut self.stream, &mut self.inbox, longest).await
    }

    /// The whole answer, over as many PDUs as the target takes.
    async fn send_targets(&mut self) -> Result<Vec<u8>, LoginFailure> {
        let mut answer = TextAnswer::default();
        let (mut lun, mut ttt, mut text) = ([0; 8], NO_TAG, b"SendTargets=All\0".to_vec());
        loop {
            // Not immediate, so that every target counts it alike.
            let request = TextRequest {
                lun,
                itt: ITT,
                ttt,
                cmd_sn: self.window.take(),
                exp_stat_sn: self.window.exp_stat_sn(),
                text: std::mem::take(&mut text),
            };
            send(&mut self.stream, request.encode()).await?;
            let response = loop {
                match self.receive().await? {
                    (Incoming::Text(response), segment) if response.itt == ITT => {
                        answer.add(&segment)?;
                        break response;
                    }
                    (Incoming::NopIn(_) | Incoming::Async(_), _) => {}
                    (Incoming::Reject(reject), _) => {
                        let message = format!("SendTargets was rejected: {}", reject.reason_name());
                        return Err(Error::new(ErrorKind::Protocol, message).into());
                    }
                    _ => {
                        let message = "the target answered SendTargets with something else";
                        return Err(Error::new(ErrorKind::Protocol, message).into());
                    }
                }
            };
            self.window.update(response.sequence);
            self.window.acknowledge(response.sequence);
            if response.last && !response.more {
                return Ok(answer.take());
            }
            (lun, ttt) = (response.lun, response.ttt);
        }
    }

    async fn log_out(&mut self) -> Result<(), LoginFailure> {
        self.is_leaving = true;
        let request = self.logout_request();
        send(&mut self.stream, request).await?;
        while !matches!(self.receive().await?.0, Incoming::Logout(_)) {}
        Ok(())
    }

    fn logout_request(&self) -> Outgoing {
        let reason = LogoutReason::CloseSession;
        let (cmd_sn, exp_stat_sn) = (self.window.current(), self.window.exp_stat_sn());
        let request = LogoutRequest { reason, itt: 2, cmd_sn, exp_stat_sn };
        Outgoing { bhs: request.encode(), data: Vec::new() }
    }
}

/// Whoever asked does not wait for the answer any more, because of a signal. Nothing can be awaited here, but the
/// request fits into the socket's buffer, and the kernel sends it before it closes the connection.
impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_leaving {
            let mut out = BytesMut::new();
            self.logout_request().write(Digests::default(), &mut out);
            // Where the connection is broken there is nothing to log out of.
            let _ = self.stream.try_write(&out);
        }
    }
}

/// TargetName begins a record, TargetAddress adds a portal to it, other keys are not for us. A target without an
/// address is where we asked (appendix C). What is no address is passed over: the other targets are there all the same.
fn parse(text: &[u8], asked: &Portal) -> Result<Vec<TargetRecord>> {
    let mut records: Vec<TargetRecord> = Vec::new();
    let mut odd: Vec<String> = Vec::new();
    for (key, value) in pairs(text)? {
        match (&*key, records.last_mut()) {
            ("TargetName", _) => records.push(TargetRecord { name: value, portals: Vec::new() }),
            ("TargetAddress", Some(record)) => {
                let portal = match parse_target_address(&value, asked) {
                    Ok(portal) => portal,
                    Err(error) => {
                        odd.push(format!("{}: {error}", record.name));
                        continue;
                    }
                };
                let tag = value.rsplit_once(',').and_then(|(_, tag)| tag.parse().ok()).unwrap_or(0);
                record.add(portal, tag);
            }
            _ => {}
        }
    }
    match &odd[..] {
        [] => {}
        [only] => tracing::warn!("{only}"),
        [first, more @ ..] => tracing::warn!("{first} ({} more like it)", more.len()),
    }
    let mut merged = Records::default();
    for mut record in records {
        if record.portals.is_empty() {
            record.portals.push((asked.clone(), 0));
        }
        merged.add(record);
    }
    Ok(merged.list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(text: &str) -> Portal {
        text.parse().unwrap()
    }

    #[test]
    fn records_merge_and_unknown_keys_are_skipped() {
        let text = b"TargetName=iqn.a\0TargetAlias=x\0TargetAddress=10.0.0.1:3260,1\0\
            TargetAddress=[fe80::1]:3261,2\0X-com.example=1\0TargetName=iqn.b\0\
            TargetName=iqn.a\0TargetAddress=10.0.0.1,1\0";
        let records = parse(text, &portal("san")).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[0].portals,
            [(portal("10.0.0.1:3260"), 1), (portal("[fe80::1]:3261"), 2)]
        );
        assert_eq!(records[1].portals, [(portal("san"), 0)]);
        let zoned = parse(text, &portal("[fe80::2%eth1]")).unwrap();
        assert_eq!(zoned[0].portals[0].0, portal("10.0.0.1"));
        assert_eq!(zoned[0].portals[1].0, portal("[fe80::1%eth1]:3261"));
        let everywhere = b"TargetName=iqn.a\0TargetAddress=0.0.0.0:3261,1\0TargetAddress=[::],2\0";
        let here = parse(everywhere, &portal("san:3262")).unwrap();
        assert_eq!(here[0].portals, [(portal("san:3261"), 1), (portal("san:3260"), 2)]);
        assert_eq!(parse(b"", &portal("san")).unwrap(), []);
        // As many as an answer can hold, and still at once.
        let many: String = (0..200_000).map(|n| format!("TargetName=iqn.{n}\0")).collect();
        assert_eq!(parse(many.as_bytes(), &portal("san")).unwrap().len(), 200_000);
        let odd = parse(b"TargetName=iqn.a\0TargetAddress=:x\0", &portal("san")).unwrap();
        assert_eq!(odd[0].portals, [(portal("san"), 0)]);
    }
}
