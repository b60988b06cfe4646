//! Logical units: what they hold, and what can happen to them while initiators are logged in.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::lock;
use crate::sense::Sense;

/// An asymmetric access state (SPC-4 section 5.15.2.4), as REPORT TARGET PORT GROUPS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// Active/optimized.
    Optimized = 0,
    /// Active/non-optimized.
    NonOptimized = 1,
    /// Standby.
    Standby = 2,
    /// Unavailable.
    Unavailable = 3,
    /// Offline.
    Offline = 14,
    /// Transitioning.
    Transitioning = 15,
}

/// A logical unit.
#[derive(Debug)]
pub struct Lun {
    pub(crate) number: u16,
    pub(crate) disk: Disk,
    pub(crate) block_size: u32,
    pub(crate) device_type: u8,
    /// What VPD 00h lists.
    pub(crate) pages: Vec<u8>,
    /// MEDIUM ROTATION RATE (VPD B1h).
    pub(crate) rotation_rate: u16,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    present: bool,
    serial: String,
    /// Portals through which another unit answers, with its serial number.
    others: Vec<(usize, String)>,
    blocks: u64,
    not_ready_until: Option<Instant>,
    /// Unit attentions in the order in which they arose; every session remembers how many it has seen.
    attentions: Vec<Sense>,
    access: Vec<AccessState>,
}

impl Lun {
    /// A disk of blocks of 512 bytes. Its serial number, and so its identity (VPD 80h, 83h), is made of `serial`:
    /// the same text in two targets means two paths to one unit.
    ///
    /// Numbers up to 255 are addressed in the peripheral form, above in the flat form (SAM-5 section 4.7).
    pub fn new(number: u16, serial: impl Into<String>, disk: Disk) -> Self {
        Self {
            number,
            block_size: 512,
            device_type: 0,
            pages: vec![0x00, 0x80, 0x83, 0xb0, 0xb1],
            rotation_rate: 1,
            state: Mutex::new(State {
                present: true,
                serial: serial.into(),
                others: Vec::new(),
                blocks: disk.len() / 512,
                not_ready_until: None,
                attentions: Vec::new(),
                access: Vec::new(),
            }),
            disk,
        }
    }

    /// The same with blocks of `block_size` bytes.
    #[must_use]
    pub fn block_size(mut self, block_size: u32) -> Self {
        self.block_size = block_size;
        lock(&self.state).blocks = self.disk.len() / u64::from(block_size);
        self
    }

    /// The same as another peripheral device type: 0Ch is a storage array controller.
    #[must_use]
    pub fn device_type(mut self, device_type: u8) -> Self {
        self.device_type = device_type;
        self
    }

    /// The same, but through this portal it says that it is another unit.
    #[must_use]
    pub fn serial_at(self, portal: usize, serial: impl Into<String>) -> Self {
        lock(&self.state).others.push((portal, serial.into()));
        self
    }

    /// The same with these pages in its list of VPD pages (00h), whichever it has.
    #[must_use]
    pub fn vpd_pages(mut self, pages: &[u8]) -> Self {
        self.pages = pages.to_vec();
        self
    }

    /// The same with this medium rotation rate: 1 does not rotate, 0 is not told.
    #[must_use]
    pub fn rotation_rate(mut self, rate: u16) -> Self {
        self.rotation_rate = rate;
        self
    }

    /// The same with one access state for each portal (TPGS); the last one counts for all further portals.
    #[must_use]
    pub fn access_states(self, states: impl Into<Vec<AccessState>>) -> Self {
        lock(&self.state).access = states.into();
        self
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Capacity in blocks.
    pub fn blocks(&self) -> u64 {
        lock(&self.state).blocks
    }

    /// The unit is deleted: from now on 5/25/00.
    pub fn vanish(&self) {
        lock(&self.state).present = false;
    }

    /// A deleted unit is back.
    pub fn appear(&self) {
        lock(&self.state).present = true;
    }

    /// From now on another unit answers, with this serial number, through every portal, and does not say so.
    pub fn exchange(&self, serial: impl Into<String>) {
        let mut state = lock(&self.state);
        state.serial = serial.into();
        state.others.clear();
    }

    /// The capacity becomes `blocks`, with a unit attention 2A/09.
    pub fn resize(&self, blocks: u64) {
        let mut state = lock(&self.state);
        state.blocks = blocks;
        state.attentions.push(Sense::CAPACITY_CHANGED);
    }

    /// Every session gets this unit attention once.
    pub fn attention(&self, sense: Sense) {
        lock(&self.state).attentions.push(sense);
    }

    /// NOT READY, becoming ready, for a time.
    pub fn not_ready_for(&self, time: Duration) {
        lock(&self.state).not_ready_until = Some(Instant::now() + time);
    }

    /// Changes the access states and says so with a unit attention 2A/06.
    pub fn set_access_states(&self, states: impl Into<Vec<AccessState>>) {
        let mut state = lock(&self.state);
        state.access = states.into();
        state.attentions.push(Sense::new(6, 0x2a, 6));
    }

    /// The serial number that it shows through a portal.
    pub(crate) fn serial(&self, portal: usize) -> String {
        let state = lock(&self.state);
        let other = state.others.iter().find(|(there, _)| *there == portal);
        other.map_or(&state.serial, |(_, serial)| serial).clone()
    }

    pub(crate) fn is_present(&self) -> bool {
        lock(&self.state).present
    }

    pub(crate) fn is_ready(&self) -> bool {
        lock(&self.state).not_ready_until.is_none_or(|until| until <= Instant::now())
    }

    /// The access state through one portal; `None` where the unit knows no such states.
    pub(crate) fn access(&self, portal: usize) -> Option<AccessState> {
        let state = lock(&self.state);
        state.access.get(portal).or(state.access.last()).copied()
    }

    /// How many unit attentions have arisen so far.
    pub(crate) fn attentions_so_far(&self) -> usize {
        lock(&self.state).attentions.len()
    }

    /// The next unit attention for a session that has seen `seen` of them.
    pub(crate) fn next_attention(&self, seen: usize) -> Option<Sense> {
        lock(&self.state).attentions.get(seen).copied()
    }
}
