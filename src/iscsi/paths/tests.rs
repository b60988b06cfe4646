//! How often a session is asked for its connection while reads wait for one.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::scsi::{BlockLimits, Capacity, LunAddress, VpdList};

use super::*;
use crate::iscsi::Config;
use crate::iscsi::proto::LoginTarget;

/// A unit whose one path leads through this session.
fn paths(handle: &Handle, portal: &Portal) -> Arc<Paths> {
    let address = LunAddress::from_number(0);
    let (pages, config) = (VpdList::default(), Config::new("iqn.2026-01.test:reader"));
    let capacity = Capacity { blocks: 64, block_size: 512 };
    let facts = UnitFacts { pages: pages.clone(), identity: None, capacity };
    let limits = BlockLimits::default();
    let unit = Unit { facts, limits, long_reads: false, port: PortIds::default() };
    let found = Found { address, pages, asymmetric_access: false };
    let target = LoginTarget::Normal("iqn.2026-01.test:disk".to_owned());
    let portals = std::slice::from_ref(portal);
    let routes = Arc::new(Routes::new(target, &config, handle.clone(), portals));
    let watch = Watch::begin(handle, address);
    Arc::new(Paths::new(routes, handle.clone(), watch, found, &unit, "a unit".to_owned()))
}

fn hurries(requests: &mut UnboundedReceiver<Request>) -> usize {
    let asked = std::iter::from_fn(|| requests.try_recv().ok());
    asked.filter(|request| matches!(request, Request::Hurry)).count()
}

#[tokio::test]
async fn a_lost_session_is_not_asked_to_hurry_over_and_over() {
    let portal: Portal = "192.0.2.1:3260".parse().unwrap();
    let (handle, mut requests, state) =
        Handle::scripted(LinkState::Up(portal.clone(), "192.0.2.1:3260".parse().unwrap()));
    // As any session of which something has become already.
    state.send_replace(LinkState::Down(portal.clone()));
    let paths = paths(&handle, &portal);
    let deadline = Instant::now() + Duration::from_millis(300);
    let lost = || Error::new(ErrorKind::SessionLost, "lost");
    let reads = (0..8).map(|_| async {
        let attempt = paths.start(Cdb::TestUnitReady, 0, deadline);
        paths.wait_for_path(&attempt, lost()).await.unwrap_err().kind()
    });
    assert_eq!(join_all(reads).await, [ErrorKind::Timeout; 8]);
    let asked = hurries(&mut requests);
    assert!((1..=2).contains(&asked), "{asked} times within 300 ms");
}
