//! One connection in the full feature phase.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::error::{Error, ErrorKind};
use crate::iscsi::pdu::{
    AbortTask, Bhs, Digests, LogoutReason, LogoutRequest, NO_TAG, NopIn, NopOut, ScsiCommand,
    Serial, TextRequest, write_header,
};
use crate::iscsi::proto::keys::Negotiated;
use crate::iscsi::proto::text::TextAnswer;
use crate::iscsi::proto::window::Window;

use super::exchanges::Exchanges;
use super::job::Job;
use super::{Fault, Limits, earlier};

/// A command that the target has not answered yet.
#[derive(Debug)]
pub(super) struct Flight<T> {
    pub(super) job: Job<T>,
    pub(super) itt: u32,
    pub(super) cmd_sn: Serial,
    issued: Instant,
    /// DataSN of the next Data-In.
    pub(super) data_sn: u32,
    /// What has arrived; its length is the buffer offset of the next Data-In.
    pub(super) data: BytesMut,
}

/// What an initiator task tag stands for.
#[derive(Debug)]
pub(super) enum Exchange<T> {
    Command(Box<Flight<T>>),
    /// A command that nobody waits for any more; its data is thrown away.
    Abandoned,
    /// ABORT TASK for the command of that tag, which must be answered by then.
    Abort {
        of: u32,
        until: Instant,
    },
    Ping,
    /// A text negotiation that the target asked for.
    Text(TextAnswer),
    Logout,
}

/// How the connection is to end in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// No new commands; log out when none is in flight, or then.
    Draining {
        until: Instant,
    },
    /// A Logout Request is out.
    LogoutSent {
        until: Instant,
        come_back: bool,
    },
}

#[derive(Debug)]
pub(super) struct Link<T> {
    pub(super) digests: Digests,
    pub(super) time_to_wait: Duration,
    pub(super) window: Window,
    pub(super) exchanges: Exchanges<Exchange<T>>,
    /// How many of the exchanges are commands.
    pub(super) commands: usize,
    /// Tags in the order of issue; those that have ended are skipped.
    order: VecDeque<u32>,
    /// Since when the oldest command has been the oldest, or has last received data.
    oldest_since: Instant,
    /// When any command has last ended or received data.
    progress: Instant,
    control: VecDeque<Control>,
    heard: Instant,
    ping: Option<Instant>,
    leaving: Leaving,
}

/// An immediate PDU, or a text, that waits to be sent.
#[derive(Debug)]
enum Control {
    Pong { lun: [u8; 8], ttt: u32 },
    Ping,
    Abort { of: u32, command: super::Command, cmd_sn: Serial, until: Instant },
    Text { lun: [u8; 8], ttt: u32, itt: Option<u32> },
    Logout,
}

impl<T> Link<T> {
    pub(super) fn new(negotiated: &Negotiated, window: Window, now: Instant) -> Self {
        Self {
            digests: negotiated.digests,
            time_to_wait: Duration::from_secs(negotiated.time_to_wait.into()),
            window,
            exchanges: Exchanges::new(),
            commands: 0,
            order: VecDeque::new(),
            oldest_since: now,
            progress: now,
            control: VecDeque::new(),
            heard: now,
            ping: None,
            leaving: Leaving::No,
        }
    }

    /// Whether another command may go out.
    pub(super) fn takes_commands(&self) -> bool {
        self.leaving == Leaving::No && self.window.is_open() && self.exchanges.has_room()
    }

    /// Gives a command its tag and its number.
    pub(super) fn issue(&mut self, job: Job<T>, now: Instant) -> Bhs {
        let command = job.command;
        let cmd_sn = self.window.take();
        let data = BytesMut::new();
        let flight = Box::new(Flight { job, itt: 0, cmd_sn, issued: now, data_sn: 0, data });
        let itt = self.exchanges.insert(Exchange::Command(flight));
        if let Some(Exchange::Command(flight)) = self.exchanges.get_mut(itt) {
            flight.itt = itt;
        }
        if self.commands == 0 {
            self.oldest_since = now;
            self.order.clear();
        }
        self.commands += 1;
        self.order.push_back(itt);
        ScsiCommand {
            lun: command.lun,
            itt,
            expected: command.expected,
            cmd_sn,
            exp_stat_sn: self.window.exp_stat_sn(),
            cdb: command.cdb,
        }
        .encode()
    }

    /// Ends a command's exchange.
    pub(super) fn take_flight(&mut self, itt: u32, now: Instant) -> Option<Box<Flight<T>>> {
        if !matches!(self.exchanges.get_mut(itt), Some(Exchange::Command(_))) {
            return None;
        }
        let was_oldest = self.oldest() == Some(itt);
        let Some(Exchange::Command(flight)) = self.exchanges.remove(itt) else { return None };
        self.commands -= 1;
        self.progress = now;
        if was_oldest {
            self.next_oldest(now);
        } else if self.order.len() > 64 + 2 * self.commands {
            let Self { order, exchanges, .. } = self;
            order.retain(|&itt| matches!(exchanges.get_mut(itt), Some(Exchange::Command(_))));
        }
        Some(flight)
    }

    /// Data for this command has arrived.
    pub(super) fn progressed(&mut self, itt: u32, now: Instant) {
        self.progress = now;
        if self.oldest() == Some(itt) {
            self.oldest_since = now;
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The command that has been under way for longest. The front of `order` is always live while any is.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.order.front().copied().filter(|_| self.commands > 0)
    }

    fn next_oldest(&mut self, now: Instant) {
        self.oldest_since = now;
        while let Some(&itt) = self.order.front() {
            if matches!(self.exchanges.get_mut(itt), Some(Exchange::Command(_))) {
                break;
            }
            self.order.pop_front();
        }
    }

    /// Whether the fault is one of damaged answers, rather than of the network.
    pub(super) fn is_damaged(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Protocol
    }

    pub(super) fn into_flights(self) -> impl Iterator<Item = Flight<T>> {
        self.exchanges.into_all().filter_map(|exchange| match exchange {
            Exchange::Command(flight) => Some(*flight),
            _ => None,
        })
    }

    /// All commands in flight; the target's answers to them will be thrown away.
    pub(super) fn take_flights(&mut self) -> Vec<Flight<T>> {
        let mut flights = Vec::new();
        for (_, exchange) in self.exchanges.iter_mut() {
            if matches!(exchange, Exchange::Command(_)) {
                let command = std::mem::replace(exchange, Exchange::Abandoned);
                if let Exchange::Command(flight) = command {
                    flights.push(*flight);
                }
            }
        }
        self.commands = 0;
        self.order.clear();
        flights
    }

    /// Gives up the oldest command if it has gone unanswered for too long.
    pub(super) fn give_up(&mut self, limits: &Limits, now: Instant) -> Option<Job<T>> {
        let itt = self.oldest()?;
        if now < self.oldest_since + limits.give_up {
            return None;
        }
        self.abandon(itt, now, now + limits.give_up)
    }

    /// Fails commands past their deadline into `late`; gives the earliest deadline that is left.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        until: Instant,
        late: &mut Vec<Job<T>>,
    ) -> Option<Instant> {
        let mut tags = Vec::new();
        let mut next = None;
        for (itt, exchange) in self.exchanges.iter_mut() {
            let Exchange::Command(flight) = exchange else { continue };
            let deadline = flight.job.command.deadline;
            if deadline <= now {
                tags.push(itt);
            } else {
                next = earlier(next, Some(deadline));
            }
        }
        late.extend(tags.into_iter().filter_map(|itt| self.abandon(itt, now, until)));
        next
    }

    /// Ends a command without its answer and tells the target so.
    fn abandon(&mut self, itt: u32, now: Instant, until: Instant) -> Option<Job<T>> {
        let exchange = self.exchanges.get_mut(itt)?;
        let command = match std::mem::replace(exchange, Exchange::Abandoned) {
            Exchange::Command(flight) => flight,
            other => {
                *exchange = other;
                return None;
            }
        };
        let was_oldest = self.order.front() == Some(&itt);
        self.commands -= 1;
        if was_oldest {
            self.next_oldest(now);
            // Nothing has been heard of this one either, unless the target has answered others meanwhile.
            if let Some(Exchange::Command(next)) =
                self.oldest().and_then(|next| self.exchanges.get_mut(next))
            {
                self.oldest_since = next.issued.max(self.progress);
            }
        }
        let Flight { job, cmd_sn, .. } = *command;
        self.control.push_back(Control::Abort { of: itt, command: job.command, cmd_sn, until });
        Some(job)
    }

    /// The target has answered an abandoned command, or its ABORT TASK.
    pub(super) fn end_abandoned(&mut self, itt: u32) {
        if matches!(self.exchanges.get_mut(itt), Some(Exchange::Abandoned)) {
            self.exchanges.remove(itt);
            self.exchanges.forget(itt);
        }
    }

    /// Answers the target's ping.
    pub(super) fn pong(&mut self, ping: &NopIn) {
        self.control.push_back(Control::Pong { lun: ping.lun, ttt: ping.ttt });
    }

    /// Our ping has been answered.
    pub(super) fn ping_answered(&mut self) {
        self.ping = None;
    }

    /// Whether a text negotiation is under way.
    pub(super) fn is_negotiating(&mut self) -> bool {
        self.control.iter().any(|control| matches!(control, Control::Text { .. }))
            || self.exchanges.iter_mut().any(|(_, one)| matches!(one, Exchange::Text(_)))
    }

    /// Begins the text negotiation that the target asked for, or goes on with one.
    pub(super) fn negotiate(&mut self, lun: [u8; 8], ttt: u32, itt: Option<u32>) {
        self.control.push_back(Control::Text { lun, ttt, itt });
    }

    /// The target asked us to log out: commands in flight may still end.
    pub(super) fn drain(&mut self, until: Instant) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Draining { until };
        }
    }

    /// Logs out now, for good.
    pub(super) fn log_out(&mut self, until: Instant) {
        self.send_logout(until, false);
    }

    fn send_logout(&mut self, until: Instant, come_back: bool) {
        if !matches!(self.leaving, Leaving::LogoutSent { .. }) {
            self.control.push_back(Control::Logout);
        }
        self.leaving = Leaving::LogoutSent { until, come_back };
    }

    /// Whether the logout that ends the session has taken as long as it may.
    pub(super) fn logout_is_over(&self, now: Instant) -> bool {
        matches!(self.leaving, Leaving::LogoutSent { until, come_back: false } if until <= now)
    }

    /// Whether a new login shall follow the logout under way.
    pub(super) fn comes_back(&self) -> bool {
        matches!(self.leaving, Leaving::LogoutSent { come_back: true, .. })
    }

    /// Writes what passes the command window.
    pub(super) fn transmit_control(&mut self, out: &mut BytesMut) {
        if let Leaving::Draining { until } = self.leaving {
            if self.commands == 0 {
                self.send_logout(until, true);
            }
        }
        for _ in 0..self.control.len() {
            let Some(control) = self.control.pop_front() else { break };
            let (cmd_sn, exp_stat_sn) = (self.window.current(), self.window.exp_stat_sn());
            let bhs = match control {
                Control::Pong { lun, ttt } => {
                    NopOut { lun, itt: NO_TAG, ttt, cmd_sn, exp_stat_sn }.encode()
                }
                Control::Ping => {
                    let itt = self.exchanges.insert(Exchange::Ping);
                    NopOut { lun: [0; 8], itt, ttt: NO_TAG, cmd_sn, exp_stat_sn }.encode()
                }
                Control::Abort { of, command, cmd_sn: ref_cmd_sn, until } => {
                    let itt = self.exchanges.insert(Exchange::Abort { of, until });
                    let lun = command.lun;
                    AbortTask { lun, itt, referenced: of, cmd_sn, exp_stat_sn, ref_cmd_sn }.encode()
                }
                Control::Text { lun, ttt, itt } => {
                    if !self.window.is_open() {
                        // The others are immediate, and do not wait for it.
                        self.control.push_back(Control::Text { lun, ttt, itt });
                        continue;
                    }
                    let itt = itt.unwrap_or_else(|| {
                        self.exchanges.insert(Exchange::Text(TextAnswer::default()))
                    });
                    let cmd_sn = self.window.take();
                    TextRequest { lun, itt, ttt, cmd_sn, exp_stat_sn, text: Vec::new() }
                        .encode()
                        .bhs
                }
                Control::Logout => {
                    let itt = self.exchanges.insert(Exchange::Logout);
                    let reason = LogoutReason::CloseSession;
                    LogoutRequest { reason, itt, cmd_sn, exp_stat_sn }.encode()
                }
            };
            write_header(&bhs, self.digests, out);
        }
    }

    /// Pings a silent peer, and finds out that it is dead.
    pub(super) fn keep_alive(&mut self, limits: &Limits, now: Instant) -> Result<(), Fault> {
        let late = |exchange: &Exchange<T>| matches!(exchange, Exchange::Abort { until, .. } if *until <= now);
        if self.exchanges.iter_mut().any(|(_, exchange)| late(exchange)) {
            return Err(silent("no answer to ABORT TASK"));
        }
        match self.leaving {
            Leaving::Draining { until } if until <= now => {
                self.send_logout(now + limits.silence, true);
            }
            Leaving::LogoutSent { until, .. } if until <= now => {
                return Err(silent("no answer to the logout"));
            }
            _ => {}
        }
        match self.ping {
            Some(sent) if sent.max(self.heard) + limits.silence <= now => {
                Err(silent(&format!("no reply for {:.0} s", (now - self.heard).as_secs_f64())))
            }
            None if self.heard + self.quiet(limits) <= now => {
                self.ping = Some(now);
                self.control.push_back(Control::Ping);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn next_timeout(&self, limits: &Limits) -> Option<Instant> {
        let ping = match self.ping {
            Some(sent) => sent.max(self.heard) + limits.silence,
            None => self.heard + self.quiet(limits),
        };
        let oldest = self.oldest().map(|_| self.oldest_since + limits.give_up);
        let leaving = match self.leaving {
            Leaving::No => None,
            Leaving::Draining { until } | Leaving::LogoutSent { until, .. } => Some(until),
        };
        [Some(ping), oldest, leaving].into_iter().flatten().min()
    }

    /// How long it may be quiet before we ping.
    fn quiet(&self, limits: &Limits) -> Duration {
        if self.exchanges.len() > 0 { limits.silence } else { limits.idle }
    }
}

fn silent(what: &str) -> Fault {
    Fault::new(Error::new(ErrorKind::SessionLost, what))
}
