//! The SAN behind a tree of targets: discovery and logins with what the settings say.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{self, BoxFuture};

use crate::block::{BlockSource, ReadFuture, Segments};
use crate::browse::{Discovery, OpenTarget, OpenVolume, San};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Pending;
use crate::fs::ext::Ext;
use crate::hooks::Presented;
use crate::iscsi::{self, IscsiUrl, Lun, LunInfo, Portal, Session, TargetRecord};
use crate::volume::{self, Content, Volume};

use super::context::Context;
use super::units::show_size;

/// The targets of some portals.
pub(crate) struct PortalSan {
    context: Arc<Context>,
    portals: Vec<IscsiUrl>,
    /// Which of them told of each target last: by its address alone one that was asked for by name is not recognised.
    told: Mutex<HashMap<String, usize>>,
}

impl PortalSan {
    pub(crate) fn new(context: Arc<Context>, portals: Vec<IscsiUrl>) -> Self {
        Self { context, portals, told: Mutex::default() }
    }

    async fn ask(&self, url: &IscsiUrl, portal: &Portal) -> Result<Vec<TargetRecord>> {
        let config = self.context.settings.login(url)?;
        iscsi::discover(std::slice::from_ref(portal), &config).await
    }

    /// Every portal by itself, as one who tells of targets, with the place of its URL.
    fn tellers(&self) -> Vec<(usize, &IscsiUrl, &Portal)> {
        let urls = self.portals.iter().enumerate();
        urls.flat_map(|(at, url)| url.portals.iter().map(move |portal| (at, url, portal))).collect()
    }

    /// The portal that told of a target, else the first one, with the target's name.
    fn url(&self, record: &TargetRecord) -> Option<IscsiUrl> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let url = self.portals.get(told.get(&record.name).copied().unwrap_or(0))?;
        Some(IscsiUrl { target: Some(record.name.clone()), lun: None, ..url.clone() })
    }

    async fn log_in(&self, record: &TargetRecord) -> Result<OpenTarget> {
        let url =
            self.url(record).ok_or_else(|| Error::new(ErrorKind::Usage, "no portal was named"))?;
        let config = self.context.settings.login(&url)?;
        let presented =
            self.context.present(&record.name, &url.portals, None, &config).await?.map(Arc::new);
        let (session, opened) = match self.log_in_presented(record, &url, &config).await {
            Ok(session) => {
                (Some(session.clone()), self.open_all(&session, presented.clone()).await)
            }
            Err(error) => (None, Err(error)),
        };
        match opened {
            Ok(open) => {
                for note in &open.notes {
                    tracing::warn!("{}: {note}", record.name);
                }
                Ok(open)
            }
            Err(error) => {
                leave(&self.context, session.as_ref(), presented.as_deref()).await;
                Err(error)
            }
        }
    }

    /// Logs in to a target that is presented by now.
    async fn log_in_presented(
        &self,
        record: &TargetRecord,
        url: &IscsiUrl,
        config: &iscsi::Config,
    ) -> Result<Session> {
        let found = if record.portals.is_empty() {
            // Only now do the portals know it. One that stays hidden may let us in all the same.
            let found = self.ask_all().await.targets.into_iter();
            found.map(|told| told.record).find(|found| found.name == record.name)
        } else {
            None
        };
        let record = found.as_ref().unwrap_or(record);
        let reached = self.url(record);
        let url = reached.as_ref().unwrap_or(url);
        Session::login(&record.ways(&url.portals), &record.name, config).await
    }

    /// What every portal says.
    async fn ask_all(&self) -> Discovery {
        let tellers = self.tellers();
        let questions = tellers.iter().map(|(_, url, portal)| self.ask(url, portal));
        let answers = future::join_all(questions).await;
        let mut found = Discovery::default();
        let mut told = HashMap::new();
        let mut silent = Vec::new();
        for (teller, (answer, (at, ..))) in answers.into_iter().zip(tellers).enumerate() {
            match answer {
                Ok(records) => {
                    for record in records {
                        told.entry(record.name.clone()).or_insert(at);
                        found.add(teller, record);
                    }
                }
                Err(error) => {
                    silent.push(at);
                    found.failures.push((teller, error));
                }
            }
        }
        let mut before = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Who does not answer keeps the targets that nobody else tells of.
        before.retain(|_, at| silent.contains(at));
        before.extend(told);
        found
    }

    /// The targets that hooks could present, under the first portal; `None` where no hook lists them.
    async fn presentable(&self) -> Result<Option<Vec<String>>> {
        let (Some(presenter), Some(url)) = (self.context.presenter(), self.portals.first()) else {
            return Ok(None);
        };
        presenter.list(&url.portals, &self.context.settings.login(url)?).await
    }

    /// Opens every file system on every disk of a session.
    async fn open_all(
        &self,
        session: &Session,
        presented: Option<Arc<Presented>>,
    ) -> Result<OpenTarget> {
        let disks: Vec<LunInfo> =
            session.luns().await?.into_iter().filter(|info| info.is_disk).collect();
        let read = Arc::new(AtomicU64::new(0));
        let mut volumes = Vec::new();
        let mut notes = Vec::new();
        let mut luns = Vec::new();
        for info in &disks {
            let lun = format!("lun{}", info.lun);
            match self.open_disk(session, info, &read).await {
                Ok(found) => {
                    let size = show_size(found.lun.len());
                    luns.push(found.lun);
                    notes.extend(found.notes.into_iter().map(|note| format!("{lun}: {note}")));
                    volumes.extend(found.volumes.into_iter().map(|mut volume| {
                        volume.summary += &format!(", on {lun} of {size}");
                        if disks.len() > 1 {
                            volume.path.insert(0, lun.clone());
                        }
                        volume
                    }));
                }
                Err(error) => notes.push(format!("{lun}: {error}")),
            }
        }
        if let [only] = volumes.as_mut_slice() {
            only.path.clear();
        }
        if volumes.is_empty() {
            let found = if notes.is_empty() { "no disk".to_owned() } else { notes.join("; ") };
            return Err(Error::new(
                ErrorKind::NoFilesystem,
                format!("no readable file system: {found}"),
            ));
        }
        let (context, session) = (Arc::clone(&self.context), session.clone());
        Ok(OpenTarget {
            alias: session.target_alias().map(str::to_owned),
            volumes,
            notes,
            bytes_read: Box::new(move || read.load(Ordering::Relaxed)),
            paths: Box::new(move || luns.iter().flat_map(|lun| paths(lun)).collect()),
            log_out: Box::new(move || {
                let (context, session) = (Arc::clone(&context), session.clone());
                let presented = presented.clone();
                Box::pin(async move { leave(&context, Some(&session), presented.as_deref()).await })
            }),
        })
    }

    async fn open_disk(
        &self,
        session: &Session,
        info: &LunInfo,
        read: &Arc<AtomicU64>,
    ) -> Result<Disk> {
        let lun = Arc::new(session.open_lun(Some(info.lun)).await?);
        let source: Arc<dyn BlockSource> = Arc::clone(&lun) as _;
        let counted = Counted { lun: source, read: Arc::clone(read) };
        let device: Arc<dyn BlockSource> = Arc::new(self.context.cache(Arc::new(counted)));
        let scan = volume::scan(&device).await?;
        let mut disk = Disk { lun, volumes: Vec::new(), notes: scan.warnings };
        for volume in scan.volumes {
            let result = match volume.content {
                Content::Ext => self.open_volume(&device, &volume).await,
                Content::PhysicalVolume => continue,
                other => Err(Error::new(
                    ErrorKind::NoFilesystem,
                    format!("{}, not read here", super::source::content_name(other)),
                )),
            };
            match result {
                Ok((open, warnings)) => {
                    disk.volumes.push(open);
                    let named = |warning: String| format!("{}: {warning}", volume.name);
                    disk.notes.extend(warnings.into_iter().map(named));
                }
                Err(error) => disk.notes.push(format!("{}: {error}", volume.name)),
            }
        }
        Ok(disk)
    }

    async fn open_volume(
        &self,
        device: &Arc<dyn BlockSource>,
        volume: &Volume,
    ) -> Result<(OpenVolume, Vec<String>)> {
        let ext = Ext::open(Arc::clone(&volume.source), self.context.settings.ext).await?;
        let summary = ext.summary();
        let identity = ext.state().map(|state| [&device.len().to_le_bytes()[..], &state].concat());
        let journal = match (summary.journal.present, summary.journal.replayed) {
            (false, _) => "no journal",
            (true, true) => "journal replayed",
            (true, false) if summary.journal.dirty => "journal not played back",
            (true, false) => "journal clean",
        };
        let path = match volume.name.as_str() {
            "whole" => Vec::new(),
            name => name.split('/').map(str::to_owned).collect(),
        };
        let warnings = super::source::warnings(summary).cloned().collect();
        let open = OpenVolume {
            path,
            identity,
            summary: format!("{} {:?}, {journal}", summary.kind, summary.label),
            filesystem: Arc::new(ext),
        };
        Ok((open, warnings))
    }
}

struct Disk {
    lun: Arc<Lun>,
    volumes: Vec<OpenVolume>,
    notes: Vec<String>,
}

/// Logs out, and then revokes, whatever became of the logout; gives back what went wrong.
async fn leave(
    context: &Context,
    session: Option<&Session>,
    presented: Option<&Presented>,
) -> Vec<Error> {
    let mut failures = Vec::new();
    if let Some(session) = session {
        failures.extend(session.logout().await.err());
    }
    if let (Some(presenter), Some(presented)) = (context.presenter(), presented) {
        failures.extend(presenter.revoke(presented).await.err());
    }
    failures.iter().for_each(|failure| tracing::warn!("{failure}"));
    failures
}

impl San for PortalSan {
    fn discover(&self) -> BoxFuture<'_, Discovery> {
        Box::pin(async {
            let (mut found, presentable) = tokio::join!(self.ask_all(), self.presentable());
            let hook = self.tellers().len();
            found.answered = found.failures.len() < hook;
            match presentable {
                Ok(None) => {}
                Ok(Some(names)) => {
                    found.answered = true;
                    let unknown = |name| TargetRecord { name, portals: Vec::new() };
                    names.into_iter().map(unknown).for_each(|record| found.add(hook, record));
                }
                Err(error) => found.failures.push((hook, error)),
            }
            found
        })
    }

    fn open<'a>(&'a self, target: &'a TargetRecord) -> Pending<'a, OpenTarget> {
        Box::pin(self.log_in(target))
    }
}

/// The paths to a LUN for people, where there are several.
fn paths(lun: &Lun) -> Vec<String> {
    let paths = lun.paths();
    if paths.len() == 1 {
        return Vec::new();
    }
    let line = |path: iscsi::PathInfo| {
        let not = if path.in_use { "" } else { "not read: " };
        format!("lun{} through {}: {not}{}", lun.number(), path.portal, path.state)
    };
    paths.into_iter().map(line).collect()
}

/// Counts what is read from a LUN, for the status file.
struct Counted {
    lun: Arc<dyn BlockSource>,
    read: Arc<AtomicU64>,
}

impl Counted {
    async fn count(&self, answer: ReadFuture<'_>) -> Result<Segments> {
        let answer = answer.await?;
        self.read.fetch_add(answer.len() as u64, Ordering::Relaxed);
        Ok(answer)
    }
}

impl BlockSource for Counted {
    fn len(&self) -> u64 {
        self.lun.len()
    }

    fn block_size(&self) -> u32 {
        self.lun.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(self.count(self.lun.read_at(offset, len)))
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(self.count(self.lun.read_fresh(offset, len)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use snapbrowse_target::{Close, Config, Server, Target};

    use super::*;
    use crate::cli::args::GlobalArgs;
    use crate::cli::settings::Settings;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: GlobalArgs,
    }

    /// A SAN behind every portal of a server, each named by a URL of its own.
    fn san(server: &Server) -> PortalSan {
        let line = ["", "--config=/dev/null", "--initiator=iqn.2026-01.test.snapbrowse:reader"];
        let settings = Settings::resolve(Line::parse_from(line).global).unwrap();
        let urls = server.portals().iter().map(|portal| format!("iscsi://{portal}").parse());
        let urls = urls.collect::<Result<_>>().unwrap();
        PortalSan::new(Arc::new(Context::new(settings, None)), urls)
    }

    #[tokio::test]
    async fn a_target_is_logged_in_to_as_a_portal_says_that_answers() {
        let portals = vec![([127, 0, 0, 1], 0).into(); 2];
        let targets = vec![Target::new("iqn.2026-01.test.tgt:both")];
        let server = Server::start(Config { portals, targets, ..Config::default() }).await.unwrap();
        let san = san(&server);
        let chosen = async || {
            let found = san.ask_all().await;
            let record =
                TargetRecord { name: "iqn.2026-01.test.tgt:both".to_owned(), portals: Vec::new() };
            (san.url(&record).unwrap().portals[0].port, found.failures.len())
        };
        let [first, second] = [0, 1].map(|n: usize| server.portals()[n].port());
        assert_eq!(chosen().await, (first, 0));
        server.stop_portal(0, Close::Reset).await;
        assert_eq!(chosen().await, (second, 1));
        // Where nobody answers, who told of it last is known still.
        server.stop_portal(1, Close::Reset).await;
        assert_eq!(chosen().await, (second, 2));
        server.start_portal(0).await.unwrap();
        assert_eq!(chosen().await, (first, 1));
    }
}
