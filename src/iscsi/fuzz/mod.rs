//! Where fuzzers come in: each function takes any bytes and must neither panic nor accept wrong data.
//!
//! The targets in `fuzz/` call these; the tests below replay the seeds in `testdata/fuzz` on stable Rust.

mod session;

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::pdu::{Bhs, Digests, LoginResponse, Sequence, Serial};
use super::proto::{
    Command, Engine, Limits, Login, LoginStep, LoginTarget, Negotiated, Negotiation,
};
use super::proto::{Need, Receiver, Window, pairs};
use super::{Config, Credentials, DigestPolicy};
use crate::fuzz::Input;
use crate::scsi::{self, Capacity, Cdb, LunAddress};

pub use session::session;

/// Bytes from a target in the full feature phase, with reads in flight; and the same bytes as SCSI data.
pub fn stream(bytes: &[u8]) {
    let _ = scsi::Sense::parse(bytes);
    let _ = scsi::Inquiry::parse(bytes);
    let _ = scsi::Identity::from_designators(bytes);
    let _ = scsi::Identity::from_serial(bytes);
    let _ = scsi::BlockLimits::parse(bytes);
    let _ = scsi::Characteristics::parse(bytes);
    let _ = scsi::VpdList::parse(bytes);
    let _ = scsi::PortIds::parse(bytes).and_then(|ids| ids.state_in(bytes));
    let _ = scsi::parse_report_luns(bytes)
        .map(|(luns, _)| luns.into_iter().map(LunAddress::number).fold(0, u64::wrapping_add));
    let _ = Capacity::parse_10(bytes);
    let _ = Capacity::parse_16(bytes).map(Capacity::bytes);
    let _ = pairs(bytes);

    let mut input = Input(bytes);
    let (Some(digests), Some(chunk)) = (input.byte(), input.byte()) else { return };
    let now = Instant::now();
    let negotiated = negotiated(digests);
    let mut engine = Engine::new(Limits::new(Duration::from_secs(8)));
    engine.connected(&negotiated, window(), now);
    for lba in 0..3 {
        engine.submit(read(lba, 8, now + Duration::from_secs(8)), lba);
    }
    engine.transmit(now, &mut BytesMut::new());
    let mut receiver = Receiver::new(negotiated.digests, BytesMut::new());
    for part in input.0.chunks(usize::from(chunk) + 1) {
        if feed(&mut receiver, &mut engine, part, now).is_err() {
            return;
        }
        while engine.event().is_some() {}
    }
}

/// Login responses. Whoever demands a proof from the target must not be let off without one.
pub fn login(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let mut config = Config::new("iqn.2026-01.test:i");
    if choices & 1 != 0 {
        config.credentials = Some(Credentials::new("alice", "secretsecret12"));
    }
    if choices & 2 != 0 {
        config.target_credentials = Some(Credentials::new("target", "targetsecret12"));
    }
    if choices & 4 != 0 {
        config.header_digest = DigestPolicy::Require;
        config.data_digest = DigestPolicy::Prefer;
    }
    let target = match choices & 8 {
        0 => LoginTarget::Normal("iqn.2026-01.test:t".into()),
        _ => LoginTarget::Discovery,
    };
    let Ok((mut login, _)) = Login::start(&config, &target, [0x80, 0, 0, 0, 0, 1], [7; 33]) else {
        return;
    };
    while let (Some(flags), Some(status), Some(len)) = (input.byte(), input.byte(), input.byte()) {
        let mut bhs = Bhs::new(0x23, flags);
        bhs.put_u32(24, u32::from(status));
        // Mostly successes: the other statuses end the login.
        if status >= 0xf0 {
            bhs.put(36, [status & 3, status >> 2 & 3]);
        }
        let text = input.take(usize::from(len));
        match login.handle(LoginResponse::parse(&bhs), text) {
            Ok(LoginStep::Send(_)) => {}
            Ok(LoginStep::Done { negotiated, .. }) => {
                assert!(config.target_credentials.is_none(), "the target has proved nothing");
                let header = config.header_digest == DigestPolicy::Require;
                assert!(!header || negotiated.digests.header, "a digest was required");
                return;
            }
            Ok(LoginStep::Redirect { .. } | LoginStep::Refused { .. }) | Err(_) => return,
        }
    }
}

/// What a login may have agreed: digests as the two lowest bits say.
fn negotiated(choices: u8) -> Negotiated {
    let negotiation = Negotiation::new(&Config::new("iqn.2026-01.test:i"), false);
    let mut negotiated = negotiation.finish().expect("no digest is demanded");
    negotiated.digests = Digests { header: choices & 1 != 0, data: choices & 2 != 0 };
    negotiated
}

/// A window of 32 commands.
fn window() -> Window {
    let sequence = Sequence { stat_sn: Serial(1), exp_cmd_sn: Serial(1), max_cmd_sn: Serial(32) };
    Window::new(Serial(1), sequence)
}

fn read(lba: u64, blocks: u32, deadline: Instant) -> Command {
    Command {
        lun: LunAddress::from_number(1),
        cdb: Cdb::Read16 { lba, blocks },
        expected: blocks * 512,
        deadline,
        timeout: Duration::from_secs(8),
        detours: lba % 2 == 0,
    }
}

/// Gives received bytes to the receiver in the way in which the driver does.
fn feed<T>(
    receiver: &mut Receiver,
    engine: &mut Engine<T>,
    mut bytes: &[u8],
    now: Instant,
) -> Result<(), super::proto::Fault> {
    engine.heard(now);
    loop {
        let need = receiver.process(engine, now)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let taken = match need {
            Need::Data { itt, left } => engine.buffer(itt).map(|buffer| {
                let count = left.min(bytes.len());
                buffer.extend_from_slice(&bytes[..count]);
                count
            }),
            Need::Bytes => None,
        };
        match taken {
            Some(count) => {
                receiver.received(engine, count);
                bytes = &bytes[count..];
            }
            None => {
                receiver.inbox.extend_from_slice(bytes);
                bytes = &[];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::fuzz::replay;

    proptest! {
        #[test]
        fn any_stream(bytes in vec(any::<u8>(), 0..600)) {
            super::stream(&bytes);
        }

        #[test]
        fn any_login(bytes in vec(any::<u8>(), 0..600)) {
            super::login(&bytes);
        }

        #[test]
        fn any_session(bytes in vec(any::<u8>(), 0..600)) {
            super::session(&bytes);
        }
    }

    #[test]
    fn seeds_of_streams() {
        replay("stream", super::stream);
    }

    #[test]
    fn seeds_of_logins() {
        replay("login", super::login);
    }

    #[test]
    fn seeds_of_sessions() {
        replay("session", super::session);
    }
}
