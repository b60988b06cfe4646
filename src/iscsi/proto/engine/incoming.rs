//! What the target sends, checked before it counts.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::error::{Error, ErrorKind};
use crate::iscsi::pdu::{
    AsyncEvent, AsyncMessage, Bhs, DataIn, Incoming, LogoutResponse, NO_TAG, NopIn, Reject,
    Residual, ScsiResponse, Sequence, TaskResponse, TextResponse, rejected_header, sense_data,
};
use crate::iscsi::proto::buffers::Buffers;
use crate::iscsi::proto::verdict::{Circumstances, MAX_TRIES, Verdict, casts_doubt, judge};
use crate::scsi::{Sense, Status};

use super::job::Job;
use super::link::{Exchange, Flight, Link};
use super::{Command, Engine, Event, Fault, MOVING, later};

/// So many gaps in StatSN are taken for lost answers.
const MAX_GAPS: u32 = 3;

/// Where the data segment of a PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Behind what is in [`Engine::buffer`] of this tag.
    Data(u32),
    /// To [`Engine::finish`].
    Segment,
    /// Nowhere: nobody waits for it any more.
    Discard,
}

/// The status of a command, from either PDU that can carry it.
struct Ending<'a> {
    itt: u32,
    status: u8,
    residual: Residual,
    sense: &'a [u8],
}

impl<T> Engine<T> {
    /// Bytes have arrived: the peer lives.
    pub(crate) fn heard(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            link.heard(now);
        }
    }

    /// Takes the header of a PDU, before its data segment. A Data-In is checked here, so that wrong data never
    /// reaches a buffer.
    pub(crate) fn begin(&mut self, bhs: &Bhs, now: Instant) -> Result<(Incoming, Payload), Fault> {
        let Some(link) = &mut self.link else {
            return Err(Fault::protocol("a PDU without a connection"));
        };
        let incoming = Incoming::parse(bhs)
            .map_err(|opcode| Fault::protocol(format!("the target sent opcode 0x{opcode:02x}")))?;
        let payload = match &incoming {
            Incoming::DataIn(data) => check_data_in(link, &mut self.buffers, data, now)?,
            Incoming::R2t => {
                return Err(Fault::protocol(
                    "the target asks for data although nothing is written",
                )
                .blaming(bhs.itt()));
            }
            Incoming::Login(_) => {
                return Err(Fault::protocol("a login response in the full feature phase"));
            }
            _ => Payload::Segment,
        };
        Ok((incoming, payload))
    }

    /// The buffer that the data of this command goes to; `None` once it has ended.
    pub(crate) fn buffer(&mut self, itt: u32) -> Option<&mut BytesMut> {
        match self.link.as_mut()?.exchanges.get_mut(itt)? {
            Exchange::Command(flight) => Some(&mut flight.data),
            _ => None,
        }
    }

    /// Takes a PDU whose data segment is complete: in `segment`, or for [`Payload::Data`] in its buffer.
    pub(crate) fn finish(
        &mut self,
        incoming: &Incoming,
        segment: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(link) = &mut self.link else {
            return Err(Fault::protocol("a PDU without a connection"));
        };
        if let Some(sequence) = status_of(incoming) {
            let skipped = link.window.acknowledge(sequence);
            let answers = matches!(incoming, Incoming::DataIn(_) | Incoming::ScsiResponse(_));
            // Where nothing else is under way, no answer can have been lost.
            if skipped > 0 && link.commands > usize::from(answers) {
                self.answers_lost(skipped)?;
            }
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        match incoming {
            Incoming::DataIn(data) => {
                link.window.update(data.sequence);
                let Some(status) = data.status else { return Ok(()) };
                let ending = Ending { itt: data.itt, status, residual: data.residual, sense: &[] };
                self.ended(&ending, now)
            }
            Incoming::ScsiResponse(response) => {
                link.window.update(response.sequence);
                self.scsi_response(response, segment, now)
            }
            Incoming::NopIn(nop) => nop_in(link, nop),
            Incoming::Task(response) => task_response(link, response),
            Incoming::Text(response) => text_response(link, response, segment),
            Incoming::Logout(response) => self.logout_response(response),
            Incoming::Async(message) => self.asynchronous(message, segment, now),
            Incoming::Reject(reject) => self.rejected(reject, segment, now),
            Incoming::Login(_) | Incoming::R2t => Ok(()),
        }
    }

    /// StatSN has gone on without us: an answer was lost, and at error recovery level 0 that ends the session (RFC 7143
    /// sections 7.8 and 7.9). A target with which this comes back counts wrong: nothing is lost then.
    fn answers_lost(&mut self, skipped: u32) -> Result<(), Fault> {
        self.gaps = self.gaps.saturating_add(1);
        if self.gaps > MAX_GAPS {
            return Ok(());
        }
        if self.gaps == MAX_GAPS {
            tracing::warn!(
                "the target counts StatSN wrong: gaps in it are passed over from now on"
            );
        }
        let what = format!("the target skipped {skipped} answers (StatSN)");
        Err(Fault::new(Error::new(ErrorKind::SessionLost, what)))
    }

    fn scsi_response(
        &mut self,
        response: &ScsiResponse,
        segment: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if response.is_completed() {
            let ScsiResponse { itt, status, residual, .. } = *response;
            return self.ended(&Ending { itt, status, residual, sense: sense_data(segment) }, now);
        }
        let Some(flight) = self.take_flight(response.itt, now)? else { return Ok(()) };
        let mut job = flight.job;
        let what = format!("target failure (response 0x{:02x})", response.response);
        job.faults += 1;
        if job.faults >= MAX_TRIES {
            self.complete(job, Err(Error::new(ErrorKind::Scsi, what)));
        } else {
            self.retry(job, what, Duration::from_millis(100), now);
        }
        Ok(())
    }

    /// A command has its status.
    fn ended(&mut self, ending: &Ending<'_>, now: Instant) -> Result<(), Fault> {
        let moving = self.is_moving(now);
        let Some(link) = &mut self.link else { return Ok(()) };
        let status = Status::from(ending.status);
        let sense = Sense::parse(ending.sense);
        if let Some(Exchange::Command(flight)) = link.exchanges.get_mut(ending.itt) {
            let good = match status {
                Status::Good => true,
                Status::CheckCondition => sense.is_some_and(|sense| sense.key.keeps_data()),
                _ => false,
            };
            if good {
                check_total(flight, ending.residual)?;
            }
        }
        let Some(flight) = self.take_flight(ending.itt, now)? else { return Ok(()) };
        let Flight { mut job, data, .. } = *flight;
        let command = job.command;
        let Command { cdb, detours, .. } = command;
        let circumstances = Circumstances { cdb, retries: job.retries, moving, detours };
        // A change is told once, to whichever command comes next.
        let doubtful = status == Status::CheckCondition && sense.is_some_and(casts_doubt);
        if doubtful && self.watched.contains(&command.lun) {
            self.suspect(command.lun);
        }
        match judge(status, sense, circumstances) {
            // It was under way when the unit changed: this may be of the unit before or after.
            Verdict::Done if cdb.reads_medium() && self.gates.contains_key(&command.lun) => {
                self.enqueue(job);
            }
            Verdict::Done => {
                let expected = usize::try_from(command.expected).unwrap_or(usize::MAX);
                if !command.cdb.reads_medium() || data.len() == expected {
                    let data = self.buffers.give(data);
                    self.complete(job, Ok(data));
                    return Ok(());
                }
                // The target said itself that it sent less.
                let what = format!("short read: {} of {expected} bytes", data.len());
                job.faults += 1;
                if job.faults >= MAX_TRIES {
                    self.complete(job, Err(Error::new(ErrorKind::Protocol, what)));
                } else {
                    self.retry(job, what, Duration::ZERO, now);
                }
            }
            Verdict::Retry(wait) => {
                let what = sense.map_or_else(|| status.to_string(), |sense| sense.to_string());
                self.retry(job, what, wait, now);
            }
            Verdict::Verify => {
                self.notices.info("unit", now, || {
                    format!("{}: {}: looked at again", command.lun, describe(status, sense))
                });
                job.retries += 1;
                self.suspect(command.lun);
                self.enqueue(job);
            }
            Verdict::Fail(error) => self.complete(job, Err(error)),
        }
        Ok(())
    }

    fn retry(&mut self, mut job: Job<T>, answer: String, wait: Duration, now: Instant) {
        tracing::debug!("{} of {}: {answer}, again", job.command.cdb.name(), job.command.lun);
        job.retries += 1;
        job.last_answer = Some(answer);
        if wait.is_zero() {
            self.enqueue(job);
        } else {
            self.park(job, now + wait);
        }
    }

    /// Ends the exchange of a command. `Ok(None)`: it was given up before.
    fn take_flight(&mut self, itt: u32, now: Instant) -> Result<Option<Box<Flight<T>>>, Fault> {
        let Some(link) = &mut self.link else { return Ok(None) };
        let forgotten = link.exchanges.was_forgotten(itt);
        match link.exchanges.get_mut(itt) {
            Some(Exchange::Command(_)) => Ok(link.take_flight(itt, now)),
            Some(Exchange::Abandoned) => {
                link.end_abandoned(itt);
                Ok(None)
            }
            None if forgotten => Ok(None),
            _ => Err(unknown_tag("status", itt)),
        }
    }

    fn logout_response(&mut self, response: &LogoutResponse) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Ok(()) };
        link.window.update(response.sequence);
        let is_logout = |exchange: &Exchange<T>| matches!(exchange, Exchange::Logout);
        if link.exchanges.remove_if(response.itt, is_logout).is_none() {
            return Err(unknown_tag("a logout response", response.itt));
        }
        if response.response != 0 {
            tracing::debug!("logout: response {}", response.response);
        }
        if !link.comes_back() {
            self.events.push_back(Event::LoggedOut { confirmed: response.response == 0 });
            return Ok(());
        }
        let mut fault =
            Fault::new(Error::new(ErrorKind::SessionLost, "the target asked for a new login"));
        fault.wait = Some(Duration::from_secs(response.time_to_wait.into()));
        Err(fault)
    }

    fn asynchronous(
        &mut self,
        message: &AsyncMessage,
        segment: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Ok(()) };
        link.window.update(message.sequence);
        let drop = |wait: u16| {
            let error = Error::new(ErrorKind::SessionLost, "the target drops the connection");
            Fault { wait: Some(Duration::from_secs(wait.into())), ..Fault::new(error) }
        };
        match message.event {
            AsyncEvent::Scsi => {
                let sense = Sense::parse(sense_data(segment));
                let what =
                    sense.map_or_else(|| "no sense data".to_owned(), |sense| sense.to_string());
                self.notices.info("report", now, || format!("the target reports: {what}"));
                let lun = crate::scsi::LunAddress(message.lun);
                if self.watched.contains(&lun) {
                    self.suspect(lun);
                }
            }
            AsyncEvent::LogoutRequested { within } => {
                self.notices.info("logout", now, || {
                    format!("the target asks for a logout within {within} s")
                });
                // Half of the time for what is in flight, the rest for the logout itself.
                link.drain(now + Duration::from_secs(within.into()) / 2);
                self.moving_until = later(self.moving_until, now + MOVING);
            }
            AsyncEvent::ConnectionDrop { time_to_wait }
            | AsyncEvent::SessionDrop { time_to_wait } => {
                let line = || "the target announces that it drops the connection".to_owned();
                self.notices.info("drop", now, line);
                self.moving_until = later(self.moving_until, now + MOVING);
                return Err(drop(time_to_wait));
            }
            AsyncEvent::Negotiate { within } => {
                tracing::debug!("the target asks for a negotiation within {within} s");
                if !link.is_negotiating() {
                    link.negotiate([0; 8], NO_TAG, None);
                }
            }
            AsyncEvent::Other(event) => tracing::debug!("asynchronous event {event} is ignored"),
        }
        Ok(())
    }

    fn rejected(&mut self, reject: &Reject, segment: &[u8], now: Instant) -> Result<(), Fault> {
        let Some(link) = &mut self.link else { return Ok(()) };
        link.window.update(reject.sequence);
        let what = format!("the target rejected a PDU: {}", reject.reason_name());
        let Some(header) = rejected_header(segment) else {
            return Err(Fault::protocol(what));
        };
        let itt = header.itt();
        if !matches!(link.exchanges.get_mut(itt), Some(Exchange::Command(_))) {
            return Err(Fault::protocol(what));
        }
        let Some(flight) = self.take_flight(itt, now)? else { return Ok(()) };
        let mut job = flight.job;
        job.faults += 1;
        if job.faults >= MAX_TRIES {
            self.complete(job, Err(Error::new(ErrorKind::Protocol, what)));
        } else {
            self.retry(job, what, Duration::from_millis(100), now);
        }
        Ok(())
    }
}

/// StatSN and its companions, where the PDU carries a status of its own (RFC 7143 section 4.2.2.2): a Data-In
/// without one and a ping of the target's do not.
fn status_of(incoming: &Incoming) -> Option<Sequence> {
    match incoming {
        Incoming::DataIn(data) => data.status.map(|_| data.sequence),
        Incoming::ScsiResponse(response) => Some(response.sequence),
        Incoming::NopIn(nop) => (nop.itt != NO_TAG).then_some(nop.sequence),
        Incoming::Task(response) => Some(response.sequence),
        Incoming::Text(response) => Some(response.sequence),
        Incoming::Logout(response) => Some(response.sequence),
        Incoming::Async(message) => Some(message.sequence),
        Incoming::Reject(reject) => Some(reject.sequence),
        Incoming::Login(_) | Incoming::R2t => None,
    }
}

/// ITT, DataSN, offset and length of a Data-In against the command that it claims to belong to.
fn check_data_in<T>(
    link: &mut Link<T>,
    buffers: &mut Buffers,
    data: &DataIn,
    now: Instant,
) -> Result<Payload, Fault> {
    let forgotten = link.exchanges.was_forgotten(data.itt);
    let flight = match link.exchanges.get_mut(data.itt) {
        Some(Exchange::Command(flight)) => flight,
        Some(Exchange::Abandoned) => return Ok(Payload::Discard),
        None if forgotten => return Ok(Payload::Discard),
        _ => return Err(unknown_tag("data", data.itt)),
    };
    let wrong = |what: String| Err(Fault::protocol(what).blaming(data.itt));
    if data.data_sn != flight.data_sn {
        return wrong(format!(
            "the target skipped data: DataSN {} where {} is next",
            data.data_sn, flight.data_sn
        ));
    }
    let received = flight.data.len();
    let expected = usize::try_from(flight.job.command.expected).unwrap_or(usize::MAX);
    if usize::try_from(data.offset) != Ok(received) {
        return wrong(format!(
            "the target sent data at offset {} where {received} is next",
            data.offset
        ));
    }
    if data.len > expected - received {
        return wrong(format!(
            "the target sent {} bytes at offset {received} of a command for {expected}",
            data.len
        ));
    }
    flight.data_sn = flight.data_sn.wrapping_add(1);
    if flight.data.capacity() == 0 {
        // Once, and for the whole command: its data goes from the socket to its final place.
        flight.data = buffers.take(expected);
    }
    let itt = data.itt;
    link.progressed(itt, now);
    Ok(Payload::Data(itt))
}

/// A command that ended well must have brought all that it did not declare missing.
fn check_total<T>(flight: &Flight<T>, residual: Residual) -> Result<(), Fault> {
    let expected = flight.job.command.expected;
    let received = u32::try_from(flight.data.len()).unwrap_or(u32::MAX);
    let reads = flight.job.command.cdb.reads_medium();
    let wrong = |what: String| Err(Fault::protocol(what).blaming(flight.itt));
    match residual {
        Residual::Overflow(more) if reads => wrong(format!(
            "the target has {more} bytes more than the {expected} of a read: another block size?"
        )),
        Residual::Underflow(missing) if expected.checked_sub(missing) != Some(received) => {
            wrong(format!(
                "the target sent {received} of {expected} bytes and declares {missing} missing"
            ))
        }
        Residual::None if received != expected && reads => {
            wrong(format!("short read: {received} of {expected} bytes"))
        }
        _ => Ok(()),
    }
}

fn nop_in<T>(link: &mut Link<T>, nop: &NopIn) -> Result<(), Fault> {
    link.window.update(nop.sequence);
    if nop.itt != NO_TAG {
        let is_ping = |exchange: &Exchange<T>| matches!(exchange, Exchange::Ping);
        if link.exchanges.remove_if(nop.itt, is_ping).is_none() {
            return Err(unknown_tag("the answer to a ping", nop.itt));
        }
        link.ping_answered();
    } else if nop.wants_answer() {
        link.pong(nop);
    }
    Ok(())
}

fn task_response<T>(link: &mut Link<T>, response: &TaskResponse) -> Result<(), Fault> {
    link.window.update(response.sequence);
    let is_abort = |exchange: &Exchange<T>| matches!(exchange, Exchange::Abort { .. });
    let Some(Exchange::Abort { of, .. }) = link.exchanges.remove_if(response.itt, is_abort) else {
        return Err(unknown_tag("the answer to a task management request", response.itt));
    };
    tracing::debug!("ABORT TASK: response {}", response.response);
    link.end_abandoned(of);
    Ok(())
}

fn text_response<T>(
    link: &mut Link<T>,
    response: &TextResponse,
    segment: &[u8],
) -> Result<(), Fault> {
    link.window.update(response.sequence);
    let Some(Exchange::Text(answer)) = link.exchanges.get_mut(response.itt) else {
        return Err(unknown_tag("a text response", response.itt));
    };
    answer.add(segment).map_err(Fault::new)?;
    if response.last && !response.more {
        // Whatever it declared: nothing of it changes how we read.
        link.exchanges.remove(response.itt);
    } else {
        link.negotiate(response.lun, response.ttt, Some(response.itt));
    }
    Ok(())
}

fn unknown_tag(what: &str, itt: u32) -> Fault {
    Fault::protocol(format!("the target sent {what} for a task that is not there (tag {itt:08x})"))
}

fn describe(status: Status, sense: Option<Sense>) -> String {
    sense.map_or_else(|| status.to_string(), |sense| sense.to_string())
}
