//! Dialogues with a scripted peer, on simulated time.

use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::*;
use crate::iscsi::pdu::{BHS_LEN, Bhs, NO_TAG, Sequence, Serial};
use crate::iscsi::proto::{Need, Receiver};
use crate::scsi::Cdb;

const LUN: LunAddress = LunAddress([0, 1, 0, 0, 0, 0, 0, 0]);
const TIMEOUT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// An engine with its receiver, and what it said last.
struct Scene {
    engine: Engine<u32>,
    receiver: Receiver,
    now: Instant,
    /// Whether another path may have the results of the commands.
    detours: bool,
}

/// A PDU of ours, as the peer sees it.
#[derive(Debug)]
struct Sent(Bhs);

impl Sent {
    fn itt(&self) -> u32 {
        self.0.itt()
    }

    fn cmd_sn(&self) -> u32 {
        self.0.u32(24)
    }
}

impl Scene {
    /// A connected engine whose window takes `window` commands.
    fn new(window: u32) -> Self {
        let mut engine = Engine::new(Limits::new(TIMEOUT));
        let now = Instant::now();
        connect(&mut engine, window, now);
        let receiver = Receiver::new(Digests::default(), BytesMut::new());
        Self { engine, receiver, now, detours: false }
    }

    fn reconnect(&mut self) {
        connect(&mut self.engine, 100, self.now);
        self.receiver = Receiver::new(Digests::default(), BytesMut::new());
    }

    fn read(&mut self, ticket: u32, lba: u64, blocks: u32) {
        let cdb = Cdb::Read16 { lba, blocks };
        self.run(ticket, cdb, blocks * 512);
    }

    fn run(&mut self, ticket: u32, cdb: Cdb, expected: u32) {
        let deadline = self.now + TIMEOUT;
        let detours = self.detours;
        let command = Command { lun: LUN, cdb, expected, deadline, timeout: TIMEOUT, detours };
        self.engine.submit(command, ticket);
    }

    /// What goes out now.
    fn sent(&mut self) -> Vec<Sent> {
        let mut out = BytesMut::new();
        self.engine.transmit(self.now, &mut out);
        let mut sent = Vec::new();
        while let Some(bytes) = out.first_chunk::<BHS_LEN>() {
            sent.push(Sent(Bhs(*bytes)));
            out.advance(BHS_LEN);
        }
        assert!(out.is_empty());
        sent
    }

    /// The look at the unit that the engine asks for.
    fn check(&mut self) -> Check {
        match self.engine.event() {
            Some(Event::Verify(LUN, check)) => check,
            other => panic!("{other:?}"),
        }
    }

    /// The only PDU that goes out now.
    fn one(&mut self) -> Sent {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn hear(&mut self, mut bhs: Bhs, data: &[u8]) -> Result<(), Fault> {
        bhs.set_data_len(data.len());
        self.receiver.inbox.extend_from_slice(&bhs.0);
        self.receiver.inbox.extend_from_slice(data);
        self.receiver.inbox.extend_from_slice(&[0; 3][..data.len().wrapping_neg() & 3]);
        self.engine.heard(self.now);
        let need = self.receiver.process(&mut self.engine, self.now)?;
        assert_eq!(need, Need::Bytes);
        Ok(())
    }

    /// The next result.
    fn result(&mut self) -> Option<(u32, Result<Vec<u8>>)> {
        match self.engine.event()? {
            Event::Completed(ticket, result) => Some((ticket, result.map(|data| data.to_vec()))),
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, in steps as the engine asks for them.
    fn wait(&mut self, time: Duration) -> Result<(), Fault> {
        let end = self.now + time;
        while let Some(next) = self.engine.next_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.engine.handle_timeout(self.now)?;
            let after = self.engine.next_timeout();
            assert!(after.is_none_or(|after| after > self.now), "a timeout that does not pass");
        }
        self.now = end;
        Ok(())
    }
}

fn connect(engine: &mut Engine<u32>, window: u32, now: Instant) {
    let sequence =
        Sequence { stat_sn: Serial(0), exp_cmd_sn: Serial(1), max_cmd_sn: Serial(window) };
    let negotiated = Negotiated { time_to_wait: 2, ..Negotiated::default() };
    engine.connected(&negotiated, Window::new(Serial(1), sequence), now);
}

/// A PDU of the target's; the window stays wide open.
fn target(opcode: u8, flags: u8, itt: u32) -> Bhs {
    let mut bhs = Bhs::new(opcode, flags);
    bhs.put_u32(16, itt);
    bhs.put_u32(20, NO_TAG);
    bhs.put_u32(28, 1);
    bhs.put_u32(32, 100);
    bhs
}

fn data_in(itt: u32, data_sn: u32, offset: u32, last: bool) -> Bhs {
    let mut bhs = target(0x25, if last { 0x81 } else { 0 }, itt);
    bhs.put_u32(36, data_sn);
    bhs.put_u32(40, offset);
    bhs
}

fn status(itt: u32, status: u8) -> Bhs {
    let mut bhs = target(0x21, 0x80, itt);
    bhs.put(3, [status]);
    bhs
}

/// A response segment with fixed sense data.
fn sense(key: u8, asc: u8, ascq: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[1] = 18;
    segment[2] = 0x70;
    segment[4] = key;
    segment[14] = asc;
    segment[15] = ascq;
    segment
}

#[test]
fn a_read_in_two_pdus_with_its_status_in_the_second() {
    let mut scene = Scene::new(100);
    scene.read(7, 0, 2);
    let command = scene.one();
    scene.hear(data_in(command.itt(), 0, 0, false), &[1; 512]).unwrap();
    assert!(scene.result().is_none());
    scene.hear(data_in(command.itt(), 1, 512, true), &[2; 512]).unwrap();
    let (ticket, data) = scene.result().unwrap();
    assert_eq!((ticket, data.unwrap()), (7, [[1; 512], [2; 512]].concat()));
    assert!(!scene.engine.has_work());
}

#[test]
fn the_command_window_is_kept() {
    let mut scene = Scene::new(2);
    for ticket in 0..3 {
        scene.read(ticket, 0, 1);
    }
    let sent = scene.sent();
    assert_eq!(sent.iter().map(Sent::cmd_sn).collect::<Vec<_>>(), [1, 2]);
    let mut answer = data_in(sent[0].itt(), 0, 0, true);
    answer.put_u32(28, 3);
    answer.put_u32(32, 2);
    scene.hear(answer, &[0; 512]).unwrap();
    assert!(scene.sent().is_empty(), "the target has not opened the window");
    let mut ping = target(0x20, 0x80, NO_TAG);
    ping.put_u32(28, 3);
    ping.put_u32(32, 3);
    scene.hear(ping, &[]).unwrap();
    assert_eq!(scene.one().cmd_sn(), 3);
}

#[test]
fn wrong_data_never_counts() {
    type Answer = fn(u32) -> Bhs;
    let cases: [(&str, Answer, usize); 6] = [
        ("DataSN", |itt| data_in(itt, 1, 0, true), 1024),
        ("offset", |itt| data_in(itt, 0, 512, true), 512),
        ("bytes at offset", |itt| data_in(itt, 0, 0, true), 1536),
        ("short read", |itt| data_in(itt, 0, 0, true), 512),
        ("tag", |itt| data_in(itt ^ 0x4000_0000, 0, 0, true), 1024),
        ("asks for data", |itt| target(0x31, 0x80, itt), 0),
    ];
    for (words, answer, len) in cases {
        let mut scene = Scene::new(100);
        scene.read(7, 0, 2);
        let itt = scene.one().itt();
        let fault = scene.hear(answer(itt), &vec![9; len]).unwrap_err();
        assert!(fault.error.message().contains(words), "{words}: {}", fault.error);
        assert!(scene.result().is_none());
        assert_eq!(scene.engine.disconnected(fault, scene.now), 2 * SECOND, "DefaultTime2Wait");
        scene.reconnect();
        let again = scene.one();
        scene.hear(data_in(again.itt(), 0, 0, true), &[1; 1024]).unwrap();
        assert_eq!(scene.result().unwrap().1.unwrap(), [1; 1024]);
    }
}

#[test]
fn damage_that_comes_back_is_an_error_after_three_tries() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    scene.read(2, 9, 1);
    for attempt in 0..3 {
        let sent = scene.sent();
        assert_eq!(sent.len(), 2, "attempt {attempt}");
        let fault = scene.hear(data_in(sent[0].itt(), 5, 0, true), &[9; 512]).unwrap_err();
        scene.engine.disconnected(fault, scene.now);
        scene.reconnect();
    }
    let (ticket, result) = scene.result().unwrap();
    let error = result.unwrap_err();
    assert_eq!(ticket, 1);
    assert!(error.message().contains("the target skipped data"), "{error}");
    // The other read is not to blame.
    let other = scene.one();
    scene.hear(data_in(other.itt(), 0, 0, true), &[2; 512]).unwrap();
    assert_eq!(scene.result().unwrap().0, 2);
}

#[test]
fn declared_underflow_is_asked_for_again_three_times() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 2);
    for _ in 0..3 {
        let itt = scene.one().itt();
        let mut answer = data_in(itt, 0, 0, true);
        answer.put(1, [0x83]);
        answer.put_u32(44, 512);
        scene.hear(answer, &[9; 512]).unwrap();
    }
    let error = scene.result().unwrap().1.unwrap_err();
    assert_eq!(error.message(), "short read: 512 of 1024 bytes");
}

#[test]
fn commands_are_issued_again_in_the_callers_order() {
    let mut scene = Scene::new(100);
    for ticket in 0..5 {
        scene.read(ticket, u64::from(ticket), 1);
    }
    let first = scene.sent();
    scene.hear(data_in(first[2].itt(), 0, 0, true), &[2; 512]).unwrap();
    assert_eq!(scene.result().unwrap().0, 2);
    let lost = Fault::new(Error::new(ErrorKind::SessionLost, "gone"));
    scene.engine.disconnected(lost, scene.now);
    scene.read(5, 5, 1);
    scene.reconnect();
    let lbas: Vec<_> = scene.sent().iter().map(|sent| sent.0.u32(38)).collect();
    assert_eq!(lbas, [0, 1, 3, 4, 5]);
}

#[test]
fn what_may_take_another_path_comes_back_when_there_is_one() {
    let lost = || Fault::new(Error::new(ErrorKind::SessionLost, "lost"));
    for other_path_comes_first in [true, false] {
        let mut scene = Scene::new(1);
        scene.run(0, Cdb::TestUnitReady, 0);
        scene.detours = true;
        // One waits for the window, the other one at the gate.
        scene.read(1, 0, 1);
        scene.engine.suspect(LUN);
        scene.read(2, 8, 1);
        scene.check();
        scene.one();
        if other_path_comes_first {
            scene.engine.set_shared();
            scene.engine.disconnected(lost(), scene.now);
        } else {
            scene.engine.disconnected(lost(), scene.now);
            assert!(scene.result().is_none(), "nobody else has it");
            scene.engine.set_shared();
        }
        for ticket in [1, 2] {
            let (back, error) = scene.result().unwrap();
            assert_eq!((back, error.unwrap_err().kind()), (ticket, ErrorKind::SessionLost));
        }
        assert!(scene.result().is_none());
        scene.read(3, 0, 1);
        assert_eq!(scene.result().unwrap().0, 3);
        // What knows no other path waits for this one.
        scene.reconnect();
        assert_eq!(scene.sent().len(), 1);
    }
}

#[test]
fn an_unanswered_command_is_aborted_and_issued_again() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    let first = scene.one();
    // Pings are answered, so the peer lives.
    let mut all = Vec::new();
    for _ in 0..8 {
        scene.wait(SECOND).unwrap();
        for sent in scene.sent() {
            if sent.0.opcode() == 0 {
                scene.hear(target(0x20, 0x80, sent.itt()), &[]).unwrap();
            } else {
                all.push(sent);
            }
        }
    }
    let opcodes: Vec<_> = all.iter().map(|sent| sent.0.opcode()).collect();
    assert_eq!(opcodes, [0x02, 0x01], "ABORT TASK, then the command again");
    assert_eq!(all[0].0.u32(20), first.itt());
    assert_eq!(all[0].0.u32(32), first.cmd_sn());
    // The late answer of the first attempt is thrown away, whether before or after the abort's answer.
    scene.hear(data_in(first.itt(), 0, 0, false), &[9; 512]).unwrap();
    scene.hear(target(0x22, 0x80, all[0].itt()), &[]).unwrap();
    scene.hear(data_in(first.itt(), 1, 512, true), &[9; 512]).unwrap();
    assert!(scene.result().is_none());
    scene.hear(data_in(all[1].itt(), 0, 0, true), &[1; 512]).unwrap();
    assert_eq!(scene.result().unwrap().1.unwrap(), [1; 512]);
}

#[test]
fn a_silent_peer_is_found_dead() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    scene.one();
    let fault = scene.wait(12 * SECOND).unwrap_err();
    assert_eq!(fault.error.message(), "no reply for 10 s");
}

#[test]
fn an_idle_connection_is_pinged_now_and_then() {
    let mut scene = Scene::new(100);
    scene.wait(29 * SECOND).unwrap();
    assert!(scene.sent().is_empty());
    scene.wait(2 * SECOND).unwrap();
    let ping = scene.one();
    assert_eq!((ping.0.opcode(), ping.0.byte(0) & 0x40), (0, 0x40));
    scene.hear(target(0x20, 0x80, ping.itt()), &[]).unwrap();
    scene.wait(20 * SECOND).unwrap();
    assert!(scene.sent().is_empty());
}

#[test]
fn a_deadline_passes_with_and_without_a_connection() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    let lost = Fault::new(Error::new(ErrorKind::SessionLost, "the cable is out"));
    scene.engine.disconnected(lost, scene.now);
    scene.wait(29 * SECOND).unwrap();
    assert!(scene.result().is_none());
    scene.wait(SECOND).unwrap();
    let error = scene.result().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("the cable is out"), "{error}");
    assert_eq!(scene.engine.next_timeout(), None);
}

#[test]
fn a_changed_unit_is_looked_at_before_it_is_read_again() {
    let mut scene = Scene::new(100);
    scene.engine.watch(LUN);
    scene.read(1, 8, 1);
    let itt = scene.one().itt();
    scene.hear(status(itt, 2), &sense(6, 0x2a, 9)).unwrap();
    let check = scene.check();
    scene.read(2, 9, 1);
    assert!(scene.sent().is_empty(), "reads wait");
    scene.run(3, Cdb::ReadCapacity16, 32);
    assert_eq!(scene.one().0.byte(32), 0x9e, "looking does not");
    scene.engine.verified(LUN, check, Ok(()));
    assert_eq!(scene.sent().len(), 2);
}

#[test]
fn what_was_under_way_when_a_unit_changed_is_asked_for_again() {
    let mut scene = Scene::new(100);
    scene.engine.watch(LUN);
    scene.read(1, 8, 1);
    scene.read(2, 9, 1);
    let sent = scene.sent();
    // The list of LUNs has changed: another one may answer under this number.
    scene.hear(status(sent[0].itt(), 2), &sense(6, 0x3f, 0x0e)).unwrap();
    scene.hear(data_in(sent[1].itt(), 0, 0, true), &[9; 512]).unwrap();
    let check = scene.check();
    assert!(scene.result().is_none(), "this may be of another unit");
    scene.engine.verified(LUN, check, Ok(()));
    assert_eq!(scene.sent().len(), 2);
}

#[test]
fn a_change_that_is_told_to_another_command_counts_as_well() {
    let mut scene = Scene::new(100);
    scene.engine.watch(LUN);
    scene.run(1, Cdb::ReportTargetPortGroups { allocation: 64 }, 64);
    let itt = scene.one().itt();
    scene.hear(status(itt, 2), &sense(6, 0x2a, 9)).unwrap();
    assert_eq!(scene.one().0.byte(32), 0xa3, "issued again");
    scene.read(2, 8, 1);
    assert!(scene.sent().is_empty(), "reads wait");
    scene.check();
}

#[test]
fn a_look_at_a_unit_is_void_when_something_happens_meanwhile() {
    let mut scene = Scene::new(100);
    scene.engine.watch(LUN);
    scene.engine.suspect(LUN);
    scene.read(1, 8, 1);
    let first = scene.check();
    let lost = Fault::new(Error::new(ErrorKind::SessionLost, "gone"));
    scene.engine.disconnected(lost, scene.now);
    scene.reconnect();
    // What it found may be from before the new login.
    scene.engine.verified(LUN, first, Ok(()));
    assert!(scene.sent().is_empty());
    let second = scene.check();
    scene.engine.suspect(LUN);
    scene.engine.verified(LUN, second, Ok(()));
    assert!(scene.sent().is_empty());
    let third = scene.check();
    scene.engine.verified(LUN, third, Ok(()));
    assert_eq!(scene.sent().len(), 1);
}

#[test]
fn a_unit_that_is_another_one_after_a_reconnect_is_not_read() {
    let mut scene = Scene::new(100);
    scene.engine.watch(LUN);
    scene.read(1, 8, 1);
    scene.one();
    let lost = Fault::new(Error::new(ErrorKind::SessionLost, "gone"));
    scene.engine.disconnected(lost, scene.now);
    scene.reconnect();
    assert!(scene.sent().is_empty());
    let check = scene.check();
    let changed = Error::new(ErrorKind::BeingWritten, "another device");
    scene.engine.verified(LUN, check, Err(changed));
    assert_eq!(scene.result().unwrap().1.unwrap_err().message(), "another device");
    // The next read asks again.
    scene.read(2, 8, 1);
    scene.check();
}

#[test]
fn busy_is_waited_out() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    for _ in 0..5 {
        let itt = scene.one().itt();
        scene.hear(status(itt, 8), &[]).unwrap();
        assert!(scene.sent().is_empty());
        scene.wait(2 * SECOND).unwrap();
    }
    assert_eq!(scene.sent().len(), 1);
}

#[test]
fn a_logout_that_the_target_asks_for() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    let read = scene.one();
    let mut message = target(0x32, 0x80, NO_TAG);
    message.put(36, [1]);
    message.put(42, [0, 4]);
    scene.hear(message, &[]).unwrap();
    scene.read(2, 9, 1);
    assert!(scene.sent().is_empty(), "nothing new");
    scene.hear(data_in(read.itt(), 0, 0, true), &[1; 512]).unwrap();
    assert_eq!(scene.result().unwrap().0, 1, "what was in flight ends");
    let logout = scene.one();
    assert_eq!(logout.0.opcode(), 0x06);
    let mut answer = target(0x26, 0x80, logout.itt());
    answer.put(40, [0, 3]);
    let fault = scene.hear(answer, &[]).unwrap_err();
    assert_eq!(scene.engine.disconnected(fault, scene.now), 3 * SECOND);
    scene.reconnect();
    assert_eq!(scene.one().0.opcode(), 0x01, "the other command follows");
}

#[test]
fn a_negotiation_that_the_target_asks_for() {
    let mut scene = Scene::new(100);
    let mut message = target(0x32, 0x80, NO_TAG);
    message.put(36, [4]);
    scene.hear(message, &[]).unwrap();
    let text = scene.one();
    assert_eq!((text.0.opcode(), text.0.u32(20)), (0x04, NO_TAG));
    let mut more = target(0x24, 0x40, text.itt());
    more.put_u32(20, 77);
    scene.hear(more, b"MaxRecvDataSegmentLength=8192\0").unwrap();
    assert_eq!(scene.one().0.u32(20), 77);
    scene.hear(target(0x24, 0x80, text.itt()), &[]).unwrap();
    assert!(scene.sent().is_empty());
}

#[test]
fn negotiations_do_not_pile_up_nor_hold_up_others() {
    let mut scene = Scene::new(0);
    let mut message = target(0x32, 0x80, NO_TAG);
    message.put_u32(32, 0);
    message.put(36, [4]);
    let mut ping = target(0x20, 0x80, NO_TAG);
    ping.put_u32(20, 9);
    ping.put_u32(32, 0);
    for _ in 0..3 {
        scene.hear(message, &[]).unwrap();
    }
    scene.hear(ping, &[]).unwrap();
    assert_eq!(scene.one().0.u32(20), 9, "the window is closed to texts only");
    ping.put_u32(32, 100);
    scene.hear(ping, &[]).unwrap();
    let opcodes: Vec<_> = scene.sent().iter().map(|sent| sent.0.opcode()).collect();
    assert_eq!(opcodes, [0x04, 0x00], "one negotiation, and the answer to the ping");
    scene.hear(message, &[]).unwrap();
    assert!(scene.sent().is_empty(), "it is under way");
}

#[test]
fn answers_that_are_lost_together_are_missed_together() {
    let mut scene = Scene::new(100);
    for ticket in 0..8 {
        scene.read(ticket, u64::from(ticket), 1);
    }
    scene.sent();
    let mut again = 0;
    for _ in 0..8 {
        scene.wait(SECOND).unwrap();
        for sent in scene.sent() {
            match sent.0.opcode() {
                0x00 => scene.hear(target(0x20, 0x80, sent.itt()), &[]).unwrap(),
                0x02 => scene.hear(target(0x22, 0x80, sent.itt()), &[]).unwrap(),
                _ => again += 1,
            }
        }
    }
    assert_eq!(again, 8);
}

#[test]
fn closing_fails_what_waits_and_logs_out() {
    let mut scene = Scene::new(100);
    scene.read(1, 8, 1);
    let read = scene.one();
    scene.engine.close(&Error::new(ErrorKind::SessionLost, "logged out"), scene.now);
    assert!(scene.result().unwrap().1.is_err());
    let logout = scene.one();
    scene.hear(data_in(read.itt(), 0, 0, true), &[1; 512]).unwrap();
    scene.hear(target(0x26, 0x80, logout.itt()), &[]).unwrap();
    assert!(matches!(scene.engine.event(), Some(Event::LoggedOut { confirmed: true })));
    scene.read(2, 8, 1);
    assert!(scene.result().unwrap().1.is_err());
}

#[test]
fn a_logout_without_an_answer_is_over_in_time() {
    let mut scene = Scene::new(100);
    scene.engine.close(&Error::new(ErrorKind::SessionLost, "logged out"), scene.now);
    scene.one();
    scene.wait(6 * SECOND).unwrap();
    assert!(matches!(scene.engine.event(), Some(Event::LoggedOut { confirmed: false })));
}

#[test]
fn an_answer_of_another_kind_does_not_end_a_command() {
    for opcode in [0x20, 0x22, 0x24, 0x26] {
        let mut scene = Scene::new(100);
        scene.read(1, 8, 1);
        let itt = scene.one().itt();
        let fault = scene.hear(target(opcode, 0x80, itt), &[]).unwrap_err();
        scene.engine.disconnected(fault, scene.now);
        scene.reconnect();
        assert_eq!(scene.one().0.opcode(), 0x01, "issued again");
    }
}
