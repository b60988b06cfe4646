//! What becomes of a command that a target has answered: the rules of retrying, in one place.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::scsi::{Cdb, Sense, SenseKey, Status};

/// How often a command that came back damaged or failed in hardware is issued in all.
pub(crate) const MAX_TRIES: u32 = 3;
/// How often unit attentions are answered at once before waiting in between.
const PROMPT_RETRIES: u32 = 16;
/// Between two attempts while a unit gets ready or a volume moves.
const NOT_READY_WAIT: Duration = Duration::from_millis(500);

/// What to do with the command.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Its data is good.
    Done,
    /// Issue it again after this time.
    Retry(Duration),
    /// Look at the unit again (identity and capacity), then issue it again.
    Verify,
    /// Give it up.
    Fail(Error),
}

/// What is known of the command besides its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    pub(crate) cdb: Cdb,
    /// How often it has been issued before.
    pub(crate) retries: u32,
    /// Whether the target has just been reconnected to, or has announced that it will drop us: volumes that
    /// move between controllers are not there for some seconds.
    pub(crate) moving: bool,
    /// Whether the caller knows another path to the unit.
    pub(crate) detours: bool,
}

/// Judges a status with its sense data.
pub(crate) fn judge(status: Status, sense: Option<Sense>, with: Circumstances) -> Verdict {
    let growing = Duration::from_millis(50).saturating_mul(1 << with.retries.min(5));
    match status {
        Status::Good => Verdict::Done,
        Status::Busy | Status::TaskSetFull => Verdict::Retry(growing),
        Status::TaskAborted => Verdict::Retry(prompt(with)),
        Status::ReservationConflict => Verdict::Fail(
            Error::new(ErrorKind::Scsi, "reservation conflict: another host has reserved the LUN")
                .with_hint("release the reservation, or present the snapshot to this host only"),
        ),
        Status::CheckCondition => match sense {
            Some(sense) => judge_sense(sense, with),
            None => {
                Verdict::Fail(Error::new(ErrorKind::Scsi, "check condition without sense data"))
            }
        },
        Status::Other(_) => Verdict::Fail(Error::new(ErrorKind::Scsi, status.to_string())),
    }
}

/// Whether the unit may have become another one: capacity, INQUIRY data, identifier or the list of LUNs changed; the
/// medium may have.
pub(crate) fn casts_doubt(sense: Sense) -> bool {
    sense.key == SenseKey::UnitAttention
        && matches!(sense.code(), 0x2a09 | 0x3f03 | 0x3f05 | 0x3f0e | 0x2800)
}

fn judge_sense(sense: Sense, with: Circumstances) -> Verdict {
    let failed = |kind| Verdict::Fail(Error::new(kind, describe(sense, with.cdb)));
    match (sense.key, sense.code()) {
        (key, _) if key.keeps_data() => Verdict::Done,
        // Transition, standby, unavailable; or the states of the ports have changed.
        (SenseKey::NotReady, 0x040a..=0x040c) | (SenseKey::UnitAttention, 0x2a06)
            if with.detours =>
        {
            failed(ErrorKind::PathClosed)
        }
        _ if casts_doubt(sense) && with.cdb.reads_medium() => Verdict::Verify,
        (SenseKey::UnitAttention, _) => Verdict::Retry(prompt(with)),
        // Becoming ready, or between two states: it passes. Standby and unavailable ports may come back as well.
        (SenseKey::NotReady, 0x0400 | 0x0401 | 0x0407 | 0x0409..=0x040c) => {
            Verdict::Retry(NOT_READY_WAIT)
        }
        (SenseKey::AbortedCommand, _) => Verdict::Retry(prompt(with)),
        (SenseKey::MediumError, _) => failed(ErrorKind::Medium),
        (SenseKey::HardwareError, _) if with.retries + 1 < MAX_TRIES => {
            Verdict::Retry(NOT_READY_WAIT)
        }
        (SenseKey::HardwareError, _) => failed(ErrorKind::Medium),
        (SenseKey::IllegalRequest, 0x2500) if with.moving => Verdict::Retry(NOT_READY_WAIT),
        (SenseKey::IllegalRequest, 0x2500) => Verdict::Fail(
            Error::new(ErrorKind::LunNotFound, "LUN no longer exists")
                .with_hint("was the snapshot deleted?"),
        ),
        _ => failed(ErrorKind::Scsi),
    }
}

fn prompt(with: Circumstances) -> Duration {
    if with.retries < PROMPT_RETRIES { Duration::ZERO } else { NOT_READY_WAIT }
}

fn describe(sense: Sense, cdb: Cdb) -> String {
    match sense.information {
        Some(lba) if cdb.reads_medium() => format!("{sense} at LBA {lba}"),
        _ => sense.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Circumstances = Circumstances {
        cdb: Cdb::Read16 { lba: 8, blocks: 8 },
        retries: 0,
        moving: false,
        detours: false,
    };

    fn sense(key: SenseKey, code: u16) -> Option<Sense> {
        let [asc, ascq] = code.to_be_bytes();
        Some(Sense { key, asc, ascq, information: Some(9) })
    }

    fn check(key: SenseKey, code: u16, with: Circumstances) -> Verdict {
        judge(Status::CheckCondition, sense(key, code), with)
    }

    #[test]
    fn what_passes_is_tried_again() {
        for (key, code) in [
            (SenseKey::UnitAttention, 0x2900),
            (SenseKey::UnitAttention, 0x2a06),
            (SenseKey::NotReady, 0x0401),
            (SenseKey::NotReady, 0x040a),
            (SenseKey::AbortedCommand, 0x0000),
        ] {
            assert!(matches!(check(key, code, READ), Verdict::Retry(_)), "{code:04x}");
        }
        for status in [Status::Busy, Status::TaskSetFull, Status::TaskAborted] {
            assert!(matches!(judge(status, None, READ), Verdict::Retry(_)), "{status}");
        }
    }

    #[test]
    fn a_unit_that_changed_is_looked_at_again() {
        for code in [0x2a09, 0x3f03, 0x3f0e] {
            assert!(matches!(check(SenseKey::UnitAttention, code, READ), Verdict::Verify));
        }
        let inquiry = Circumstances { cdb: Cdb::Inquiry { allocation: 36 }, ..READ };
        assert!(matches!(check(SenseKey::UnitAttention, 0x2a09, inquiry), Verdict::Retry(_)));
    }

    #[test]
    fn a_lun_that_is_gone_is_waited_for_only_while_volumes_move() {
        let moving = Circumstances { moving: true, ..READ };
        assert!(matches!(check(SenseKey::IllegalRequest, 0x2500, moving), Verdict::Retry(_)));
        let Verdict::Fail(error) = check(SenseKey::IllegalRequest, 0x2500, READ) else { panic!() };
        assert_eq!(error.kind(), ErrorKind::LunNotFound);
        assert_eq!(error.to_string(), "LUN no longer exists (was the snapshot deleted?)");
    }

    #[test]
    fn a_port_that_does_not_serve_the_unit_is_waited_for_unless_there_is_another() {
        for (key, code) in [
            (SenseKey::NotReady, 0x040a),
            (SenseKey::NotReady, 0x040b),
            (SenseKey::NotReady, 0x040c),
            (SenseKey::UnitAttention, 0x2a06),
        ] {
            assert!(matches!(check(key, code, READ), Verdict::Retry(_)), "{code:04x}");
            let Verdict::Fail(error) = check(key, code, Circumstances { detours: true, ..READ })
            else {
                panic!("{code:04x}")
            };
            assert_eq!(error.kind(), ErrorKind::PathClosed);
        }
    }

    #[test]
    fn a_medium_error_names_its_block() {
        let Verdict::Fail(error) = check(SenseKey::MediumError, 0x1100, READ) else { panic!() };
        assert_eq!(error.kind(), ErrorKind::Medium);
        assert_eq!(error.to_string(), "medium error, unrecovered read error (3/11/00) at LBA 9");
    }

    #[test]
    fn hardware_errors_are_tried_a_few_times() {
        assert!(matches!(check(SenseKey::HardwareError, 0x4400, READ), Verdict::Retry(_)));
        let last = Circumstances { retries: MAX_TRIES - 1, ..READ };
        assert!(matches!(check(SenseKey::HardwareError, 0x4400, last), Verdict::Fail(_)));
    }

    #[test]
    fn what_does_not_pass_is_an_error() {
        assert!(matches!(judge(Status::ReservationConflict, None, READ), Verdict::Fail(_)));
        assert!(matches!(judge(Status::CheckCondition, None, READ), Verdict::Fail(_)));
        assert!(matches!(check(SenseKey::NotReady, 0x3a00, READ), Verdict::Fail(_)));
        assert!(matches!(check(SenseKey::IllegalRequest, 0x2100, READ), Verdict::Fail(_)));
        assert!(matches!(check(SenseKey::RecoveredError, 0x1700, READ), Verdict::Done));
    }
}
