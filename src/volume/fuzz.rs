//! Where fuzzers come in: devices with any tables, their checksums put right so that what they protect is reached.

use std::collections::HashSet;
use std::sync::Arc;

use crc::Crc;

use super::{Scan, scan};
use crate::block::BlockSource;
use crate::fuzz::{Device, Input, wait};

pub use super::lvm::fuzz::lvm;

const SECTOR: u64 = 512;
/// A small device, so that numbers that lie on it are found.
const LEN: u64 = 256 * SECTOR;

/// A boot record with its chain, or a GUID partition table.
///
/// # Panics
/// Where a volume reaches out of its device, or two have one name.
pub fn partitions(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let sector = if choices & 1 == 0 { 512 } else { 4096 };
    let mut device = Device::new(LEN, sector);
    match choices >> 1 & 3 {
        0 => boot_records(&mut device, &mut input, u64::from(sector)),
        1 | 2 => guid_table(&mut device, &mut input, u64::from(sector), choices & 0x80 != 0),
        _ => device.write(0, input.0),
    }
    check(device);
}

/// A record's four entries go to the sector that stands in front of them.
fn boot_records(device: &mut Device, input: &mut Input<'_>, sector: u64) {
    device.write(446, &input.padded(64));
    device.write(510, &[0x55, 0xAA]);
    while let Some(lba) = input.byte() {
        let at = u64::from(lba) * sector;
        device.write(at + 446, &input.padded(64));
        device.write(at + 510, &[0x55, 0xAA]);
    }
}

/// A header and entries in the places of the primary copy or of the backup.
fn guid_table(device: &mut Device, input: &mut Input<'_>, sector: u64, backup: bool) {
    const PROTECTIVE: [u8; 16] = [0, 0, 2, 0, 0xEE, 255, 255, 255, 1, 0, 0, 0, 255, 0, 0, 0];
    device.write(446, &PROTECTIVE);
    device.write(510, &[0x55, 0xAA]);
    let lba = if backup { LEN / sector - 1 } else { 1 };
    let mut header = input.padded(92);
    let number = |header: &[u8], at: usize| {
        u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
    };
    let start = number(&header, 72).saturating_mul(sector);
    device.write(start, input.0);
    let count = number(&header, 80) & 0xFFFF_FFFF;
    let entries = count.saturating_mul(number(&header, 80) >> 32).min(LEN) as usize;
    let sum = |bytes: &[u8]| Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes).to_le_bytes();
    if start < LEN {
        header[88..92].copy_from_slice(&sum(&device.bytes(start, entries)));
    }
    header[16..20].fill(0);
    let checksum = sum(&header);
    header[16..20].copy_from_slice(&checksum);
    device.write(lba * sector, &header);
}

/// Finds all volumes and reads the ends of each.
pub(super) fn check(device: Device) {
    let device: Arc<dyn BlockSource> = Arc::new(device);
    let Scan { volumes, .. } = wait(scan(&device)).expect("every read of the device succeeds");
    // A table may name no partition at all.
    assert!(volumes.len() < 1000);
    let names: HashSet<_> = volumes.iter().map(|volume| &volume.name).collect();
    assert_eq!(names.len(), volumes.len(), "two volumes with one name");
    for volume in &volumes {
        let len = volume.source.len();
        // Logical volumes may hold some extents more than once.
        assert!(volume.range.is_none() || len <= device.len().min(volume.size));
        for at in [0, len / 2, len.saturating_sub(1000)] {
            let count = (len - at).min(1000) as usize;
            let bytes = wait(volume.source.read_at(at, count)).expect("it lies on the device");
            assert_eq!(bytes.len(), count);
        }
        volume.source.prefetch(&[0..len]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use crate::fuzz::replay;

    proptest! {
        #[test]
        fn any_tables(bytes in vec(any::<u8>(), 0..600)) {
            super::partitions(&bytes);
            super::lvm(&bytes);
        }
    }

    #[test]
    fn seeds_of_partitions() {
        replay("partitions", super::partitions);
    }

    #[test]
    fn seeds_of_physical_volumes() {
        replay("lvm", super::lvm);
    }
}
