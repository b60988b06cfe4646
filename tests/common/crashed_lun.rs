//! A target on loopback that serves the crashed disk.

use std::time::Duration;

use snapbrowse_target::{Close, Config, Disk, Lun, Server, Stats, Target};
use tokio::runtime::Runtime;

use super::crashed_disk;

/// A scriptable target with the crashed ext3 disk as LUN 1.
pub struct CrashedLun {
    pub server: Server,
    runtime: Runtime,
    _disk: tempfile::TempDir,
}

impl CrashedLun {
    const IQN: &'static str = "iqn.2026-01.test:fuse";

    pub fn new() -> Self {
        let disk = crashed_disk();
        let image = Disk::open(disk.path().join("dirty-ext3.img")).unwrap();
        let target = Target::new(Self::IQN).lun(Lun::new(1, "serial-1", image));
        let config = Config { targets: vec![target], ..Config::default() };
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::start(config)).unwrap();
        Self { server, runtime, _disk: disk }
    }

    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/1", self.server.portal(), Self::IQN)
    }

    /// The target is gone, as if its machine had been switched off and on again.
    pub fn vanish(&self) {
        self.runtime.block_on(self.server.stop_portal(0, Close::Reset));
    }

    /// Waits until every session that began has been logged out of, and its connection closed.
    pub fn wait_until_logged_out(&self) {
        let over = |stats: &Stats| {
            stats.logouts == stats.normal_sessions + stats.discovery_sessions
                && stats.open_connections == 0
        };
        let stats = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.server.wait_for(over)).await
        });
        assert!(stats.is_ok(), "not logged out: {:?}", self.server.stats());
    }
}
