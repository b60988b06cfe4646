//! A physical volume's label and metadata areas (lvm2 `lib/format_text/layout.h`).

use std::sync::Arc;

use crc::{Algorithm, Crc};

use crate::block::{self, BlockSource};
use crate::error::Result;

use super::text::bad;

const SECTOR: u64 = 512;
/// The label stands in one of the first four sectors.
const LABEL_SECTORS: usize = 4;
const LABEL_ID: &[u8] = b"LABELONE";
const LABEL_TYPE: &[u8] = b"LVM2 001";
pub(super) const MDA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// `mda_header` fills one sector; the text's ring begins behind it.
const MDA_HEADER_SIZE: u64 = 512;
/// `RAW_LOCN_IGNORED`: the area exists, but its copy of the text is not kept up to date.
const RAW_LOCN_IGNORED: u32 = 1;
/// Two metadata areas are the most that `pvcreate` makes.
const MAX_AREAS: usize = 8;
/// No volume group comes near: 16 MiB hold some 50,000 logical volumes.
const MAX_TEXT: u64 = 16 << 20;

/// What a physical volume says of itself.
pub(super) struct PhysicalVolume {
    /// The 32 characters of its UUID, without dashes.
    pub(super) uuid: String,
    /// Its bytes.
    pub(super) source: Arc<dyn BlockSource>,
    /// The metadata texts of its areas; none where it carries no metadata.
    pub(super) texts: Vec<String>,
    /// What was wrong with areas that could not be used.
    pub(super) warnings: Vec<String>,
}

impl PhysicalVolume {
    /// Reads label, header and metadata of `source`; `name` is what messages call it.
    pub(super) async fn open(name: &str, source: Arc<dyn BlockSource>) -> Result<Self> {
        let head_len = usize::try_from(source.len()).unwrap_or(usize::MAX).min(LABEL_SECTORS * 512);
        let head = block::read(&*source, 0, head_len).await?.into_bytes();
        let header = head
            .chunks_exact(512)
            .find(|sector| sector.starts_with(LABEL_ID) && sector[24..32] == *LABEL_TYPE)
            .ok_or_else(|| bad("no label in the first four sectors"))
            .and_then(parse_label)?;
        let mut pv = Self { uuid: header.uuid, source, texts: Vec::new(), warnings: Vec::new() };
        for area in header.metadata_areas {
            match read_area(&*pv.source, area).await {
                Ok(text) => pv.texts.extend(text),
                Err(error) => {
                    pv.warnings
                        .push(format!("{name}: metadata area at byte {}: {error}", area.offset));
                }
            }
        }
        Ok(pv)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    offset: u64,
    size: u64,
}

#[derive(Debug)]
struct Header {
    uuid: String,
    metadata_areas: Vec<Area>,
}

/// `label_header` and `pv_header` in one sector.
fn parse_label(sector: &[u8]) -> Result<Header> {
    if le32(sector, 16) != Some(checksum(&sector[20..])) {
        return Err(bad("the label's checksum is wrong"));
    }
    let start = le32(sector, 20).unwrap_or_default() as usize;
    let header = sector.get(start..).filter(|header| header.len() >= 40);
    let header = header.ok_or_else(|| bad("the header lies outside of the label's sector"))?;
    let uuid = std::str::from_utf8(&header[..32]).map_err(|_| bad("the UUID is not text"))?;
    // Two lists of areas, data then metadata, each closed by an entry of offset 0.
    let mut at = 40;
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        loop {
            let (Some(offset), Some(size)) = (le64(header, at), le64(header, at + 8)) else {
                return Err(bad("the list of areas has no end"));
            };
            at += 16;
            if offset == 0 {
                break;
            }
            if list.len() == MAX_AREAS {
                return Err(bad("more areas than any physical volume has"));
            }
            list.push(Area { offset, size });
        }
    }
    let [_, metadata_areas] = lists;
    Ok(Header { uuid: uuid.to_owned(), metadata_areas })
}

/// The newest text of one metadata area; `None` where the area is unused.
async fn read_area(source: &dyn BlockSource, area: Area) -> Result<Option<String>> {
    let header = block::read(source, area.offset, MDA_HEADER_SIZE as usize).await?.into_bytes();
    if header[4..20] != *MDA_MAGIC {
        return Err(bad("the area has no header"));
    }
    if le32(&header, 0) != Some(checksum(&header[4..])) {
        return Err(bad("the area header's checksum is wrong"));
    }
    let field = |at| le64(&header, at).unwrap_or_default();
    let (offset, size) = (field(40), field(48));
    let expected = le32(&header, 56).unwrap_or_default();
    let flags = le32(&header, 60).unwrap_or_default();
    if offset == 0 || flags & RAW_LOCN_IGNORED != 0 {
        return Ok(None);
    }
    let in_ring = (MDA_HEADER_SIZE..area.size).contains(&offset);
    if !in_ring || size > MAX_TEXT || size > area.size - MDA_HEADER_SIZE {
        return Err(bad(&format!("{size} bytes of text at {offset} do not fit into the area")));
    }
    // The text is a record in a ring: it may go on behind the area's header.
    let first = size.min(area.size - offset);
    let place = area.offset.checked_add(offset).ok_or_else(|| bad("the area's place overflows"))?;
    let mut text = block::read(source, place, first as usize).await?;
    if first < size {
        let wrapped = area.offset + MDA_HEADER_SIZE;
        text.append(block::read(source, wrapped, (size - first) as usize).await?);
    }
    let text = text.into_bytes();
    if checksum(&text) != expected {
        return Err(bad("the text's checksum is wrong"));
    }
    String::from_utf8(text.to_vec()).map(Some).map_err(|_| bad("the text is not UTF-8"))
}

/// LVM2's CRC-32: the usual polynomial, a seed of its own, no final inversion.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const ALGORITHM: Algorithm<u32> =
        Algorithm { init: 0xf597_a6cf_u32.reverse_bits(), xorout: 0, ..crc::CRC_32_ISO_HDLC };
    static CRC: Crc<u32> = Crc::<u32>::new(&ALGORITHM);
    CRC.checksum(bytes)
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Metadata counts in sectors of 512 bytes whatever the device's own.
pub(super) fn sectors(count: u64) -> Result<u64> {
    count.checked_mul(SECTOR).ok_or_else(|| bad("a number of sectors overflows"))
}
