//! What goes out on a connection, in order: numbers, digests, and the faults of the wire.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use bytes::Buf as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::answer::{Out, StatSn, Step};
use crate::fault::Close;
use crate::lock;
use crate::server::Order;
use crate::wire::{self, Digests, Encoded, Pdu, request};

/// Small PDUs are collected up to here and go out together.
const BATCH: usize = 64 * 1024;
/// Data of this length is not copied into a batch.
const LARGE: usize = 8 * 1024;

/// The numbers and tasks of a session, shared between its reader and its sender.
pub(crate) struct Session(Mutex<State>);

struct State {
    depth: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    /// Numbered commands that have no status yet.
    outstanding: u32,
    frozen: bool,
    started: bool,
    stat_sn: u32,
    tasks: HashMap<u32, Task>,
}

struct Task {
    /// Whether it takes up room in the command window; immediate commands do not.
    numbered: bool,
    waiting: Option<AbortHandle>,
}

impl Session {
    pub(crate) fn new(depth: u32) -> Self {
        Self(Mutex::new(State {
            depth: depth.max(1),
            exp_cmd_sn: 0,
            max_cmd_sn: 0,
            outstanding: 0,
            frozen: false,
            started: false,
            stat_sn: 1,
            tasks: HashMap::new(),
        }))
    }

    /// The CmdSN of the first login request is that of the first command.
    pub(crate) fn start(&self, cmd_sn: u32) {
        let mut state = lock(&self.0);
        if !state.started {
            state.started = true;
            state.exp_cmd_sn = cmd_sn;
            state.widen();
        }
    }

    /// The next StatSN.
    pub(crate) fn stat_sn(&self) -> u32 {
        lock(&self.0).stat_sn
    }

    /// Takes the CmdSN of a request that is not immediate (RFC 7143 section 4.2.2.1).
    pub(crate) fn take_command(&self, pdu: &Pdu) -> Result<(), String> {
        let mut state = lock(&self.0);
        let found = pdu.cmd_sn();
        let (exp, max) = (state.exp_cmd_sn, state.max_cmd_sn);
        if wire::is_before(max, found) {
            return Err(format!("CmdSN {found} is outside the window {exp} to {max}"));
        }
        if found != exp {
            return Err(format!("CmdSN {found} instead of {exp}"));
        }
        state.exp_cmd_sn = exp.wrapping_add(1);
        // In one step with ExpCmdSN: MaxCmdSN must never go back.
        state.outstanding += u32::from(pdu.opcode() == request::SCSI_COMMAND);
        state.widen();
        Ok(())
    }

    /// A task starts; gives the number of tasks now, or `None` where the tag is in use.
    pub(crate) fn begin_task(&self, itt: u32, numbered: bool) -> Option<u64> {
        let mut state = lock(&self.0);
        let taken = state.tasks.insert(itt, Task { numbered, waiting: None });
        match taken {
            Some(_) => None,
            None => u64::try_from(state.tasks.len()).ok(),
        }
    }

    /// How to stop the answer that waits for its time.
    pub(crate) fn set_abort_handle(&self, itt: u32, handle: AbortHandle) {
        if let Some(task) = lock(&self.0).tasks.get_mut(&itt) {
            task.waiting = Some(handle);
        }
    }

    /// Ends a task without an answer; whether there was one.
    pub(crate) fn abort_task(&self, itt: u32) -> bool {
        let mut state = lock(&self.0);
        let Some(task) = state.end_task(itt) else {
            return false;
        };
        if let Some(waiting) = task.waiting {
            waiting.abort();
        }
        true
    }

    /// MaxCmdSN stays where it is.
    pub(crate) fn freeze(&self) {
        lock(&self.0).frozen = true;
    }

    /// MaxCmdSN moves again.
    pub(crate) fn thaw(&self) {
        let mut state = lock(&self.0);
        state.frozen = false;
        state.widen();
    }

    /// Puts StatSN, ExpCmdSN and MaxCmdSN into a PDU that goes out now. `None` where its task has been aborted.
    fn stamp(&self, out: &mut Out) -> Option<()> {
        let mut state = lock(&self.0);
        if let Some(itt) = out.task {
            if !state.tasks.contains_key(&itt) {
                return None;
            }
            if out.last {
                state.end_task(itt);
            }
        }
        state.stat_sn = state.stat_sn.wrapping_add(out.stat_sn_jump);
        if out.stat != StatSn::Reserved {
            out.pdu.set_u32(24, state.stat_sn);
        }
        if out.stat == StatSn::Advance {
            state.stat_sn = state.stat_sn.wrapping_add(1);
        }
        out.pdu.set_u32(28, state.exp_cmd_sn);
        out.pdu.set_u32(32, state.max_cmd_sn);
        Some(())
    }
}

impl State {
    /// Moves MaxCmdSN to where `depth` commands may be outstanding; it never goes back.
    fn widen(&mut self) {
        if self.frozen {
            return;
        }
        let room = self.depth.saturating_sub(self.outstanding);
        self.max_cmd_sn = self.exp_cmd_sn.wrapping_add(room).wrapping_sub(1);
    }

    fn end_task(&mut self, itt: u32) -> Option<Task> {
        let task = self.tasks.remove(&itt)?;
        self.outstanding -= u32::from(task.numbered).min(self.outstanding);
        self.widen();
        Some(task)
    }
}

/// The writing half of a connection.
pub(crate) struct Sender {
    half: OwnedWriteHalf,
    session: std::sync::Arc<Session>,
    digests: Digests,
    batch: Vec<u8>,
    muted: bool,
}

impl Sender {
    pub(crate) fn new(half: OwnedWriteHalf, session: std::sync::Arc<Session>) -> Self {
        let batch = Vec::with_capacity(BATCH);
        Self { half, session, digests: Digests::default(), batch, muted: false }
    }

    /// Sends steps until one of them, or an order, closes the connection.
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Step>,
        mut orders: watch::Receiver<Option<Order>>,
    ) {
        let ordered = async {
            while orders.changed().await.is_ok() {
                if let Some(Order::Close(how)) = *orders.borrow_and_update() {
                    return how;
                }
            }
            std::future::pending().await
        };
        let how = tokio::select! {
            how = ordered => how,
            result = self.pump(&mut queue) => result.unwrap_or(Close::Fin),
        };
        if how == Close::Reset {
            let _ = self.half.as_ref().set_zero_linger();
            self.half.forget();
        }
    }

    async fn pump(&mut self, queue: &mut mpsc::Receiver<Step>) -> io::Result<Close> {
        while let Some(step) = queue.recv().await {
            let mut next = Some(step);
            while let Some(step) = next {
                match step {
                    Step::Send(_) if self.muted => {}
                    Step::Send(out) => self.send(out).await?,
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Close(_) if self.muted => {}
                    Step::Close(how) => {
                        self.flush().await?;
                        return Ok(how);
                    }
                    Step::Mute => self.muted = true,
                    Step::Digests(digests) => self.digests = digests,
                }
                next = queue.try_recv().ok();
            }
            self.flush().await?;
        }
        Ok(Close::Fin)
    }

    async fn send(&mut self, mut out: Out) -> io::Result<()> {
        if self.session.stamp(&mut out).is_none() {
            return Ok(());
        }
        let Encoded { head, data, tail } = wire::encode(out.pdu, self.digests, &out.mangle);
        if let Some(cut) = out.cut {
            self.batch.extend_from_slice(&head);
            self.batch.extend_from_slice(&data[..cut.min(data.len())]);
            return Ok(());
        }
        if let Some((at, pause)) = out.split {
            let whole = [&head[..], &data[..], &tail[..]].concat();
            let (before, after) = whole.split_at(at.min(whole.len()));
            self.batch.extend_from_slice(before);
            self.flush().await?;
            tokio::time::sleep(pause).await;
            self.batch.extend_from_slice(after);
            return Ok(());
        }
        self.batch.extend_from_slice(&head);
        if data.len() < LARGE {
            self.batch.extend_from_slice(&data);
        } else {
            self.half.write_all_buf(&mut (&self.batch[..]).chain(data)).await?;
            self.batch.clear();
        }
        self.batch.extend_from_slice(&tail);
        if self.batch.len() >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.half.write_all(&self.batch).await?;
        self.batch.clear();
        Ok(())
    }
}
