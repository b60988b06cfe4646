//! `snapbrowse discover`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::block::BlockSource;
use crate::error::{Error, Result};
use crate::iscsi::{self, IscsiUrl, LunInfo, Portal};

use super::context::Context;
use super::exit::Exit;
use super::info::{DeviceInfo, VolumeInfo};
use super::output::{Output, printable};
use super::tally::Tally;
use super::units::show_size;

/// List the targets of a portal, and the initiator name that the SAN's access lists must allow
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse discover iscsi://san1
  snapbrowse discover --luns iscsi://192.0.2.1:3260
  snapbrowse discover --luns --user backup --password-file ~/.san-secret 'iscsi://[2001:db8::1]'")]
pub(crate) struct Args {
    /// Log in to each target too, and list its LUNs and volumes
    #[arg(long)]
    luns: bool,
    /// iscsi://HOST[:PORT]; without one, the portals of the configuration
    #[arg(value_name = "PORTAL")]
    portals: Vec<super::args::SourceArg>,
}

#[derive(Serialize)]
struct Found {
    initiator: String,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    name: String,
    portals: Vec<TargetPortal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    luns: Option<Vec<FoundLun>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How to log in to it: the portal that told us.
    #[serde(skip)]
    url: IscsiUrl,
}

#[derive(Serialize)]
struct TargetPortal {
    address: String,
    group: u16,
    #[serde(skip)]
    portal: Portal,
}

#[derive(Serialize)]
struct FoundLun {
    lun: u64,
    disk: bool,
    product: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
    volumes: Vec<VolumeInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    let urls = context.settings.portals(&args.portals)?;
    let mut tally = Tally::default();
    let mut found = Found { initiator: String::new(), targets: Vec::new() };
    for url in urls {
        let config = context.settings.login(&url)?;
        found.initiator.clone_from(&config.initiator);
        match iscsi::discover(&url.portals, &config).await {
            Ok(records) => {
                tally.done();
                if records.is_empty() {
                    tracing::warn!(
                        "{}: no target is shown to this initiator (allow {} on the SAN)",
                        super::source::portals(&url),
                        config.initiator
                    );
                }
                add(&mut found.targets, &url, records);
            }
            Err(error) => tally.failed(&error),
        }
    }
    if args.luns {
        for target in &mut found.targets {
            match luns(context, target, &mut tally).await {
                Ok(luns) => {
                    target.luns = Some(luns);
                    tally.done();
                }
                Err(error) => {
                    let error = error.about(&target.name);
                    target.error = Some(error.to_string());
                    tally.failed(&error);
                }
            }
        }
    }
    let mut out = Output::new();
    if context.settings.json {
        out.json_document(&found)?;
    } else {
        show(&mut out, &found)?;
    }
    out.flush()?;
    Ok(tally.exit())
}

/// Joins what several portals say of one target.
fn add(targets: &mut Vec<Target>, url: &IscsiUrl, records: Vec<iscsi::TargetRecord>) {
    let mut known: BTreeMap<String, usize> =
        targets.iter().enumerate().map(|(index, target)| (target.name.clone(), index)).collect();
    for record in records {
        let index = *known.entry(record.name.clone()).or_insert_with(|| {
            let url = IscsiUrl { target: Some(record.name.clone()), ..url.clone() };
            targets.push(Target {
                name: record.name,
                portals: Vec::new(),
                luns: None,
                error: None,
                url,
            });
            targets.len() - 1
        });
        let portals = &mut targets[index].portals;
        for (portal, group) in record.portals {
            if portals.iter().all(|known| known.portal != portal) {
                portals.push(TargetPortal { address: portal.to_string(), group, portal });
            }
        }
    }
}

async fn luns(context: &Context, target: &Target, tally: &mut Tally) -> Result<Vec<FoundLun>> {
    let listed =
        target.portals.iter().map(|listed| (listed.portal.clone(), listed.group)).collect();
    let record = iscsi::TargetRecord { name: target.name.clone(), portals: listed };
    let portals = record.ways(&target.url.portals);
    let config = context.settings.login(&target.url)?;
    let session = context.log_in(&portals, &target.name, None, &config).await?;
    let mut found = Vec::new();
    for info in session.luns().await? {
        let volumes = match info.is_disk {
            true => volumes(&session, &info).await,
            false => Ok(Vec::new()),
        };
        let (volumes, error) = match volumes {
            Ok(volumes) => (volumes, None),
            Err(error) => {
                let said = error.to_string();
                tally.failed(&error.about(&target.name));
                (Vec::new(), Some(said))
            }
        };
        found.push(FoundLun {
            lun: info.lun,
            disk: info.is_disk,
            product: info.product,
            size: info.capacity,
            block_size: info.block_size,
            volumes,
            error,
        });
    }
    // What was found is shown all the same.
    if let Err(error) = session.logout().await {
        tally.failed(&error);
    }
    Ok(found)
}

async fn volumes(session: &iscsi::Session, info: &LunInfo) -> Result<Vec<VolumeInfo>, Error> {
    let lun: Arc<dyn BlockSource> = Arc::new(session.open_lun(Some(info.lun)).await?);
    Ok(DeviceInfo::read(&format!("LUN {}", info.lun), &lun).await?.into_volumes())
}

fn show(out: &mut Output, found: &Found) -> Result<()> {
    out.line(format_args!("initiator {}", printable(found.initiator.as_bytes())))?;
    for target in &found.targets {
        out.line("")?;
        out.line(printable(target.name.as_bytes()))?;
        for portal in &target.portals {
            out.line(format_args!("  portal {} (group {})", portal.address, portal.group))?;
        }
        for lun in target.luns.iter().flatten() {
            let size = lun.size.map_or("size unknown".to_owned(), show_size);
            let kind = if lun.disk { "" } else { ", not a disk" };
            let product = printable(lun.product.as_bytes());
            out.line(format_args!("  lun {}: {size}, {product}{kind}", lun.lun))?;
            for volume in &lun.volumes {
                out.line(format_args!("    {}", volume.headline()))?;
            }
            if let Some(error) = &lun.error {
                out.line(format_args!("    error: {}", printable(error.as_bytes())))?;
            }
        }
    }
    Ok(())
}
