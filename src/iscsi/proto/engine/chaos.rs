//! A target that does anything at any time: whatever counts as data is right, nothing panics, everything ends.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::iscsi::pdu::{BHS_LEN, Bhs, NO_TAG, Sequence, Serial};
use crate::iscsi::proto::Receiver;
use crate::scsi::Cdb;

const LUN: LunAddress = LunAddress([0, 1, 0, 0, 0, 0, 0, 0]);
const TIMEOUT: Duration = Duration::from_secs(8);

/// How an answer is spoiled.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    Nothing,
    LosePdu(u8),
    RepeatPdu(u8),
    DataSn(u32),
    Offset(u32),
    UnknownTag,
    Short(u16),
    Underflow(u16),
    Overflow(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Submit {
        lba: u8,
        blocks: u8,
    },
    /// Answers the command at this place among those in flight, in pieces of so many bytes.
    Answer {
        which: u8,
        piece: u16,
        apart: bool,
        spoil: Spoil,
    },
    Status {
        which: u8,
        status: u8,
        key: u8,
        code: u16,
    },
    Control {
        opcode: u8,
        which: u8,
        byte: u8,
        number: u16,
    },
    Verified(bool),
    Pass(u16),
    Drop,
    Garbage(Vec<u8>),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        4 => Just(Spoil::Nothing),
        1 => any::<u8>().prop_map(Spoil::LosePdu),
        1 => any::<u8>().prop_map(Spoil::RepeatPdu),
        1 => any::<u32>().prop_map(Spoil::DataSn),
        1 => any::<u32>().prop_map(Spoil::Offset),
        1 => Just(Spoil::UnknownTag),
        1 => any::<u16>().prop_map(Spoil::Short),
        1 => any::<u16>().prop_map(Spoil::Underflow),
        1 => any::<u32>().prop_map(Spoil::Overflow),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let statuses = prop_oneof![Just(2), Just(8), Just(0x18), Just(0x28), Just(0x40), any::<u8>()];
    let codes = prop_oneof![Just(0x2900), Just(0x2a09), Just(0x0401), Just(0x2500), any::<u16>()];
    prop_oneof![
        6 => (any::<u8>(), 1..9_u8).prop_map(|(lba, blocks)| Step::Submit { lba, blocks }),
        8 => (any::<u8>(), 1..5000_u16, any::<bool>(), spoil())
            .prop_map(|(which, piece, apart, spoil)| Step::Answer { which, piece, apart, spoil }),
        2 => (any::<u8>(), statuses, 0..16_u8, codes)
            .prop_map(|(which, status, key, code)| Step::Status { which, status, key, code }),
        2 => (0x20..0x40_u8, any::<u8>(), any::<u8>(), any::<u16>())
            .prop_map(|(opcode, which, byte, number)| Step::Control { opcode, which, byte, number }),
        2 => any::<bool>().prop_map(Step::Verified),
        3 => any::<u16>().prop_map(Step::Pass),
        1 => Just(Step::Drop),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Step::Garbage),
    ]
}

/// What the disk holds.
fn right(lba: u64, blocks: u64) -> Vec<u8> {
    (lba * 512..(lba + blocks) * 512).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect()
}

/// A command as the target has received it.
#[derive(Clone, Copy)]
struct Received {
    itt: u32,
    lba: u64,
    blocks: u64,
}

struct World {
    engine: Engine<(u64, u64)>,
    receiver: Receiver,
    received: Vec<Received>,
    tags: Vec<u32>,
    checks: Vec<Check>,
    now: Instant,
    submitted: usize,
    ended: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            engine: Engine::new(Limits::new(TIMEOUT)),
            receiver: Receiver::new(Digests::default(), BytesMut::new()),
            received: Vec::new(),
            tags: Vec::new(),
            checks: Vec::new(),
            now: Instant::now(),
            submitted: 0,
            ended: 0,
        };
        world.engine.watch(LUN);
        world.engine.set_shared();
        world.connect();
        world
    }

    fn connect(&mut self) {
        let sequence =
            Sequence { stat_sn: Serial(0), exp_cmd_sn: Serial(1), max_cmd_sn: Serial(20) };
        let window = Window::new(Serial(1), sequence);
        self.engine.connected(&Negotiated::default(), window, self.now);
        self.receiver = Receiver::new(Digests::default(), BytesMut::new());
        self.received.clear();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit { lba, blocks } => {
                let (lba, blocks) = (u64::from(lba), u64::from(blocks));
                let cdb = Cdb::Read16 { lba, blocks: blocks as u32 };
                let deadline = self.now + TIMEOUT;
                let expected = blocks as u32 * 512;
                // Some know another path, some do not.
                let detours = lba % 3 == 0;
                let timeout = TIMEOUT;
                let command = Command { lun: LUN, cdb, expected, deadline, timeout, detours };
                self.engine.submit(command, (lba, blocks));
                self.submitted += 1;
            }
            Step::Answer { which, piece, apart, spoil } => {
                if let Some(command) = self.pick(which) {
                    self.answer(command, usize::from(piece), apart, spoil);
                }
            }
            Step::Status { which, status, key, code } => {
                if let Some(command) = self.pick(which) {
                    // GOOD without data must not count either.
                    let mut bhs = self.pdu(0x21, 0x80, command.itt);
                    bhs.put(3, [status]);
                    let mut sense = vec![0, 18, 0x70, 0, key];
                    sense.resize(20, 0);
                    sense[14..16].copy_from_slice(&code.to_be_bytes());
                    self.hear(bhs, &sense);
                }
            }
            Step::Control { opcode, which, byte, number } => {
                // No data-in by chance: what it would carry is not what the disk holds.
                let opcode = if opcode == 0x25 { 0x20 } else { opcode };
                let tags = self.tags.len().max(1);
                let itt = self.tags.get(usize::from(which) % tags).copied().unwrap_or(NO_TAG);
                let mut bhs = self.pdu(opcode, byte, itt);
                bhs.put(2, [byte]);
                bhs.put(36, [byte % 6]);
                bhs.put(42, number.to_be_bytes());
                // A status that says GOOD with no data is covered by `Status`; here it may say anything.
                self.hear(bhs, &[]);
            }
            Step::Verified(good) => {
                let result =
                    if good { Ok(()) } else { Err(Error::new(ErrorKind::BeingWritten, "other")) };
                if let Some(check) = self.checks.pop() {
                    self.engine.verified(LUN, check, result);
                }
            }
            Step::Pass(milliseconds) => {
                self.now += Duration::from_millis(milliseconds.into());
                if let Err(fault) = self.engine.handle_timeout(self.now) {
                    self.lose(fault);
                }
            }
            Step::Drop => {
                self.lose(Fault::new(Error::new(ErrorKind::SessionLost, "dropped")));
            }
            Step::Garbage(bytes) => {
                self.receiver.inbox.extend_from_slice(&bytes);
                self.process();
                // Whatever it was the beginning of must not swallow what follows.
                self.lose(Fault::protocol("garbage"));
            }
        }
        self.settle();
    }

    fn pick(&mut self, which: u8) -> Option<Received> {
        if self.received.is_empty() {
            return None;
        }
        let at = usize::from(which) % self.received.len();
        Some(self.received.remove(at))
    }

    fn pdu(&self, opcode: u8, flags: u8, itt: u32) -> Bhs {
        let mut bhs = Bhs::new(opcode, flags);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, NO_TAG);
        bhs.put_u32(28, 1);
        bhs.put_u32(32, u32::try_from(self.submitted).unwrap() + 20);
        bhs
    }

    fn answer(&mut self, command: Received, piece: usize, apart: bool, spoil: Spoil) {
        let mut data = right(command.lba, command.blocks);
        let (mut flags, mut residual) = (0, 0);
        match spoil {
            Spoil::Short(missing) => data.truncate(data.len().saturating_sub(missing.into())),
            Spoil::Underflow(missing) => {
                data.truncate(data.len().saturating_sub(missing.into()));
                (flags, residual) = (0x02, u32::from(missing));
            }
            Spoil::Overflow(more) => (flags, residual) = (0x04, more),
            _ => {}
        }
        let pieces: Vec<_> = data.chunks(piece.max(64)).collect();
        let mut pdus = Vec::new();
        let mut offset = 0;
        for (sn, piece) in pieces.iter().enumerate() {
            let last = sn + 1 == pieces.len() && !apart;
            let mut bhs = self.pdu(0x25, if last { 0x81 | flags } else { 0 }, command.itt);
            bhs.put_u32(36, u32::try_from(sn).unwrap());
            bhs.put_u32(40, offset);
            bhs.put_u32(44, residual);
            offset += u32::try_from(piece.len()).unwrap();
            pdus.push((bhs, piece.to_vec()));
        }
        if apart || pdus.is_empty() {
            let mut bhs = self.pdu(0x21, 0x80 | flags, command.itt);
            bhs.put_u32(44, residual);
            pdus.push((bhs, Vec::new()));
        }
        let at = |index: u8| usize::from(index) % pdus.len();
        match spoil {
            Spoil::LosePdu(index) => drop(pdus.remove(at(index))),
            Spoil::RepeatPdu(index) => {
                let again = pdus[at(index)].clone();
                pdus.insert(at(index), again);
            }
            Spoil::DataSn(sn) => pdus[0].0.put_u32(36, sn),
            Spoil::Offset(offset) => pdus[0].0.put_u32(40, offset),
            Spoil::UnknownTag => pdus[0].0.put_u32(16, 0x7fff_0fff),
            _ => {}
        }
        for (bhs, data) in pdus {
            if !self.hear(bhs, &data) {
                break;
            }
        }
    }

    /// False: the connection is a new one.
    fn hear(&mut self, mut bhs: Bhs, data: &[u8]) -> bool {
        bhs.set_data_len(data.len());
        self.receiver.inbox.extend_from_slice(&bhs.0);
        self.receiver.inbox.extend_from_slice(data);
        self.receiver.inbox.extend_from_slice(&[0; 3][..data.len().wrapping_neg() & 3]);
        self.process()
    }

    fn process(&mut self) -> bool {
        match self.receiver.process(&mut self.engine, self.now) {
            Ok(_) => true,
            Err(fault) => {
                self.lose(fault);
                false
            }
        }
    }

    fn lose(&mut self, fault: Fault) {
        self.engine.disconnected(fault, self.now);
        self.connect();
    }

    /// Takes what goes out, and looks at what has ended.
    fn settle(&mut self) {
        let mut out = BytesMut::new();
        self.engine.transmit(self.now, &mut out);
        while let Some(bytes) = out.first_chunk::<BHS_LEN>() {
            let bhs = Bhs(*bytes);
            out.advance(BHS_LEN);
            self.tags.push(bhs.itt());
            if bhs.opcode() == 0x01 {
                let (lba, blocks) = (u64::from(bhs.u32(38)), u64::from(bhs.u32(42)));
                self.received.push(Received { itt: bhs.itt(), lba, blocks });
            }
        }
        while let Some(event) = self.engine.event() {
            match event {
                Event::Completed((lba, blocks), result) => {
                    self.ended += 1;
                    if let Ok(data) = result {
                        assert!(data == right(lba, blocks), "wrong data passed on");
                    }
                }
                Event::Verify(_, check) => self.checks.push(check),
                Event::LoggedOut { .. } => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_counts_as_data_is_right(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // In the end everything has ended, by its answer or by its deadline.
        world.step(Step::Pass(u16::MAX));
        prop_assert_eq!(world.submitted, world.ended);
        prop_assert!(!world.engine.has_work());
    }
}
