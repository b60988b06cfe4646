//! An answer is a list of steps; a fault is a change to that list.

use std::time::Duration;

use bytes::Bytes;

use crate::fault::{AsyncMessage, Close, Fault, Residual};
use crate::sense::{CHECK_CONDITION, GOOD, Sense};
use crate::wire::{Digests, Mangle, NO_TAG, Pdu, response};

/// What a PDU does to StatSN (RFC 7143 section 4.2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatSn {
    /// The field is reserved: Data-In without status.
    Reserved,
    /// The PDU carries the next StatSN and uses it up.
    Advance,
    /// The PDU carries the next StatSN and leaves it: NOP-In on the target's own account.
    Peek,
}

/// A PDU to send; StatSN, ExpCmdSN and MaxCmdSN are filled in when it goes out.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    pub(crate) pdu: Pdu,
    pub(crate) stat: StatSn,
    /// The task that this belongs to: once the task is aborted, it is not sent.
    pub(crate) task: Option<u32>,
    /// Whether the task ends with it.
    pub(crate) last: bool,
    pub(crate) mangle: Mangle,
    pub(crate) split: Option<(usize, Duration)>,
    /// Only so many bytes of the data are sent; a `Step::Close` follows.
    pub(crate) cut: Option<usize>,
    pub(crate) stat_sn_jump: u32,
}

impl Out {
    pub(crate) fn new(pdu: Pdu, stat: StatSn) -> Self {
        Self {
            pdu,
            stat,
            task: None,
            last: false,
            mangle: Mangle::default(),
            split: None,
            cut: None,
            stat_sn_jump: 0,
        }
    }
}

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Out),
    Pause(Duration),
    Close(Close),
    /// Nothing is sent from here on.
    Mute,
    /// The login has ended: these digests from here on.
    Digests(Digests),
}

/// A SCSI command that wants an answer, and what the login agreed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) itt: u32,
    /// Expected Data Transfer Length of a reading command, else 0.
    pub(crate) expected: u32,
    /// The initiator's MaxRecvDataSegmentLength.
    pub(crate) segment: usize,
    /// MaxBurstLength: a Data-In sequence ends (F) at least this often.
    pub(crate) burst: usize,
    /// Send GOOD in the last Data-In instead of a SCSI Response.
    pub(crate) status_in_data: bool,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: u8,
    pub(crate) sense: Option<Sense>,
    pub(crate) data: Bytes,
}

impl Outcome {
    pub(crate) fn status(status: u8, sense: Option<Sense>) -> Self {
        Self { status, sense, data: Bytes::new() }
    }
}

impl From<Result<Bytes, Sense>> for Outcome {
    fn from(result: Result<Bytes, Sense>) -> Self {
        match result {
            Ok(data) => Self { status: GOOD, sense: None, data },
            Err(sense) => Self::status(CHECK_CONDITION, Some(sense)),
        }
    }
}

const FINAL: u8 = 0x80;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const HAS_STATUS: u8 = 0x01;

/// Data-In PDUs and status for one command (RFC 7143 sections 11.4 and 11.7).
pub(crate) fn scsi_answer(asked: &Asked, outcome: &Outcome, faults: &[Fault]) -> Vec<Step> {
    let expected = usize::try_from(asked.expected).expect("32 bits fit a usize");
    let available = outcome.data.len();
    let mut data = outcome.data.slice(..available.min(expected));
    let mut residual = match available.abs_diff(expected) {
        0 => Residual::None,
        n if available < expected => Residual::Underflow(u32::try_from(n).unwrap_or(u32::MAX)),
        n => Residual::Overflow(u32::try_from(n).unwrap_or(u32::MAX)),
    };
    for fault in faults {
        if let Fault::Short(missing, claim) = fault {
            data.truncate(data.len().saturating_sub(*missing));
            residual = *claim;
        }
    }
    let (flags, count) = match residual {
        Residual::None => (0, 0),
        Residual::Underflow(count) => (UNDERFLOW, count),
        Residual::Overflow(count) => (OVERFLOW, count),
    };
    let with_data = asked.status_in_data && outcome.status == GOOD && !data.is_empty();

    let mut steps = Vec::new();
    let mut offset = 0;
    let mut data_sn = 0;
    while offset < data.len() {
        let left_in_burst = asked.burst - offset % asked.burst;
        let len = (data.len() - offset).min(asked.segment).min(left_in_burst);
        let end = offset + len;
        let is_last = end == data.len();
        let mut pdu = Pdu::new(response::DATA_IN, 0)
            .with_u32(16, asked.itt)
            .with_u32(20, NO_TAG)
            .with_u32(36, data_sn)
            .with_u32(40, u32::try_from(offset).expect("within 32 bits of expected length"))
            .with_data(data.slice(offset..end));
        if is_last || end % asked.burst == 0 {
            pdu.bhs[1] |= FINAL;
        }
        let mut stat = StatSn::Reserved;
        if is_last && with_data {
            pdu.bhs[1] |= HAS_STATUS | flags;
            pdu.bhs[3] = outcome.status;
            pdu.set_u32(44, count);
            stat = StatSn::Advance;
        }
        let last = is_last && with_data;
        steps.push(Step::Send(Out { task: Some(asked.itt), last, ..Out::new(pdu, stat) }));
        offset = end;
        data_sn += 1;
    }
    if !with_data {
        let mut pdu = Pdu::new(response::SCSI, FINAL | flags)
            .with_bytes(3, &[outcome.status])
            .with_u32(16, asked.itt)
            .with_u32(36, data_sn)
            .with_u32(44, count);
        if let Some(sense) = outcome.sense {
            let sense = sense.encode();
            let length = u16::try_from(sense.len()).expect("at most 20 bytes").to_be_bytes();
            pdu = pdu.with_data([&length[..], &sense].concat());
        }
        let out = Out::new(pdu, StatSn::Advance);
        steps.push(Step::Send(Out { task: Some(asked.itt), last: true, ..out }));
    }
    steps
}

/// The PDU of an asynchronous message (RFC 7143 section 11.9), and the end of the connection where it says so.
pub(crate) fn async_message(message: AsyncMessage, lun: [u8; 8]) -> Vec<Step> {
    let (event, parameters, closes) = match message {
        AsyncMessage::Scsi(_) => (0, [0, 0, 0], false),
        AsyncMessage::LogoutRequest(within) => (1, [0, 0, within], false),
        AsyncMessage::DropConnection { time2wait } => (2, [0, time2wait, 20], true),
        AsyncMessage::DropSession { time2wait } => (3, [0, time2wait, 20], true),
        AsyncMessage::Renegotiate(within) => (4, [0, 0, within], false),
    };
    let mut pdu = Pdu::new(response::ASYNC, FINAL).with_u32(16, NO_TAG).with_bytes(36, &[event]);
    for (at, parameter) in [38, 40, 42].into_iter().zip(parameters) {
        pdu = pdu.with_bytes(at, &u16::to_be_bytes(parameter));
    }
    if let AsyncMessage::Scsi(sense) = message {
        let sense = sense.encode();
        let length = u16::try_from(sense.len()).expect("at most 20 bytes").to_be_bytes();
        pdu = pdu.with_bytes(8, &lun).with_data([&length[..], &sense].concat());
    }
    let mut steps = vec![Step::Send(Out::new(pdu, StatSn::Advance))];
    if closes {
        steps.push(Step::Close(Close::Fin));
    }
    steps
}

/// A Reject of the PDU with this header (RFC 7143 section 11.17).
pub(crate) fn reject(reason: u8, rejected: &Pdu) -> Out {
    let pdu = Pdu::new(response::REJECT, FINAL)
        .with_bytes(2, &[reason])
        .with_u32(16, NO_TAG)
        .with_data(rejected.bhs.to_vec());
    Out::new(pdu, StatSn::Advance)
}

/// Applies one fault to an answer. Faults that act on the target's state or on how the answer is made have done so.
pub(crate) fn spoil(steps: &mut Vec<Step>, fault: &Fault) {
    match fault {
        Fault::Close(how) => *steps = vec![Step::Close(*how)],
        Fault::CloseAfter(bytes, how) => close_after(steps, *bytes, *how),
        Fault::Delay(time) => steps.insert(0, Step::Pause(*time)),
        Fault::Silence => steps.clear(),
        Fault::Mute => *steps = vec![Step::Mute],
        Fault::Async(message) => {
            let mut all = async_message(*message, [0; 8]);
            all.append(steps);
            *steps = all;
        }
        Fault::Split(at, pause) => first(steps, |out| out.split = Some((*at, *pause))),
        Fault::BadHeaderDigest => first(steps, |out| out.mangle.bad_header_digest = true),
        Fault::BadData => first(steps, |out| out.mangle.bad_data = true),
        Fault::ClaimLength(length) => first(steps, |out| out.mangle.claim_length = Some(*length)),
        Fault::ClaimAhs(words) => first(steps, |out| out.mangle.claim_ahs = Some(*words)),
        Fault::Opcode(opcode) => first(steps, |out| out.pdu.bhs[0] = *opcode),
        Fault::StatSnJump(by) => first(steps, |out| out.stat_sn_jump = *by),
        Fault::WrongItt => {
            for out in sends(steps) {
                out.pdu.set_u32(16, out.pdu.itt() ^ 0x5a5a_0000);
            }
        }
        Fault::WildOffset(offset) => {
            if let Some(out) = data_ins(steps).last() {
                out.pdu.set_u32(40, *offset);
            }
        }
        Fault::SkipDataSn(from) => {
            for out in data_ins(steps).skip(*from) {
                let data_sn = out.pdu.u32_at(36);
                out.pdu.set_u32(36, data_sn.wrapping_add(1));
            }
        }
        Fault::EmptyDataIn(index) => {
            if let Some(at) = data_in_position(steps, *index) {
                let mut empty = steps[at].clone();
                if let Step::Send(out) = &mut empty {
                    (out.pdu.data, out.pdu.bhs[1]) = (Bytes::new(), 0);
                    (out.stat, out.last) = (StatSn::Reserved, false);
                    out.pdu = out.pdu.clone().with_u32(44, 0);
                }
                spoil(steps, &Fault::SkipDataSn(*index));
                steps.insert(at, empty);
            }
        }
        Fault::LoseDataIn(index) => {
            if let Some(at) = data_in_position(steps, *index) {
                steps.remove(at);
            }
        }
        Fault::RepeatDataIn(index) => {
            if let Some(at) = data_in_position(steps, *index) {
                let mut again = steps[at].clone();
                if let Step::Send(out) = &mut again {
                    out.last = false;
                }
                steps.insert(at, again);
            }
        }
        Fault::Short(..)
        | Fault::Status(..)
        | Fault::Reject(_)
        | Fault::FreezeWindow(_)
        | Fault::LoginStatus(..)
        | Fault::Redirect { .. }
        | Fault::Pieces(_)
        | Fault::MoreKeys(_)
        | Fault::NoTransit
        | Fault::Vanish
        | Fault::Resize(_)
        | Fault::Attention(_)
        | Fault::Access(_)
        | Fault::NotReady(_) => {}
    }
}

fn sends(steps: &mut [Step]) -> impl Iterator<Item = &mut Out> {
    steps.iter_mut().filter_map(|step| match step {
        Step::Send(out) => Some(out),
        _ => None,
    })
}

fn data_ins(steps: &mut [Step]) -> impl Iterator<Item = &mut Out> {
    sends(steps).filter(|out| out.pdu.opcode() == response::DATA_IN)
}

fn first(steps: &mut [Step], change: impl FnOnce(&mut Out)) {
    if let Some(out) = sends(steps).next() {
        change(out);
    }
}

fn data_in_position(steps: &[Step], index: usize) -> Option<usize> {
    let is_data_in =
        |step: &Step| matches!(step, Step::Send(out) if out.pdu.opcode() == response::DATA_IN);
    steps.iter().enumerate().filter(|(_, step)| is_data_in(step)).nth(index).map(|(at, _)| at)
}

fn close_after(steps: &mut Vec<Step>, bytes: usize, how: Close) {
    let mut left = bytes;
    for at in 0..steps.len() {
        let Step::Send(out) = &mut steps[at] else { continue };
        let len = out.pdu.data.len();
        if left < len {
            out.cut = Some(left);
            steps.truncate(at + 1);
            break;
        }
        left -= len;
    }
    steps.push(Step::Close(how));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked =
        Asked { itt: 7, expected: 1000, segment: 300, burst: 600, status_in_data: true };

    fn pdus(steps: &[Step]) -> Vec<Pdu> {
        let pdu = |step: &Step| match step {
            Step::Send(out) => Some(out.pdu.clone()),
            _ => None,
        };
        steps.iter().filter_map(pdu).collect()
    }

    fn answer(asked: Asked, len: usize, fault: Option<Fault>) -> Vec<Pdu> {
        let outcome = Outcome::from(Ok(Bytes::from(vec![1; len])));
        let faults: Vec<_> = fault.into_iter().collect();
        let mut steps = scsi_answer(&asked, &outcome, &faults);
        faults.iter().for_each(|fault| spoil(&mut steps, fault));
        pdus(&steps)
    }

    #[test]
    fn data_is_cut_into_segments_and_bursts() {
        let pdus = answer(ASKED, 1000, None);
        let shape: Vec<_> =
            pdus.iter().map(|p| (p.bhs[1], p.u32_at(36), p.u32_at(40), p.data.len())).collect();
        assert_eq!(
            shape,
            [(0, 0, 0, 300), (FINAL, 1, 300, 300), (0, 2, 600, 300), (0x81, 3, 900, 100)]
        );
    }

    #[test]
    fn residuals_in_either_place_of_the_status() {
        for status_in_data in [true, false] {
            let asked = Asked { status_in_data, ..ASKED };
            let short = answer(asked, 990, None).pop().unwrap();
            assert_eq!((short.bhs[1] & 6, short.u32_at(44)), (UNDERFLOW, 10));
            let long = answer(asked, 1010, None).pop().unwrap();
            assert_eq!((long.bhs[1] & 6, long.u32_at(44)), (OVERFLOW, 10));
        }
    }

    #[test]
    fn faults_change_what_they_say_and_nothing_else() {
        let lost = answer(ASKED, 1000, Some(Fault::LoseDataIn(1)));
        assert_eq!(lost.iter().map(|p| p.u32_at(36)).collect::<Vec<_>>(), [0, 2, 3]);
        let jumped = answer(ASKED, 1000, Some(Fault::SkipDataSn(2)));
        assert_eq!(jumped.iter().map(|p| p.u32_at(36)).collect::<Vec<_>>(), [0, 1, 3, 4]);
        let short = answer(ASKED, 1000, Some(Fault::Short(100, Residual::None)));
        assert_eq!(short.iter().map(|p| p.data.len()).sum::<usize>(), 900);
        assert_eq!(short.last().unwrap().bhs[1], 0x81);
        let lie = answer(ASKED, 1000, Some(Fault::Short(0, Residual::Underflow(9))));
        assert_eq!(lie.iter().map(|p| p.data.len()).sum::<usize>(), 1000);
        assert_eq!(lie.last().unwrap().u32_at(44), 9);
        let wild = answer(ASKED, 1000, Some(Fault::WildOffset(5)));
        assert_eq!(wild.last().unwrap().u32_at(40), 5);
        let empty = answer(ASKED, 1000, Some(Fault::EmptyDataIn(3)));
        let shape: Vec<_> = empty.iter().map(|p| (p.u32_at(36), p.data.len())).collect();
        assert_eq!(shape, [(0, 300), (1, 300), (2, 300), (3, 0), (4, 100)]);
        assert!(answer(ASKED, 1000, Some(Fault::Silence)).is_empty());
        assert!(answer(ASKED, 1000, Some(Fault::WrongItt)).iter().all(|p| p.itt() != 7));
    }

    #[test]
    fn a_connection_can_end_in_the_middle_of_the_data() {
        let outcome = Outcome::from(Ok(Bytes::from(vec![1; 1000])));
        let mut steps = scsi_answer(&ASKED, &outcome, &[]);
        spoil(&mut steps, &Fault::CloseAfter(350, Close::Reset));
        let cuts: Vec<_> = sends(&mut steps).map(|out| out.cut).collect();
        assert_eq!(cuts, [None, Some(50)]);
        assert!(matches!(steps.last(), Some(Step::Close(Close::Reset))));
    }

    #[test]
    fn sense_goes_with_check_condition() {
        let outcome = Outcome::from(Err(Sense::READ_ERROR));
        let pdus = pdus(&scsi_answer(&ASKED, &outcome, &[]));
        assert_eq!(pdus.len(), 1);
        assert_eq!((pdus[0].bhs[3], pdus[0].data[1], pdus[0].data[4]), (CHECK_CONDITION, 18, 3));
    }
}
