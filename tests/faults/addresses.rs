//! Addresses that a machine need not have: link-local ones, and names with several. The tests here run in a network of their
//! own, with names of their own, which takes root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::Command;

use snapbrowse::ErrorKind;
use snapbrowse::iscsi::{IscsiUrl, Portal, Session, discover};
use snapbrowse_target::{Close, Config, Fault, On, Rule};

use crate::needs::{Need, can_run, find_program};
use crate::rig::{IQN, Rig, right_digest, target_config};

/// Set where a test has been started again in its own network.
const INSIDE: &str = "SNAPBROWSE_TEST_OWN_NETWORK";
/// Gives the loopback device, number 1, a link-local address; the arguments are the names, and what to run.
const SET_UP: &str = r#"set -e
ip link set lo up
ip address add fe80::1/64 dev lo
mount --bind "$1" /etc/hosts
shift
exec "$@""#;
/// A name that has both addresses of the loopback device.
const NAMES: &str = "127.0.0.1 both.test\n::1 both.test\n";

/// Runs a test of this file in a network of its own, by starting this program again there.
fn in_own_network(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.unwrap().block_on(test);
    }
    if !can_run(name, &[Need::Root, Need::Program("unshare"), Need::Program("ip")]) {
        return;
    }
    let names = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(names.path(), NAMES).unwrap();
    let output = Command::new(find_program("unshare").unwrap())
        .args(["--net", "--mount", "sh", "-c", SET_UP, "sh"])
        .arg(names.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("addresses::{name}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.contains(" 1 passed"), "{}: {said}", output.status);
}

#[test]
fn link_local_addresses_keep_their_zone() {
    in_own_network("link_local_addresses_keep_their_zone", async {
        let address: Ipv6Addr = "fe80::1".parse().unwrap();
        let portals = vec![SocketAddrV6::new(address, 0, 0, 1).into()];
        let rig = Rig::with(Config { portals, ..target_config() }).await;
        let port = rig.server.portal().port();
        // The target names its address without a zone, which only this host knows.
        let keys = vec![("TargetAddress".to_owned(), format!("[{address}]:{port},3"))];
        rig.server.inject(Rule::new(On::Text, Fault::MoreKeys(keys)));
        let url: IscsiUrl = format!("iscsi://[{address}%lo]:{port}").parse().unwrap();
        let found = rig.bounded(discover(&url.portals, &rig.config)).await.unwrap();
        let named = found[0].portals.iter().find(|(_, group)| *group == 3).unwrap();
        assert_eq!(named.0, url.portals[0]);
        reads_through(&rig, &named.0).await;
        // On another interface it is another address.
        let elsewhere = [Portal { host: format!("{address}%no-such"), port }];
        let login = Session::login(&elsewhere, IQN, &rig.config);
        assert_eq!(rig.bounded(login).await.unwrap_err().kind(), ErrorKind::Connect);
    });
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    in_own_network("all_addresses_of_a_name_are_tried", async {
        let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        // Whichever comes first: nobody listens at one of them.
        for address in both {
            let portals = vec![SocketAddr::from((address, 0))];
            let rig = Rig::with(Config { portals, ..target_config() }).await;
            let portal = Portal { host: "both.test".into(), port: rig.server.portal().port() };
            reads_through(&rig, &portal).await;
            rig.server.stop_portal(0, Close::Reset).await;
            let login = Session::login(std::slice::from_ref(&portal), IQN, &rig.config);
            let error = rig.bounded(login).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connect);
            assert!(error.to_string().contains("both.test"), "{error}");
        }
    });
}

async fn reads_through(rig: &Rig, portal: &Portal) {
    let login = Session::login(std::slice::from_ref(portal), IQN, &rig.config);
    let session = rig.bounded(login).await.unwrap();
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}
