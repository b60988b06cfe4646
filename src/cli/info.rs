//! `snapbrowse info`.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::block::BlockSource;
use crate::error::Result;
use crate::fs::ext::{JournalReport, Summary};
use crate::iscsi::{Lun, PathInfo};
use crate::volume::{self, Content, Table, Volume};

use super::args::SourceArg;
use super::context::Context;
use super::exit::Exit;
use super::output::{Output, printable};
use super::source::{self, Location, content_name};
use super::tally::Tally;
use super::units::show_size;

/// A portal that does not answer is shown as such after this time.
const PATHS_LIMIT: Duration = Duration::from_secs(5);

/// Show the device, its partition table, its volumes and each file system
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse info iscsi://san1/iqn.2001-05.com.example:snap/0
  snapbrowse info --json disk.img")]
pub(crate) struct Args {
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    let location = Location::parse(&args.source)?;
    let name = location.to_string();
    let mut info = match &location {
        Location::Lun { url, target } => {
            let lun = Arc::new(source::open_lun(context, url, target).await?);
            let source: Arc<dyn BlockSource> = Arc::clone(&lun) as _;
            let device: Arc<dyn BlockSource> = Arc::new(context.cache(source));
            let (unit, info) = tokio::join!(UnitInfo::read(&lun), DeviceInfo::read(&name, &device));
            DeviceInfo { unit: Some(unit), ..info? }
        }
        Location::Image(_) => {
            let device = source::open_device(context, &location).await?;
            DeviceInfo::read(&name, &device).await?
        }
    };
    let mut tally = Tally::default();
    for (volume, scanned) in &mut info.volumes {
        let wanted = context.settings.volume.as_ref().is_none_or(|name| *name == volume.name);
        if scanned.content != Content::Ext || !wanted {
            continue;
        }
        match source::open_ext(context, scanned).await {
            Ok(ext) => {
                volume.filesystem = Some(FilesystemInfo::from(ext.summary()));
                tally.done();
            }
            Err(error) => {
                let error = error.context(format!("volume {}", volume.name));
                volume.error = Some(error.to_string());
                tally.failed(&error);
            }
        }
    }
    let mut out = Output::new();
    if context.settings.json {
        out.json_document(&info.to_json())?;
    } else {
        info.show(&mut out)?;
    }
    out.flush()?;
    Ok(tally.exit())
}

/// What is known of a device.
pub(crate) struct DeviceInfo {
    source: String,
    size: u64,
    block_size: u32,
    table: Table,
    /// What there is only of a LUN.
    unit: Option<UnitInfo>,
    warnings: Vec<String>,
    volumes: Vec<(VolumeInfo, Volume)>,
}

/// What is known of a LUN besides its blocks.
#[derive(Serialize)]
struct UnitInfo {
    /// In revolutions per minute; 0 where the medium does not rotate.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_rate: Option<u16>,
    paths: Vec<Path>,
}

#[derive(Serialize)]
struct Path {
    portal: String,
    in_use: bool,
    state: String,
}

impl UnitInfo {
    /// Opens every path, to see which ones there are; those that take too long are done without.
    async fn read(lun: &Lun) -> Self {
        let (rate, _) = tokio::join!(lun.rotation_rate(), timeout(PATHS_LIMIT, lun.open_paths()));
        let paths = lun.paths().into_iter().map(|PathInfo { portal, in_use, state }| Path {
            portal: portal.to_string(),
            in_use,
            state,
        });
        // Whoever cannot tell has no rate.
        Self { rotation_rate: rate.ok().flatten(), paths: paths.collect() }
    }

    fn show(&self, out: &mut Output) -> Result<()> {
        match self.rotation_rate {
            None => {}
            Some(0) => out.line("  medium  does not rotate")?,
            Some(rate) => out.line(format_args!("  medium  {rate} revolutions per minute"))?,
        }
        // One path that is simply there needs no line.
        if matches!(&self.paths[..], [only] if only.state == "active") {
            return Ok(());
        }
        for Path { portal, in_use, state } in &self.paths {
            let not = if *in_use { "" } else { "not read: " };
            out.line(format_args!("  path    {portal}: {not}{}", printable(state.as_bytes())))?;
        }
        Ok(())
    }
}

/// What is known of a volume.
#[derive(Serialize)]
pub(crate) struct VolumeInfo {
    name: String,
    /// Absent for a logical volume, which lies in pieces.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    partition_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    label: String,
    content: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<FilesystemInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct DeviceJson<'a> {
    source: &'a str,
    size: u64,
    block_size: u32,
    table: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    unit: Option<&'a UnitInfo>,
    warnings: &'a [String],
    volumes: Vec<&'a VolumeInfo>,
}

#[derive(Serialize)]
struct FilesystemInfo {
    #[serde(rename = "type")]
    kind: &'static str,
    label: String,
    uuid: String,
    size: u64,
    block_size: u32,
    inodes: u64,
    features: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<JournalInfo>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct JournalInfo {
    state: &'static str,
    transactions: u32,
    blocks: u64,
    revokes: u64,
    fast_commits: u32,
}

impl DeviceInfo {
    /// Reads the partition table of `device` and what each volume holds.
    pub(crate) async fn read(source: &str, device: &Arc<dyn BlockSource>) -> Result<Self> {
        let scan = volume::scan(device).await.map_err(|error| error.context(source))?;
        let describe = |volume: Volume| {
            let info = VolumeInfo {
                name: volume.name.clone(),
                offset: volume.range.as_ref().map(|range| range.start),
                size: volume.size,
                partition_type: volume.partition_type.clone(),
                label: volume.label.clone(),
                content: content_name(volume.content),
                filesystem: None,
                error: None,
            };
            (info, volume)
        };
        Ok(Self {
            source: source.to_owned(),
            size: device.len(),
            block_size: device.block_size(),
            table: scan.table,
            unit: None,
            warnings: scan.warnings,
            volumes: scan.volumes.into_iter().map(describe).collect(),
        })
    }

    /// The volumes, for a list that has room for no more.
    pub(crate) fn into_volumes(self) -> Vec<VolumeInfo> {
        self.volumes.into_iter().map(|(volume, _)| volume).collect()
    }

    fn to_json(&self) -> DeviceJson<'_> {
        DeviceJson {
            source: &self.source,
            size: self.size,
            block_size: self.block_size,
            table: match self.table {
                Table::Gpt => "gpt",
                Table::Mbr => "mbr",
                Table::None => "none",
            },
            unit: self.unit.as_ref(),
            warnings: &self.warnings,
            volumes: self.volumes.iter().map(|(volume, _)| volume).collect(),
        }
    }

    fn show(&self, out: &mut Output) -> Result<()> {
        let Self { source, size, block_size, .. } = self;
        out.line(printable(source.as_bytes()))?;
        out.line(format_args!(
            "  size    {} ({size} bytes), {block_size}-byte blocks",
            show_size(*size)
        ))?;
        out.line(match self.table {
            Table::Gpt => "  table   GPT",
            Table::Mbr => "  table   MBR",
            Table::None => "  table   none",
        })?;
        if let Some(unit) = &self.unit {
            unit.show(out)?;
        }
        for warning in &self.warnings {
            out.line(format_args!("  warning {}", printable(warning.as_bytes())))?;
        }
        for (volume, _) in &self.volumes {
            out.line("")?;
            volume.show(out)?;
        }
        Ok(())
    }
}

impl VolumeInfo {
    /// `p1: ext4, 8.0 GiB, Linux filesystem`.
    pub(crate) fn headline(&self) -> String {
        let content = self.filesystem.as_ref().map_or(self.content, |filesystem| filesystem.kind);
        let mut line = format!("{}: {content}, {}", self.name, show_size(self.size));
        for more in [&self.partition_type, &self.label] {
            if !more.is_empty() {
                line.push_str(", ");
                line.push_str(&printable(more.as_bytes()));
            }
        }
        line
    }

    fn show(&self, out: &mut Output) -> Result<()> {
        out.line(self.headline())?;
        if let Some(error) = &self.error {
            out.line(format_args!("  error    {}", printable(error.as_bytes())))?;
        }
        let Some(filesystem) = &self.filesystem else { return Ok(()) };
        let FilesystemInfo {
            label,
            uuid,
            size,
            block_size,
            inodes,
            features,
            journal,
            warnings,
            ..
        } = filesystem;
        if !label.is_empty() {
            out.line(format_args!("  label    {}", printable(label.as_bytes())))?;
        }
        out.line(format_args!("  uuid     {uuid}"))?;
        out.line(format_args!(
            "  size     {} in {block_size}-byte blocks, {inodes} inodes",
            show_size(*size)
        ))?;
        out.line(format_args!("  features {}", features.join(" ")))?;
        match journal {
            None => out.line("  journal  none")?,
            Some(journal) => out.line(format_args!("  journal  {}", journal.sentence()))?,
        }
        for warning in warnings {
            out.line(format_args!("  warning  {}", printable(warning.as_bytes())))?;
        }
        Ok(())
    }
}

impl From<&Summary> for FilesystemInfo {
    fn from(summary: &Summary) -> Self {
        Self {
            kind: summary.kind,
            label: summary.label.clone(),
            uuid: uuid::Uuid::from_bytes(summary.uuid).to_string(),
            size: summary.blocks.saturating_mul(summary.block_size.into()),
            block_size: summary.block_size,
            inodes: summary.inodes,
            features: summary.features.clone(),
            journal: summary.journal.present.then(|| JournalInfo::from(&summary.journal)),
            warnings: super::source::warnings(summary).cloned().collect(),
        }
    }
}

impl From<&JournalReport> for JournalInfo {
    fn from(report: &JournalReport) -> Self {
        Self {
            state: match (report.dirty, report.replayed) {
                (false, _) => "clean",
                (true, true) => "replayed",
                (true, false) => "ignored",
            },
            transactions: report.transactions,
            blocks: report.blocks,
            revokes: report.revokes,
            fast_commits: report.fast_commits,
        }
    }
}

impl JournalInfo {
    fn sentence(&self) -> String {
        let Self { transactions, blocks, revokes, fast_commits, .. } = self;
        match self.state {
            "clean" => "clean".to_owned(),
            "ignored" => "dirty, not played back".to_owned(),
            _ => {
                let mut sentence = format!(
                    "dirty, played back in memory: {transactions} transactions, {blocks} blocks, {revokes} revokes"
                );
                if *fast_commits > 0 {
                    sentence += &format!(", {fast_commits} fast commits");
                }
                sentence
            }
        }
    }
}
