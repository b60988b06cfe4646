//! A whole session with a target that sends anything, at any time, but never a wrong byte of data.
//!
//! Every Data-In carries what the disk holds at the place that its header claims. So whatever order, numbers, tags,
//! offsets, flags, statuses, digests and times the input makes up: a read that succeeds must have brought exactly
//! the disk's bytes, every command must end once and in time, and nothing but reading may be sent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use super::super::pdu::{Bhs, NO_TAG, Outgoing};
use super::super::proto::{Check, Engine, Event, Fault, Limits, Negotiated, Receiver};
use super::{feed, negotiated, read, window};
use crate::Error;
use crate::error::ErrorKind;
use crate::fuzz::Input;
use crate::scsi::LunAddress;

/// A command as the target knows it.
#[derive(Clone, Copy)]
struct Known {
    lba: u64,
    cmd_sn: u32,
    next_data_sn: u32,
    next_offset: u32,
}

/// A read that the caller waits for.
struct Asked {
    lba: u64,
    len: usize,
}

struct Session {
    engine: Engine<u64>,
    receiver: Receiver,
    negotiated: Negotiated,
    now: Instant,
    asked: HashMap<u64, Asked>,
    next_ticket: u64,
    known: HashMap<u32, Known>,
    tags: Vec<u32>,
    stat_sn: u32,
    unverified: Vec<(LunAddress, Check)>,
    connected: bool,
}

/// Lets the input drive a session.
///
/// # Panics
/// Where the session breaks one of its promises.
pub fn session(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let mut session = Session::new(choices);
    while session.step(&mut input).is_some() {
        session.results();
    }
    session.end();
}

impl Session {
    fn new(choices: u8) -> Self {
        let negotiated = negotiated(choices);
        let now = Instant::now();
        let mut engine = Engine::new(Limits::new(Duration::from_secs(8)));
        engine.watch(LunAddress::from_number(1));
        if choices & 4 != 0 {
            engine.set_shared();
        }
        engine.connected(&negotiated, window(), now);
        Self {
            engine,
            receiver: Receiver::new(negotiated.digests, BytesMut::new()),
            negotiated,
            now,
            asked: HashMap::new(),
            next_ticket: 0,
            known: HashMap::new(),
            tags: Vec::new(),
            stat_sn: 2,
            unverified: Vec::new(),
            connected: true,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 12 {
            0 => {
                let (lba, blocks) = (u64::from(input.byte()?), u32::from(input.byte()? % 16) + 1);
                let time = Duration::from_millis(100 * u64::from(input.byte()?));
                self.submit(lba, blocks, time);
            }
            1 => self.transmit(),
            2 | 3 => self.data_in(input)?,
            4 => self.response(input)?,
            5 => self.anything(input)?,
            6 => self.other(input)?,
            7 => self.pass(Duration::from_millis(20 * u64::from(input.byte()?))),
            8 => {
                if self.connected {
                    self.disconnect(Fault::protocol("cut"));
                }
            }
            9 => self.connect(),
            10 => {
                if let Some((lun, check)) = self.unverified.pop() {
                    let fails = input.byte()? == 0;
                    let error = Error::new(ErrorKind::LunNotFound, "another unit");
                    self.engine.verified(lun, check, if fails { Err(error) } else { Ok(()) });
                }
            }
            _ => {
                if input.byte()? == 0xff {
                    let error = Error::new(ErrorKind::SessionLost, "logged out");
                    self.engine.close(&error, self.now);
                }
            }
        }
        if self.engine.has_work() {
            assert!(self.engine.next_timeout().is_some(), "a command without a bound");
        }
        Some(())
    }

    fn submit(&mut self, lba: u64, blocks: u32, time: Duration) {
        let len = usize::try_from(blocks * 512).expect("at most 8 KiB");
        self.asked.insert(self.next_ticket, Asked { lba, len });
        self.engine.submit(read(lba, blocks, self.now + time), self.next_ticket);
        self.next_ticket += 1;
    }

    /// Takes what goes out apart as a target would.
    fn transmit(&mut self) {
        let mut out = BytesMut::new();
        self.engine.transmit(self.now, &mut out);
        let digests = self.negotiated.digests;
        while let Some(header) = out.first_chunk::<48>() {
            let bhs = Bhs(*header);
            match bhs.opcode() {
                // NOP-Out, Text Request, Logout Request
                0x00 | 0x04 | 0x06 => {}
                0x01 => {
                    assert_eq!(bhs.flags() & 0x20, 0, "the W bit");
                    assert_eq!(bhs.byte(32), 0x88, "only READ(16) was submitted");
                    self.tags.push(bhs.itt());
                    let lba = u64::from_be_bytes(bhs.array(34));
                    let known = Known { lba, cmd_sn: bhs.u32(24), next_data_sn: 0, next_offset: 0 };
                    self.known.insert(bhs.itt(), known);
                }
                0x02 => assert_eq!(bhs.flags() & 0x7f, 1, "only ABORT TASK"),
                other => panic!("opcode {other:#x}"),
            }
            assert_eq!(bhs.data_len(), 0, "nothing that is sent has data");
            out.advance(48 + if digests.header { 4 } else { 0 });
        }
        assert!(out.is_empty());
    }

    fn tag(&self, choice: u8) -> u32 {
        match self.tags.len() {
            0 => u32::from(choice),
            len => self.tags[len - 1 - usize::from(choice) % len],
        }
    }

    /// A Data-In that is in order but for what the input changes.
    fn data_in(&mut self, input: &mut Input<'_>) -> Option<()> {
        let itt = self.tag(input.byte()?);
        let (kind, len) = (input.byte()?, 64 * u32::from(input.byte()?));
        let known = self.known.get(&itt).copied();
        let mut bhs = Bhs::new(0x25, 0);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, NO_TAG);
        let (mut data_sn, mut offset) =
            known.map_or((0, 0), |known| (known.next_data_sn, known.next_offset));
        if kind & 0x80 != 0 {
            data_sn = data_sn.wrapping_add(u32::from(input.byte()?));
        }
        if kind & 0x40 != 0 {
            offset = offset.wrapping_add((u32::from(input.byte()?) * 64).wrapping_sub(4096));
        }
        bhs.put_u32(36, data_sn);
        bhs.put_u32(40, offset);
        let mut flags = kind & 0x80;
        if kind & 1 != 0 {
            flags |= 0x81;
            bhs.put(3, [if kind & 2 != 0 { input.byte()? } else { 0 }]);
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        if kind & 4 != 0 {
            flags |= input.byte()? & 6;
            bhs.put_u32(44, u32::from(input.byte()?) * 64);
        }
        bhs.put(1, [flags]);
        if let Some(known) = self.known.get_mut(&itt) {
            known.next_data_sn = data_sn.wrapping_add(1);
            known.next_offset = offset.wrapping_add(len);
        }
        let data = self.truth(itt, offset, len);
        let spoil = kind & 0x20 != 0 && self.negotiated.digests.data;
        self.send(bhs, data, spoil, usize::from(kind));
        Some(())
    }

    /// What the disk holds where a Data-In claims to come from.
    fn truth(&self, itt: u32, offset: u32, len: u32) -> Vec<u8> {
        let Some(known) = self.known.get(&itt) else {
            return vec![0xee; usize::try_from(len).expect("24 bits")];
        };
        let start = known.lba * 512 + u64::from(offset);
        (start..start + u64::from(len)).map(disk).collect()
    }

    fn response(&mut self, input: &mut Input<'_>) -> Option<()> {
        let itt = self.tag(input.byte()?);
        let (kind, status) = (input.byte()?, input.byte()?);
        let mut bhs = Bhs::new(0x21, 0x80 | kind & 6);
        bhs.put_u32(16, itt);
        if kind & 1 != 0 {
            bhs.put(2, [input.byte()?]);
        }
        bhs.put(3, [if kind & 8 != 0 { status } else { status & 2 }]);
        if kind & 6 != 0 {
            bhs.put_u32(44, u32::from(input.byte()?) * 64);
        }
        let mut sense = Vec::new();
        if kind & 0x10 != 0 {
            let len = input.byte()? % 32;
            sense = vec![0, len];
            sense.extend_from_slice(input.take(usize::from(len)));
        }
        self.stat_sn = self.stat_sn.wrapping_add(1);
        self.send(bhs, sense, false, usize::from(kind));
        Some(())
    }

    /// 48 bytes of anything.
    fn anything(&mut self, input: &mut Input<'_>) -> Option<()> {
        let mut bhs = Bhs(*input.take(48).first_chunk()?);
        // An AHS that does not follow would take the stream apart elsewhere: that is for `stream`.
        bhs.put(4, [0]);
        let len = input.byte()?;
        let data = match bhs.opcode() {
            0x25 => self.truth(bhs.itt(), bhs.u32(40), u32::from(len) * 16),
            _ => input.take(usize::from(len)).to_vec(),
        };
        self.send(bhs, data, false, usize::MAX);
        Some(())
    }

    /// The PDUs that belong to no read: NOP-In, task management, text, logout, asynchronous message, Reject.
    fn other(&mut self, input: &mut Input<'_>) -> Option<()> {
        let opcode = *[0x20, 0x22, 0x24, 0x26, 0x32, 0x3f].get(usize::from(input.byte()? % 6))?;
        let (choice, detail) = (input.byte()?, input.byte()?);
        let itt = self.tag(choice);
        let mut bhs = Bhs::new(opcode, 0x80);
        bhs.put(2, [detail]);
        let mut data = Vec::new();
        match opcode {
            0x20 => {
                bhs.put_u32(16, if detail & 1 == 0 { NO_TAG } else { u32::from(choice) });
                bhs.put_u32(20, if detail & 2 == 0 { NO_TAG } else { 5 });
            }
            0x32 => {
                bhs.put_u32(16, NO_TAG);
                bhs.put(36, [choice % 6]);
                bhs.put(8, [0, 1]);
            }
            0x3f => {
                bhs.put_u32(16, NO_TAG);
                let mut rejected = Bhs::new(1, 0x80);
                rejected.put_u32(16, itt);
                rejected.put_u32(24, self.known.get(&itt).map_or(0, |known| known.cmd_sn));
                data = rejected.0.to_vec();
            }
            _ => bhs.put_u32(16, u32::from(choice)),
        }
        self.stat_sn = self.stat_sn.wrapping_add(1);
        self.send(bhs, data, false, usize::from(detail));
        Some(())
    }

    /// Sends a PDU in pieces of `chunk` bytes, its numbers filled in.
    fn send(&mut self, mut bhs: Bhs, data: Vec<u8>, spoil: bool, chunk: usize) {
        if !self.connected {
            return;
        }
        if chunk != usize::MAX {
            let issued = u32::try_from(self.tags.len()).unwrap_or(0);
            bhs.put_u32(24, self.stat_sn);
            bhs.put_u32(28, 1 + issued);
            bhs.put_u32(32, 33 + issued);
        }
        let has_data = !data.is_empty();
        let mut wire = BytesMut::new();
        Outgoing { bhs, data }.write(self.negotiated.digests, &mut wire);
        if spoil && has_data {
            let at = wire.len() - 5;
            wire[at] ^= 1;
        }
        let mut fault = None;
        for part in wire.chunks(chunk.clamp(1, 1 << 20)) {
            if let Err(found) = feed(&mut self.receiver, &mut self.engine, part, self.now) {
                fault = Some(found);
                break;
            }
        }
        assert!(fault.is_some() || !(spoil && has_data), "a wrong digest passed");
        if let Some(fault) = fault {
            self.disconnect(fault);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Err(fault) = self.engine.handle_timeout(self.now) {
            assert!(self.connected, "a fault without a connection");
            self.disconnect(fault);
        }
    }

    fn disconnect(&mut self, fault: Fault) {
        self.engine.disconnected(fault, self.now);
        self.connected = false;
        self.known.clear();
        self.tags.clear();
    }

    fn connect(&mut self) {
        if !self.connected {
            self.engine.connected(&self.negotiated, window(), self.now);
            self.receiver = Receiver::new(self.negotiated.digests, BytesMut::new());
            self.connected = true;
        }
    }

    fn results(&mut self) {
        while let Some(event) = self.engine.event() {
            match event {
                Event::Completed(ticket, result) => {
                    let asked =
                        self.asked.remove(&ticket).expect("a result for each command, once");
                    if let Ok(data) = result {
                        assert_eq!(data.len(), asked.len, "a short read passed");
                        let right = (asked.lba * 512..).map(disk);
                        assert!(data.iter().copied().zip(right).all(|(a, b)| a == b), "wrong data");
                    }
                }
                Event::Verify(lun, check) => self.unverified.push((lun, check)),
                Event::LoggedOut { .. } => {}
            }
        }
    }

    /// After every deadline nothing waits any more.
    fn end(&mut self) {
        self.results();
        self.pass(Duration::from_secs(3600));
        self.results();
        assert!(self.asked.is_empty(), "{} commands hang", self.asked.len());
    }
}

/// The byte of the disk at this position: no two blocks are alike.
fn disk(position: u64) -> u8 {
    let hash = position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash.to_be_bytes()[0]
}
