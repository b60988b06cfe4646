//! The commands a disk that can only be read answers (SPC-4, SBC-3).

use std::ops::Range;

use bytes::Bytes;

use crate::lun::{AccessState, Lun};
use crate::sense::Sense;

const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const INQUIRY: u8 = 0x12;
const MODE_SENSE_6: u8 = 0x1a;
const READ_CAPACITY_10: u8 = 0x25;
pub(crate) const READ_10: u8 = 0x28;
const MODE_SENSE_10: u8 = 0x5a;
pub(crate) const READ_16: u8 = 0x88;
const SERVICE_ACTION_IN_16: u8 = 0x9e;
const REPORT_LUNS: u8 = 0xa0;
const MAINTENANCE_IN: u8 = 0xa3;

/// Service actions.
const READ_CAPACITY_16: u8 = 0x10;
const REPORT_TARGET_PORT_GROUPS: u8 = 0x0a;

/// The longest READ in blocks (VPD B0h); longer ones are refused.
pub(crate) const MAX_TRANSFER_BLOCKS: u32 = 0x4000;

/// The service action of a command that has one, else 0.
pub(crate) fn service_action(cdb: &[u8]) -> u8 {
    match cdb[0] {
        SERVICE_ACTION_IN_16 | MAINTENANCE_IN => cdb[1] & 0x1f,
        _ => 0,
    }
}

/// Whether the command is one of those a reader needs.
pub(crate) fn is_allowed(cdb: &[u8]) -> bool {
    match cdb[0] {
        TEST_UNIT_READY | REQUEST_SENSE | INQUIRY | MODE_SENSE_6 | READ_CAPACITY_10 | READ_10
        | MODE_SENSE_10 | READ_16 | REPORT_LUNS => true,
        SERVICE_ACTION_IN_16 => service_action(cdb) == READ_CAPACITY_16,
        MAINTENANCE_IN => service_action(cdb) == REPORT_TARGET_PORT_GROUPS,
        _ => false,
    }
}

/// Whether the command is answered while a unit attention waits (SAM-5 section 5.14).
pub(crate) fn passes_unit_attention(cdb: &[u8]) -> bool {
    matches!(cdb[0], INQUIRY | REPORT_LUNS | REQUEST_SENSE)
}

/// The blocks that a READ(10) or READ(16) asks for.
pub(crate) fn read_range(cdb: &[u8]) -> Option<Range<u64>> {
    let (lba, blocks) = match cdb[0] {
        READ_10 => (u64::from(be32(&cdb[2..])), u32::from(be16(&cdb[7..]))),
        READ_16 => (be64(&cdb[2..]), be32(&cdb[10..])),
        _ => return None,
    };
    Some(lba..lba.saturating_add(u64::from(blocks)))
}

/// What the whole target says of itself, beyond one LUN.
pub(crate) struct Device<'a> {
    pub(crate) luns: &'a [std::sync::Arc<Lun>],
    /// The target's iSCSI name.
    pub(crate) name: &'a str,
    /// Index of the portal that the command came through, and how many there are.
    pub(crate) portal: usize,
    pub(crate) portals: usize,
}

/// Executes one command; `lun` is `None` where there is no such unit.
pub(crate) fn execute(device: &Device<'_>, lun: Option<&Lun>, cdb: &[u8]) -> Result<Bytes, Sense> {
    let lun = lun.filter(|lun| lun.is_present());
    match (cdb[0], lun) {
        (REPORT_LUNS, _) => return report_luns(device, cdb),
        (INQUIRY, None) => return inquiry_of_nothing(cdb),
        (INQUIRY, Some(lun)) => return inquiry(device, lun, cdb),
        (REQUEST_SENSE, None) => return request_sense(cdb, Sense::NO_LUN),
        (_, None) => return Err(Sense::NO_LUN),
        _ => {}
    }
    let lun = lun.expect("the arm before took every command without a unit");
    match cdb[0] {
        REQUEST_SENSE => return request_sense(cdb, Sense::new(0, 0, 0)),
        MAINTENANCE_IN if service_action(cdb) == REPORT_TARGET_PORT_GROUPS => {
            return target_port_groups(device, lun, cdb);
        }
        _ => {}
    }
    match lun.access(device.portal) {
        Some(AccessState::Standby) => return Err(Sense::new(2, 4, 0x0b)),
        Some(AccessState::Unavailable | AccessState::Offline) => {
            return Err(Sense::new(2, 4, 0x0c));
        }
        Some(AccessState::Transitioning) => return Err(Sense::new(2, 4, 0x0a)),
        _ => {}
    }
    if !lun.is_ready() {
        return Err(Sense::BECOMING_READY);
    }
    match cdb[0] {
        TEST_UNIT_READY => Ok(Bytes::new()),
        READ_10 | READ_16 => read(lun, cdb),
        READ_CAPACITY_10 => Ok(read_capacity_10(lun).into()),
        SERVICE_ACTION_IN_16 if service_action(cdb) == READ_CAPACITY_16 => {
            Ok(cut(read_capacity_16(lun), be32(&cdb[10..])))
        }
        MODE_SENSE_6 => mode_sense(cdb, u32::from(cdb[4])),
        MODE_SENSE_10 => mode_sense(cdb, u32::from(be16(&cdb[7..]))),
        _ => Err(Sense::INVALID_OPCODE),
    }
}

fn read(lun: &Lun, cdb: &[u8]) -> Result<Bytes, Sense> {
    let range = read_range(cdb).expect("the caller saw a READ");
    if lun.device_type != 0 {
        return Err(Sense::INVALID_OPCODE);
    }
    let blocks = range.end - range.start;
    if blocks > u64::from(MAX_TRANSFER_BLOCKS) {
        return Err(Sense::INVALID_FIELD);
    }
    if range.end > lun.blocks() {
        return Err(Sense::OUT_OF_RANGE);
    }
    let size = u64::from(lun.block_size);
    let len = usize::try_from(blocks * size).expect("capped just above");
    lun.disk.read(range.start * size, len).map_err(|_| Sense::READ_ERROR.at_lba(range.start))
}

fn report_luns(device: &Device<'_>, cdb: &[u8]) -> Result<Bytes, Sense> {
    let mut list = Vec::new();
    for lun in device.luns.iter().filter(|lun| lun.is_present()) {
        list.extend(encode_lun(lun.number));
    }
    let mut data = u32::try_from(list.len()).expect("a few LUNs").to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(list);
    Ok(cut(data, be32(&cdb[6..])))
}

/// The eight bytes of a LUN: peripheral form up to 255, flat form above (SAM-5 section 4.7.3).
pub(crate) fn encode_lun(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let form = if number > 255 { 0x40 } else { 0 };
    [form | high & 0x3f, low, 0, 0, 0, 0, 0, 0]
}

/// The number of a single-level LUN in peripheral (bus 0) or flat form.
pub(crate) fn decode_lun(field: [u8; 8]) -> Option<u16> {
    if field[2..].iter().any(|&byte| byte != 0) {
        return None;
    }
    match field[0] >> 6 {
        0 if field[0] == 0 => Some(u16::from(field[1])),
        1 => Some(u16::from_be_bytes([field[0] & 0x3f, field[1]])),
        _ => None,
    }
}

fn inquiry_of_nothing(cdb: &[u8]) -> Result<Bytes, Sense> {
    if cdb[1] & 1 != 0 {
        return Err(Sense::NO_LUN);
    }
    let mut data = vec![0; 36];
    (data[0], data[2], data[3], data[4]) = (0x7f, 6, 2, 31);
    Ok(cut(data, u32::from(be16(&cdb[3..]))))
}

fn inquiry(device: &Device<'_>, lun: &Lun, cdb: &[u8]) -> Result<Bytes, Sense> {
    let allocation = u32::from(be16(&cdb[3..]));
    if cdb[1] & 1 == 0 {
        if cdb[2] != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let mut data = vec![0; 96];
        data[0] = lun.device_type;
        data[2] = 6; // SPC-4
        data[3] = 0x12; // HISUP, response data format 2
        data[4] = 91;
        data[5] = if lun.access(device.portal).is_some() { 0x10 } else { 0 }; // implicit TPGS
        data[7] = 2; // CMDQUE
        data[8..16].copy_from_slice(b"SNAPBRWS");
        data[16..32].copy_from_slice(b"SCRIPTED TARGET ");
        data[32..36].copy_from_slice(b"0001");
        return Ok(cut(data, allocation));
    }
    let page = match cdb[2] {
        0x00 => lun.pages.clone(),
        0x80 => lun.serial(device.portal).into_bytes(),
        0x83 => designators(device, lun),
        0xb0 => block_limits(),
        0xb1 => {
            let mut page = vec![0; 60];
            page[..2].copy_from_slice(&lun.rotation_rate.to_be_bytes());
            page
        }
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut data = vec![lun.device_type, cdb[2]];
    data.extend(u16::try_from(page.len()).expect("a short page").to_be_bytes());
    data.extend(page);
    Ok(cut(data, allocation))
}

/// VPD 83h: a T10 vendor ID and an NAA name of the unit, a SCSI name string of the target, and where the command
/// came in.
fn designators(device: &Device<'_>, lun: &Lun) -> Vec<u8> {
    let mut page = Vec::new();
    let mut designator = |code_set: u8, association_and_type: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).expect("names are below 224 bytes");
        page.extend([code_set, association_and_type, 0, length]);
        page.extend(value);
    };
    designator(2, 0x01, format!("SNAPBRWS{}", lun.serial(device.portal)).as_bytes());
    let hash = crc32c::crc32c(lun.serial(device.portal).as_bytes());
    let [a, b, c, d] = hash.to_be_bytes();
    designator(1, 0x03, &[0x30, 0, 0, 0, a, b, c, d]); // locally assigned NAA
    let port = u16::try_from(device.portal + 1).expect("a few portals").to_be_bytes();
    designator(1, 0x94, &[0, 0, port[0], port[1]]);
    designator(1, 0x95, &[0, 0, port[0], port[1]]);
    let mut name = device.name.as_bytes().to_vec();
    name.resize((name.len() + 1).next_multiple_of(4), 0);
    designator(3, 0xa8, &name);
    page
}

fn block_limits() -> Vec<u8> {
    let mut page = vec![0; 60];
    page[2..4].copy_from_slice(&8_u16.to_be_bytes()); // optimal transfer length granularity
    page[4..8].copy_from_slice(&MAX_TRANSFER_BLOCKS.to_be_bytes());
    page[8..12].copy_from_slice(&0x800_u32.to_be_bytes()); // optimal transfer length
    page
}

fn request_sense(cdb: &[u8], sense: Sense) -> Result<Bytes, Sense> {
    let sense = if cdb[1] & 1 == 0 { sense } else { sense.descriptor() };
    Ok(cut(sense.encode(), u32::from(cdb[4])))
}

/// One target port group for each portal, with one port (SPC-4 section 6.37).
fn target_port_groups(device: &Device<'_>, lun: &Lun, cdb: &[u8]) -> Result<Bytes, Sense> {
    let mut groups = Vec::new();
    for portal in 0..device.portals {
        let state = lun.access(portal).ok_or(Sense::INVALID_OPCODE)?;
        let number = u16::try_from(portal + 1).expect("a few portals").to_be_bytes();
        groups.extend([state as u8, 0x8f, number[0], number[1], 0, 0, 0, 1]);
        groups.extend([0, 0, number[0], number[1]]);
    }
    let mut data = u32::try_from(groups.len()).expect("a few groups").to_be_bytes().to_vec();
    if cdb[1] & 0x20 != 0 {
        data.extend([0x10, 0, 0, 0]); // extended header format, no implicit transition time
        let length = u32::try_from(groups.len() + 4).expect("a few groups").to_be_bytes();
        data[..4].copy_from_slice(&length);
    }
    data.extend(groups);
    Ok(cut(data, be32(&cdb[6..])))
}

fn read_capacity_10(lun: &Lun) -> Vec<u8> {
    let last = u32::try_from(lun.blocks().saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), lun.block_size.to_be_bytes()].concat()
}

fn read_capacity_16(lun: &Lun) -> Vec<u8> {
    let mut data = lun.blocks().saturating_sub(1).to_be_bytes().to_vec();
    data.extend(lun.block_size.to_be_bytes());
    data.resize(32, 0);
    data
}

/// Caching and control pages behind a header that says "write protected".
fn mode_sense(cdb: &[u8], allocation: u32) -> Result<Bytes, Sense> {
    let caching = [&[0x08, 0x12, 0x04][..], &[0; 17]].concat();
    let control = [&[0x0a, 0x0a, 0x02][..], &[0; 9]].concat();
    let pages = match cdb[2] & 0x3f {
        0x3f => [caching, control].concat(),
        0x08 => caching,
        0x0a => control,
        _ => return Err(Sense::INVALID_FIELD),
    };
    let write_protected = 0x80;
    let data = if cdb[0] == MODE_SENSE_6 {
        let length = u8::try_from(pages.len() + 3).expect("two short pages");
        [&[length, 0, write_protected, 0][..], &pages].concat()
    } else {
        let length = u16::try_from(pages.len() + 6).expect("two short pages").to_be_bytes();
        [&[length[0], length[1], 0, write_protected, 0, 0, 0, 0][..], &pages].concat()
    };
    Ok(cut(data, allocation))
}

fn cut(mut data: Vec<u8>, allocation: u32) -> Bytes {
    data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
    data.into()
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Disk;

    fn run(lun: &Lun, cdb: &[u8]) -> Result<Bytes, Sense> {
        let mut padded = [0; 16];
        padded[..cdb.len()].copy_from_slice(cdb);
        let device = Device { luns: &[], name: "iqn.2026-01.test:a", portal: 0, portals: 2 };
        execute(&device, Some(lun), &padded)
    }

    fn disk() -> Lun {
        Lun::new(1, "s", Disk::pattern(1 << 20, 1))
    }

    #[test]
    fn a_read_gives_the_disks_bytes_and_stops_at_its_end() {
        let lun = disk();
        let data = run(&lun, &[READ_10, 0, 0, 0, 0, 2, 0, 0, 3]).unwrap();
        assert_eq!(data, lun.disk.read(1024, 1536).unwrap());
        let last = [READ_16, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xff, 0, 0, 0, 1];
        assert_eq!(run(&lun, &last).unwrap().len(), 512);
        let past = [READ_16, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xff, 0, 0, 0, 2];
        assert_eq!(run(&lun, &past), Err(Sense::OUT_OF_RANGE));
    }

    #[test]
    fn nothing_that_writes_is_known() {
        for opcode in [0x04, 0x0a, 0x2a, 0x2e, 0x35, 0x41, 0x42, 0x5f, 0x8a, 0x93, 0x1b] {
            assert!(!is_allowed(&[opcode, 0]));
            assert_eq!(run(&disk(), &[opcode]), Err(Sense::INVALID_OPCODE), "{opcode:#x}");
        }
        assert!(!is_allowed(&[SERVICE_ACTION_IN_16, 0x12]));
        assert!(!is_allowed(&[MAINTENANCE_IN, 0x05]));
    }

    #[test]
    fn capacities_in_both_widths() {
        let lun = Lun::new(1, "s", Disk::pattern(3 << 41, 1));
        let narrow = run(&lun, &[READ_CAPACITY_10]).unwrap();
        assert_eq!(narrow[..4], [0xff; 4]);
        let wide = [SERVICE_ACTION_IN_16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32];
        let wide = run(&lun, &wide).unwrap();
        assert_eq!(be64(&wide), (3 << 32) - 1);
        assert_eq!(be32(&wide[8..]), 512);
    }

    #[test]
    fn lun_numbers_in_both_forms() {
        for number in [0, 1, 255, 256, 300, 16383] {
            assert_eq!(decode_lun(encode_lun(number)), Some(number));
        }
        assert_eq!(encode_lun(300)[..2], [0x41, 0x2c]);
        assert_eq!(decode_lun([0x40, 5, 0, 0, 0, 0, 0, 0]), Some(5));
        assert_eq!(decode_lun([0x80, 5, 0, 0, 0, 0, 0, 0]), None);
        let luns = [Arc::new(disk())];
        let device = Device { luns: &luns, name: "", portal: 0, portals: 1 };
        let mut cdb = [0; 16];
        (cdb[0], cdb[9]) = (REPORT_LUNS, 255);
        let list = execute(&device, None, &cdb).unwrap();
        assert_eq!(list[..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_happens_to_a_unit_shows() {
        let lun = disk();
        assert!(run(&lun, &[TEST_UNIT_READY]).is_ok());
        lun.not_ready_for(std::time::Duration::from_secs(60));
        assert_eq!(run(&lun, &[TEST_UNIT_READY]), Err(Sense::BECOMING_READY));
        lun.vanish();
        assert_eq!(run(&lun, &[TEST_UNIT_READY]), Err(Sense::NO_LUN));
        let inquiry = run(&lun, &[INQUIRY, 0, 0, 0, 36]).unwrap();
        assert_eq!(inquiry[0], 0x7f);
    }

    #[test]
    fn identity_follows_the_serial_number() {
        let page = |serial: &str, number| {
            let lun = Lun::new(number, serial, Disk::pattern(512, 0));
            run(&lun, &[INQUIRY, 1, 0x83, 1, 0]).unwrap()
        };
        assert_eq!(page("a", 1), page("a", 2));
        assert_ne!(page("a", 1), page("b", 1));
    }
}
