//! Several portals of one target, as the commands show and use them.

use std::net::{Ipv4Addr, SocketAddr};

use snapbrowse_target::{AccessState, Close, Config, Disk, Lun, Server, Target};
use tokio::runtime::Runtime;

use crate::common::{Snapbrowse, crashed_disk};

const IQN: &str = "iqn.2026-01.test:paths";

/// A target with the crashed disk behind three portals, the last of which stands by, and the URL of all of them.
fn served() -> (Runtime, Server, String) {
    let disk = crashed_disk();
    let states = [AccessState::Optimized, AccessState::Optimized, AccessState::Standby];
    let image = Disk::open(disk.path().join("dirty-ext3.img")).unwrap();
    let lun = Lun::new(1, "serial-1", image).rotation_rate(7200).access_states(states);
    let config = Config {
        portals: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3],
        targets: vec![Target::new(IQN).lun(lun)],
        ..Config::default()
    };
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(config)).unwrap();
    let portals: Vec<String> = server.portals().iter().map(ToString::to_string).collect();
    let url = format!("iscsi://{}/{IQN}/1", portals.join(","));
    (runtime, server, url)
}

#[test]
fn info_lists_the_paths_with_their_states() {
    let (runtime, server, url) = served();
    runtime.block_on(server.stop_portal(1, Close::Reset));
    let text = String::from_utf8(Snapbrowse::new().run(["info", &url])).unwrap();
    let portals = server.portals();
    for line in [
        "  medium  7200 revolutions per minute".to_owned(),
        format!("  path    {}: active/optimized", portals[0]),
        format!("  path    {}: not read: standby", portals[2]),
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} in {text}");
    }
    let dead = format!("  path    {}: not read: ", portals[1]);
    let dead = text.lines().find(|line| line.starts_with(&dead)).unwrap();
    assert!(dead.contains("connection refused"), "{dead}");

    let json = Snapbrowse::new().run(["info", "--json", &url]);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["rotation_rate"], 7200);
    let used: Vec<_> = json["paths"].as_array().unwrap().iter().map(|p| &p["in_use"]).collect();
    assert_eq!(used.len(), 3);
    assert_eq!(used.iter().filter(|used| **used == true).count(), 1, "{json}");
    let stats = runtime.block_on(server.wait_for(|stats| stats.open_connections == 0));
    assert_eq!(stats.logouts, stats.normal_sessions);

    let one = Snapbrowse::new().run(["info", "--paths=1", "--json", &url]);
    let one: serde_json::Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(one["paths"].as_array().unwrap().len(), 1);
}

#[test]
fn a_short_command_makes_one_session_and_few_requests() {
    let (_runtime, server, url) = served();
    Snapbrowse::new().run(["cat", &url, "/etc/hostname"]);
    let stats = server.stats();
    assert_eq!((stats.connections, stats.normal_sessions), (1, 1));
    // TEST UNIT READY, INQUIRY, three VPD pages, READ CAPACITY, and once more what met the unit attention.
    let opening = stats.commands.values().sum::<u64>() - stats.reads();
    assert!(opening <= 7, "{opening} commands to open it: {:?}", stats.commands);
    assert_eq!(stats.opcode(0xa3), 0, "nobody asked for access states");
}
