//! Where a fuzzer comes in: physical volumes whose checksums are right, whatever they say.

use super::super::fuzz::check;
use super::label::{MDA_MAGIC, checksum};
use crate::fuzz::{Device, Input};

const LEN: u64 = 64 << 10;
/// Where the one metadata area stands, and where in it the text.
const AREA: u64 = 4096;
const TEXT: u64 = 512;

/// The input is the metadata text of a physical volume with the UUID `PV`; or its label and the area's header as well.
///
/// # Panics
/// Where a logical volume cannot be read as it was mapped.
pub fn lvm(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(choices) = input.byte() else { return };
    let (label, header) = match choices & 1 {
        0 => (sound_label(), [TEXT, bytes.len() as u64 - 1]),
        _ => {
            let label = input.padded(80);
            let word = |input: &mut Input<'_>| input.word().map_or(0, u64::from);
            (label, [word(&mut input), word(&mut input)])
        }
    };
    let text = input.0;
    let mut device = Device::new(LEN, 512);
    let mut sector = b"LABELONE".to_vec();
    sector.extend_from_slice(&[0; 12]);
    sector.extend_from_slice(&32_u32.to_le_bytes());
    sector.extend_from_slice(b"LVM2 001");
    sector.extend_from_slice(&label);
    sector.resize(512, 0);
    let sum = checksum(&sector[20..]).to_le_bytes();
    sector[16..20].copy_from_slice(&sum);
    device.write(512, &sector);

    let [offset, size] = header;
    device.write(AREA + TEXT, text);
    // Where the text wraps its checksum is wrong, which is an end of its own.
    let covered = device.bytes(AREA.saturating_add(offset), size.min(LEN) as usize);
    let mut area = MDA_MAGIC.to_vec();
    area.extend_from_slice(&1_u32.to_le_bytes());
    area.extend_from_slice(&AREA.to_le_bytes());
    area.extend_from_slice(&(LEN - AREA).to_le_bytes());
    area.extend_from_slice(&offset.to_le_bytes());
    area.extend_from_slice(&size.to_le_bytes());
    area.extend_from_slice(&checksum(&covered).to_le_bytes());
    area.resize(508, 0);
    device.write(AREA, &checksum(&area).to_le_bytes());
    device.write(AREA + 4, &area);
    check(device);
}

/// `pv_header`: UUID, size, no data area, one metadata area.
fn sound_label() -> Vec<u8> {
    let mut label = b"PV".repeat(16);
    let numbers = [LEN, 0, 0, AREA, LEN - AREA, 0, 0];
    label.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    label
}
