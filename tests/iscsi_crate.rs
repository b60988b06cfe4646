//! The initiator against the crate `iscsi-target`: a third implementation of the protocol, by other people.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{free_port, pattern};
use iscsi_target::{
    AuthConfig, ChapCredentials, IscsiError, IscsiTarget, ScsiBlockDevice, ScsiResult,
};
use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Config, Credentials, DigestPolicy, Portal, Session, discover};

const IQN: &str = "iqn.2026-01.test.crate:disk";
/// Not a multiple of the longest READ.
const SIZE: usize = (2 << 20) + (12 << 10);

/// A disk in memory.
struct Memory {
    contents: Vec<u8>,
    block_size: u32,
}

impl ScsiBlockDevice for Memory {
    fn read(&self, lba: u64, blocks: u32, block_size: u32) -> ScsiResult<Vec<u8>> {
        let start = lba * u64::from(block_size);
        let end = start + u64::from(blocks) * u64::from(block_size);
        let bytes = self.contents.get(start as usize..end as usize);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| IscsiError::Scsi("past the end".into()))
    }

    fn write(&mut self, _: u64, _: &[u8], _: u32) -> ScsiResult<()> {
        Err(IscsiError::Scsi("nobody writes here".into()))
    }

    fn capacity(&self) -> u64 {
        self.contents.len() as u64 / u64::from(self.block_size)
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }
}

/// A running target with one LUN 0; stopped on drop.
struct Server {
    address: SocketAddr,
    target: Arc<IscsiTarget<Memory>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(contents: &[u8], block_size: u32, auth: AuthConfig) -> Self {
        let address = free_port("127.0.0.1:0".parse().unwrap());
        let disk = Memory { contents: contents.to_vec(), block_size };
        let target = IscsiTarget::builder()
            .bind_addr(&address.to_string())
            .target_name(IQN)
            .with_auth(auth)
            .build(disk)
            .unwrap();
        let target = Arc::new(target);
        let running = Arc::clone(&target);
        let thread = std::thread::spawn(move || running.run().unwrap());
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end && !thread.is_finished(), "the target did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, target, thread: Some(thread) }
    }

    fn portals(&self) -> Vec<Portal> {
        vec![self.address.to_string().parse().unwrap()]
    }

    async fn log_in(&self, config: &Config) -> snapbrowse::Result<Session> {
        Session::login(&self.portals(), IQN, config).await
    }

    /// Reads the whole disk through a session and compares.
    async fn reads_everything(&self, config: &Config, contents: &[u8]) {
        let session = self.log_in(config).await.unwrap();
        let lun = session.open_lun(None).await.unwrap();
        assert!(lun.read_at(0, contents.len()).await.unwrap().into_bytes() == contents);
        session.logout().await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.target.stop();
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the target panicked");
    }
}

fn config() -> Config {
    Config::new("iqn.2026-01.test:initiator")
}

#[tokio::test]
async fn discovers_lists_and_reads() {
    let contents = pattern(SIZE, 21);
    for block_size in [512, 4096] {
        let server = Server::start(&contents, block_size, AuthConfig::None);
        let found = discover(&server.portals(), &config()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, IQN);
        let session = server.log_in(&config()).await.unwrap();
        let luns = session.luns().await.unwrap();
        assert_eq!((luns.len(), luns[0].lun, luns[0].is_disk), (1, 0, true));
        assert_eq!((luns[0].capacity, luns[0].block_size), (Some(SIZE as u64), Some(block_size)));
        assert!(luns[0].product.contains("Virtual Disk"), "{}", luns[0].product);
        session.logout().await.unwrap();
        server.reads_everything(&config(), &contents).await;
    }
}

#[tokio::test]
async fn digests_on_header_data_and_both() {
    let contents = pattern(SIZE, 22);
    let server = Server::start(&contents, 512, AuthConfig::None);
    for (header, data) in [(true, false), (false, true), (true, true)] {
        let policy = |wanted| if wanted { DigestPolicy::Require } else { DigestPolicy::None };
        let mut config = config();
        config.header_digest = policy(header);
        config.data_digest = policy(data);
        server.reads_everything(&config, &contents).await;
    }
}

#[tokio::test]
async fn proves_itself_one_way_and_both_ways() {
    let contents = pattern(SIZE, 23);
    let mut one_way = config();
    one_way.credentials = Some(Credentials::new("alice", "secretsecret12"));
    let mut both_ways = one_way.clone();
    both_ways.target_credentials = Some(Credentials::new("tgtuser", "targetsecret12"));

    let alice = ChapCredentials::new("alice", "secretsecret12");
    let auth = AuthConfig::Chap { credentials: alice.clone() };
    let server = Server::start(&contents, 512, auth);
    server.reads_everything(&one_way, &contents).await;
    let mut wrong = config();
    wrong.credentials = Some(Credentials::new("alice", "wrongwrong12"));
    for refused in [&wrong, &config()] {
        let error = server.log_in(refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{error}");
    }

    let auth = AuthConfig::MutualChap {
        target_credentials: alice,
        initiator_credentials: ChapCredentials::new("tgtuser", "targetsecret12"),
    };
    let server = Server::start(&contents, 512, auth);
    server.reads_everything(&both_ways, &contents).await;
    both_ways.target_credentials = Some(Credentials::new("tgtuser", "othersecret12"));
    let error = server.log_in(&both_ways).await.unwrap_err();
    assert!(error.to_string().contains("mutual CHAP"), "{error}");
}
