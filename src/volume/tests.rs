//! Partition tables made byte by byte: what the tools never write, and what an attacker might.

use super::*;
use crate::block::{ReadFuture, Segments, check_range};
use crate::error::Error;

const SECTORS: u64 = 20_000;

/// A disk in memory, some of whose sectors may be unreadable.
struct Disk {
    bytes: Vec<u8>,
    sector: u32,
    unreadable: Range<u64>,
}

impl BlockSource for Disk {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn block_size(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            check_range(self.len(), offset, len)?;
            if offset < self.unreadable.end && offset + len as u64 > self.unreadable.start {
                return Err(Error::new(ErrorKind::Medium, "unrecovered read error"));
            }
            let start = offset as usize;
            Ok(Segments::from(self.bytes[start..start + len].to_vec()))
        })
    }
}

impl Disk {
    fn new(sector: u32) -> Self {
        let bytes = vec![0; (SECTORS * u64::from(sector)) as usize];
        Self { bytes, sector, unreadable: 0..0 }
    }

    fn put(&mut self, lba: u64, at: usize, bytes: &[u8]) {
        let start = (lba * u64::from(self.sector)) as usize + at;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes an entry (1 to 4) of the boot record at `lba`, and the record's signature.
    fn mbr_entry(&mut self, lba: u64, index: usize, sys: u8, start: u32, sectors: u32) {
        let mut entry = [0; 16];
        entry[4] = sys;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        self.put(lba, 446 + 16 * (index - 1), &entry);
        self.put(lba, 510, &[0x55, 0xaa]);
    }

    /// Makes what lies at `lba` look like ext.
    fn ext_at(&mut self, lba: u64) {
        for (at, byte) in [(0, 1), (24, 2), (56, 0x53), (57, 0xef), (76, 1)] {
            self.put(lba, 1024 + at, &[byte]);
        }
    }

    async fn scan(self) -> Scan {
        scan(&(Arc::new(self) as Arc<dyn BlockSource>)).await.unwrap()
    }
}

/// CRC-32 of ISO 3309, as UEFI wants it.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (0_u32.wrapping_sub(crc & 1)));
        }
    }
    !crc
}

/// A GPT that can be made wrong in each field.
struct Gpt {
    my_lba: u64,
    other_lba: u64,
    table_lba: u64,
    first_usable: u64,
    last_usable: u64,
    entry_count: u32,
    entry_size: u32,
    entries: Vec<(u64, u64)>,
}

impl Gpt {
    fn primary(entries: &[(u64, u64)]) -> Self {
        Self {
            my_lba: 1,
            other_lba: SECTORS - 1,
            table_lba: 2,
            first_usable: 34,
            last_usable: SECTORS - 34,
            entry_count: 128,
            entry_size: 128,
            entries: entries.to_vec(),
        }
    }

    fn backup(entries: &[(u64, u64)]) -> Self {
        Self {
            my_lba: SECTORS - 1,
            other_lba: 1,
            table_lba: SECTORS - 33,
            ..Self::primary(entries)
        }
    }

    fn write(&self, disk: &mut Disk) {
        let mut table = vec![0; 128 * 128];
        for (i, (first, last)) in self.entries.iter().enumerate() {
            let entry = &mut table[128 * i..][..128];
            // 0FC63DAF-8483-4772-8E79-3D69D8477DE4: Linux filesystem.
            entry[..16].copy_from_slice(&[
                0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47,
                0x7d, 0xe4,
            ]);
            entry[16] = i as u8 + 1;
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            entry[56..60].copy_from_slice(b"a\0b\0");
        }
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&self.my_lba.to_le_bytes());
        header[32..40].copy_from_slice(&self.other_lba.to_le_bytes());
        header[40..48].copy_from_slice(&self.first_usable.to_le_bytes());
        header[48..56].copy_from_slice(&self.last_usable.to_le_bytes());
        header[72..80].copy_from_slice(&self.table_lba.to_le_bytes());
        header[80..84].copy_from_slice(&self.entry_count.to_le_bytes());
        header[84..88].copy_from_slice(&self.entry_size.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&table).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        let lba = if self.other_lba == 1 { SECTORS - 1 } else { 1 };
        disk.put(lba, 0, &header);
        if self.table_lba < SECTORS - 32 {
            disk.put(self.table_lba, 0, &table);
        }
    }
}

/// A disk with a protective record and a backup table of one partition at sector 1000.
fn gpt_disk(sector: u32, primary: &Gpt) -> Disk {
    let mut disk = Disk::new(sector);
    disk.mbr_entry(0, 1, 0xee, 1, SECTORS as u32 - 1);
    Gpt::backup(&[(1000, 1999)]).write(&mut disk);
    primary.write(&mut disk);
    disk
}

fn ranges(scan: &Scan) -> Vec<(&str, Range<u64>)> {
    scan.volumes
        .iter()
        .map(|volume| (volume.name.as_str(), volume.range.clone().unwrap()))
        .collect()
}

fn has_warning(scan: &Scan, part: &str) -> bool {
    scan.warnings.iter().any(|warning| warning.contains(part))
}

#[tokio::test]
async fn a_gpt_gives_its_partitions_by_entry_number() {
    for sector in [512, 4096] {
        let mut gpt = Gpt::primary(&[(2048, 4095), (4096, 8191), (9000, 9999)]);
        gpt.entries[1] = (4096, 8191);
        let mut disk = gpt_disk(sector, &gpt);
        disk.ext_at(4096);
        let scan = disk.scan().await;
        assert_eq!((scan.table, scan.warnings.len()), (Table::Gpt, 0), "{:?}", scan.warnings);
        let unit = u64::from(sector);
        assert_eq!(
            ranges(&scan),
            [
                ("p1", 2048 * unit..4096 * unit),
                ("p2", 4096 * unit..8192 * unit),
                ("p3", 9000 * unit..10_000 * unit)
            ]
        );
        assert_eq!(scan.volumes[1].content, Content::Ext);
        assert_eq!(scan.volumes[1].source.len(), 4096 * unit);
        assert_eq!(scan.volumes[0].partition_type, "Linux filesystem");
        assert_eq!(scan.volumes[0].label, "ab");
    }
}

#[tokio::test]
async fn a_gpt_of_the_other_sector_size_is_found() {
    let mut disk = gpt_disk(4096, &Gpt::primary(&[(2048, 4095)]));
    disk.sector = 512;
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p1", 2048 * 4096..4096 * 4096)]);
    assert!(has_warning(&scan, "sectors of 4096 bytes"));
}

#[tokio::test]
async fn a_damaged_primary_gpt_is_replaced_by_its_backup() {
    let good = || Gpt::primary(&[(2048, 4095)]);
    type Damage = (&'static str, fn(&mut Gpt));
    let damages: [Damage; 8] = [
        ("entries have 64 bytes", |gpt| gpt.entry_size = 64),
        ("entries have 256 bytes", |gpt| gpt.entry_size = 256),
        ("4294967295 entries", |gpt| gpt.entry_count = u32::MAX),
        ("0 entries", |gpt| gpt.entry_count = 0),
        ("belongs to sector 77", |gpt| gpt.my_lba = 77),
        ("past the end", |gpt| gpt.table_lba = SECTORS - 1),
        ("past the end", |gpt| gpt.table_lba = u64::MAX),
        ("runs backwards", |gpt| gpt.last_usable = 3),
    ];
    for (why, damage) in damages {
        let mut gpt = good();
        damage(&mut gpt);
        let scan = gpt_disk(512, &gpt).scan().await;
        assert_eq!(ranges(&scan), [("p1", 512_000..1_024_000)], "{why}");
        assert!(has_warning(&scan, why), "{why}: {:?}", scan.warnings);
        assert!(has_warning(&scan, "the backup was used"));
    }
}

#[tokio::test]
async fn a_wrong_checksum_of_header_or_entries_is_noticed() {
    let mut disk = gpt_disk(512, &Gpt::primary(&[(2048, 4095)]));
    disk.put(1, 60, &[0xff]);
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p1", 512_000..1_024_000)]);
    assert!(has_warning(&scan, "checksum of its header is wrong"));

    let mut disk = gpt_disk(512, &Gpt::primary(&[(2048, 4095)]));
    disk.put(2, 100, &[0xff]);
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p1", 512_000..1_024_000)]);
    assert!(has_warning(&scan, "CRC mismatch"), "{:?}", scan.warnings);
}

#[tokio::test]
async fn entries_that_cannot_be_read_are_taken_from_the_backup() {
    let mut disk = gpt_disk(512, &Gpt { table_lba: 500, ..Gpt::primary(&[(2048, 4095)]) });
    disk.unreadable = 500 * 512..501 * 512;
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p1", 512_000..1_024_000)]);
    assert!(has_warning(&scan, "cannot be read"));
}

#[tokio::test]
async fn without_a_usable_copy_there_is_no_table_but_a_warning() {
    let mut disk = gpt_disk(512, &Gpt::primary(&[(2048, 4095)]));
    disk.put(1, 60, &[0xff]);
    disk.put(SECTORS - 1, 60, &[0xff]);
    let scan = disk.scan().await;
    assert_eq!((scan.table, ranges(&scan)), (Table::None, vec![("whole", 0..SECTORS * 512)]));
    assert!(has_warning(&scan, "no backup was found"));
    assert!(has_warning(&scan, "speaks of a GPT"));
}

#[tokio::test]
async fn a_blank_start_is_mended_by_the_backup() {
    let mut disk = Disk::new(512);
    Gpt::backup(&[(1000, 1999)]).write(&mut disk);
    let scan = disk.scan().await;
    assert_eq!((scan.table, ranges(&scan)), (Table::Gpt, vec![("p1", 512_000..1_024_000)]));
    assert!(has_warning(&scan, "blank"));
}

#[tokio::test]
async fn a_leftover_gpt_does_not_hide_the_boot_record() {
    let mut disk = Disk::new(512);
    Gpt::primary(&[(2048, 4095)]).write(&mut disk);
    disk.mbr_entry(0, 1, 0x83, 5000, 1000);
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p1", 5000 * 512..6000 * 512)]);
    assert!(has_warning(&scan, "leftover"));
}

#[tokio::test]
async fn a_hybrid_record_gives_way_to_its_gpt() {
    let mut disk = gpt_disk(512, &Gpt::primary(&[(2048, 4095)]));
    disk.mbr_entry(0, 2, 0x83, 2048, 2048);
    let scan = disk.scan().await;
    assert_eq!((scan.table, scan.volumes.len()), (Table::Gpt, 1));
}

#[tokio::test]
async fn partitions_past_the_end_are_listed_and_readable_as_far_as_the_device_goes() {
    let gpt = Gpt::primary(&[(2048, SECTORS + 5), (SECTORS + 7, SECTORS + 8), (1, u64::MAX)]);
    let scan = gpt_disk(512, &gpt).scan().await;
    assert_eq!(scan.volumes.len(), 3);
    for name in ["p1 ends", "p2 ends", "p3 ends"] {
        assert!(has_warning(&scan, name));
    }
    assert_eq!(scan.volumes[0].source.len(), (SECTORS - 2048) * 512);
    let error = scan.volumes[0].source.read_at((SECTORS - 2048) * 512, 1).await.unwrap_err();
    assert!(error.to_string().starts_with("p1: "), "{error}");
    assert_eq!(scan.volumes[1].source.len(), 0);
}

#[tokio::test]
async fn a_partition_that_runs_backwards_is_empty() {
    let scan = gpt_disk(512, &Gpt::primary(&[(4000, 3000)])).scan().await;
    assert_eq!(ranges(&scan), [("p1", 4000 * 512..4000 * 512)]);
}

#[tokio::test]
async fn overlapping_partitions_are_told() {
    let scan = gpt_disk(512, &Gpt::primary(&[(2000, 3000), (3000, 4000)])).scan().await;
    assert!(has_warning(&scan, "p1 and p2 overlap"));
}

#[tokio::test]
async fn primary_and_logical_partitions_are_numbered_as_the_kernel_does() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x83, 100, 50);
    disk.mbr_entry(0, 3, 0x05, 1000, 5000);
    disk.mbr_entry(0, 4, 0x82, 200, 50);
    // The chain runs out of order: 1000, 3000, 2000.
    disk.mbr_entry(1000, 1, 0x83, 10, 100);
    disk.mbr_entry(1000, 2, 0x05, 2000, 500);
    disk.mbr_entry(3000, 1, 0x8e, 20, 100);
    disk.mbr_entry(3000, 2, 0x05, 1000, 500);
    disk.mbr_entry(2000, 1, 0x83, 30, 100);
    disk.ext_at(2030);
    let scan = disk.scan().await;
    assert_eq!(scan.table, Table::Mbr);
    let found: Vec<_> = ranges(&scan)
        .into_iter()
        .map(|(name, range)| (name, range.start / 512, range.end / 512))
        .collect();
    assert_eq!(
        found,
        [
            ("p1", 100, 150),
            ("p4", 200, 250),
            ("p5", 1010, 1110),
            ("p6", 3020, 3120),
            ("p7", 2030, 2130)
        ]
    );
    assert_eq!(scan.volumes[3].partition_type, "0x8e Linux LVM");
    assert_eq!(scan.volumes[4].content, Content::Ext);
    assert_eq!(scan.warnings, [""; 0]);
}

#[tokio::test]
async fn a_chain_that_runs_in_a_circle_ends() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x0f, 1000, 5000);
    disk.mbr_entry(1000, 1, 0x83, 10, 100);
    disk.mbr_entry(1000, 2, 0x05, 1000, 500);
    disk.mbr_entry(2000, 1, 0x83, 10, 100);
    disk.mbr_entry(2000, 2, 0x05, 1000, 500);
    let scan = disk.scan().await;
    assert_eq!(scan.volumes.len(), 2);
    assert!(has_warning(&scan, "in a circle"));
}

#[tokio::test]
async fn a_chain_without_end_is_cut() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x05, 1000, 15_000);
    for i in 0..1000_u32 {
        disk.mbr_entry(1000 + u64::from(i) * 10, 1, 0x83, 1, 5);
        disk.mbr_entry(1000 + u64::from(i) * 10, 2, 0x05, (i + 1) * 10, 10);
    }
    let scan = disk.scan().await;
    assert_eq!(scan.volumes.len(), 128);
    assert!(!scan.warnings.is_empty());
}

#[tokio::test]
async fn a_chain_into_nowhere_ends_with_a_warning() {
    for link in [u32::MAX, 15_000] {
        let mut disk = Disk::new(512);
        disk.mbr_entry(0, 1, 0x05, 5000, u32::MAX);
        disk.mbr_entry(5000, 1, 0x83, u32::MAX, u32::MAX);
        disk.mbr_entry(5000, 2, 0x05, link, u32::MAX);
        let scan = disk.scan().await;
        assert_eq!(scan.volumes.len(), 1);
        assert_eq!(scan.volumes[0].source.len(), 0);
        assert!(has_warning(&scan, "those after it are left out"), "{:?}", scan.warnings);
    }
}

#[tokio::test]
async fn garbage_in_the_third_entry_of_a_logical_record_is_passed_over() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x05, 1000, 1000);
    disk.mbr_entry(1000, 1, 0x83, 10, 100);
    disk.mbr_entry(1000, 3, 0x83, 9000, 100);
    let scan = disk.scan().await;
    assert_eq!(scan.volumes.len(), 1);
}

#[tokio::test]
async fn an_unreadable_record_ends_the_chain_with_a_warning() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x05, 1000, 1000);
    disk.mbr_entry(0, 2, 0x83, 4000, 1000);
    disk.unreadable = 1000 * 512..1001 * 512;
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("p2", 4000 * 512..5000 * 512)]);
    assert!(has_warning(&scan, "cannot be read"));
}

#[tokio::test]
async fn a_partition_whose_start_cannot_be_read_is_listed() {
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x83, 4000, 1000);
    disk.unreadable = 4000 * 512..4001 * 512;
    let scan = disk.scan().await;
    assert_eq!((scan.volumes.len(), scan.volumes[0].content), (1, Content::Unknown));
    assert!(has_warning(&scan, "p1: unrecovered read error"));
}

#[tokio::test]
async fn a_file_system_on_the_whole_disk_is_not_taken_for_a_table() {
    // Boot code where a table would be, with the signature of a boot record.
    let mut disk = Disk::new(512);
    disk.put(0, 440, &[0xeb; 70]);
    disk.put(0, 510, &[0x55, 0xaa]);
    disk.ext_at(0);
    let scan = disk.scan().await;
    assert_eq!((scan.table, scan.volumes[0].content), (Table::None, Content::Ext));

    // A table whose entries begin past the end of the device.
    let mut disk = Disk::new(512);
    disk.mbr_entry(0, 1, 0x83, 1 << 30, 1 << 30);
    disk.ext_at(0);
    let scan = disk.scan().await;
    assert_eq!((scan.table, scan.volumes[0].content), (Table::None, Content::Ext));

    // A signature over an empty table.
    let mut disk = Disk::new(512);
    disk.put(0, 510, &[0x55, 0xaa]);
    disk.ext_at(0);
    let scan = disk.scan().await;
    assert_eq!(ranges(&scan), [("whole", 0..SECTORS * 512)]);
    assert_eq!(scan.warnings, [""; 0]);
}

#[tokio::test]
async fn devices_of_any_length_are_scanned() {
    for len in [0, 1, 511, 512, 513, 1024, 5000, 100_000] {
        let disk = Disk { bytes: vec![0; len], sector: 512, unreadable: 0..0 };
        let scan = disk.scan().await;
        assert_eq!(ranges(&scan), [("whole", 0..len as u64)]);
    }
}

proptest::proptest! {
    /// Nothing that a table may hold leads to more than warnings.
    #[test]
    fn no_bytes_make_a_scan_fail(
        noise in proptest::collection::vec((0..1200_usize, proptest::prelude::any::<u8>()), 0..60),
        protective in proptest::prelude::any::<bool>(),
    ) {
        let mut disk = if protective {
            gpt_disk(512, &Gpt::primary(&[(2048, 4095)]))
        } else {
            let mut disk = Disk::new(512);
            disk.mbr_entry(0, 1, 0x05, 2, 1000);
            disk.mbr_entry(0, 2, 0x83, 500, 1000);
            disk
        };
        for (at, byte) in noise {
            disk.bytes[at] = byte;
        }
        disk.put(0, 510, &[0x55, 0xaa]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let scan = runtime.block_on(disk.scan());
        proptest::prop_assert!(!scan.volumes.is_empty());
    }
}
