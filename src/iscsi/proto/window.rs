//! The command window: which CmdSN comes next, and whether the target takes it (RFC 7143 section 4.2.2.1).

use crate::iscsi::pdu::{Sequence, Serial};

/// CmdSN, ExpCmdSN, MaxCmdSN and ExpStatSN of a session with one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    cmd_sn: Serial,
    exp_cmd_sn: Serial,
    max_cmd_sn: Serial,
    exp_stat_sn: Serial,
}

impl Window {
    /// As the login left it: `sequence` is that of the last login response.
    pub(crate) fn new(cmd_sn: Serial, sequence: Sequence) -> Self {
        Self {
            cmd_sn,
            exp_cmd_sn: sequence.exp_cmd_sn,
            max_cmd_sn: sequence.max_cmd_sn,
            exp_stat_sn: sequence.stat_sn.next(),
        }
    }

    /// Whether the target takes another command now.
    pub(crate) fn is_open(&self) -> bool {
        !self.max_cmd_sn.precedes(self.cmd_sn)
    }

    /// Takes the CmdSN for a command; only while the window is open.
    pub(crate) fn take(&mut self) -> Serial {
        let taken = self.cmd_sn;
        self.cmd_sn = taken.next();
        taken
    }

    /// The CmdSN that an immediate PDU carries: the next one, which it does not use up.
    pub(crate) fn current(&self) -> Serial {
        self.cmd_sn
    }

    /// What we acknowledge.
    pub(crate) fn exp_stat_sn(&self) -> Serial {
        self.exp_stat_sn
    }

    /// Takes ExpCmdSN and MaxCmdSN from any PDU of the target; values that go back are old news.
    pub(crate) fn update(&mut self, sequence: Sequence) {
        let floor = Serial(sequence.exp_cmd_sn.0.wrapping_sub(1));
        if sequence.max_cmd_sn.precedes(floor) {
            return;
        }
        if self.exp_cmd_sn.precedes(sequence.exp_cmd_sn) {
            self.exp_cmd_sn = sequence.exp_cmd_sn;
        }
        if self.max_cmd_sn.precedes(sequence.max_cmd_sn) {
            self.max_cmd_sn = sequence.max_cmd_sn;
        }
    }

    /// Takes StatSN from a PDU that carries a status. Gives how many were skipped: answers that were lost.
    pub(crate) fn acknowledge(&mut self, sequence: Sequence) -> u32 {
        if sequence.stat_sn.precedes(self.exp_stat_sn) {
            return 0;
        }
        let skipped = sequence.stat_sn.0.wrapping_sub(self.exp_stat_sn.0);
        self.exp_stat_sn = sequence.stat_sn.next();
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32) -> Sequence {
        Sequence {
            stat_sn: Serial(stat_sn),
            exp_cmd_sn: Serial(exp_cmd_sn),
            max_cmd_sn: Serial(max_cmd_sn),
        }
    }

    #[test]
    fn closes_when_max_cmd_sn_is_used_and_opens_again() {
        let mut window = Window::new(Serial(u32::MAX), sequence(9, u32::MAX, 0));
        assert_eq!(window.take(), Serial(u32::MAX));
        assert!(window.is_open());
        assert_eq!(window.take(), Serial(0));
        assert!(!window.is_open());
        window.update(sequence(0, 1, 1));
        assert!(window.is_open());
    }

    #[test]
    fn old_and_impossible_values_change_nothing() {
        let mut window = Window::new(Serial(10), sequence(0, 10, 12));
        window.update(sequence(0, 9, 11));
        assert_eq!((window.exp_cmd_sn, window.max_cmd_sn), (Serial(10), Serial(12)));
        window.update(sequence(0, 20, 18));
        assert_eq!((window.exp_cmd_sn, window.max_cmd_sn), (Serial(10), Serial(12)));
        // MaxCmdSN = ExpCmdSN - 1 is a closed window, and legal.
        window.update(sequence(0, 14, 13));
        assert_eq!((window.exp_cmd_sn, window.max_cmd_sn), (Serial(14), Serial(13)));
    }

    #[test]
    fn statuses_are_acknowledged_in_serial_order() {
        let mut window = Window::new(Serial(0), sequence(u32::MAX, 0, 0));
        assert_eq!(window.exp_stat_sn(), Serial(0));
        assert_eq!(window.acknowledge(sequence(0, 0, 0)), 0);
        assert_eq!(window.exp_stat_sn(), Serial(1));
        assert_eq!(window.acknowledge(sequence(u32::MAX, 0, 0)), 0);
        assert_eq!(window.exp_stat_sn(), Serial(1));
        assert_eq!(window.acknowledge(sequence(3, 0, 0)), 2);
        assert_eq!(window.exp_stat_sn(), Serial(4));
    }
}
