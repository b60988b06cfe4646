//! What the initiator puts on the wire: numbers, tags and flags, as the initiator's conformance tests ask for them.

use std::time::Duration;

use snapbrowse::iscsi::discover;
use snapbrowse_target::{Config, Disk, Fault, Lun, On, Request, Rule, Target};

use crate::rig::{IQN, Rig, right_digest, target_config};

const NOP_OUT: u8 = 0x00;
const SCSI_COMMAND: u8 = 0x01;
const TASK_MANAGEMENT: u8 = 0x02;
const TEXT: u8 = 0x04;
const LOGOUT: u8 = 0x06;
const NO_TAG: u32 = 0xffff_ffff;

/// Fields by their first byte.
const ITT: usize = 16;
const TTT: usize = 20;
const CMD_SN: usize = 24;
const EXP_STAT_SN: usize = 28;

async fn recording(config: Config) -> Rig {
    Rig::with(Config { record: true, ..config }).await
}

fn of(rig: &Rig, opcode: u8) -> Vec<Request> {
    rig.server.requests().into_iter().filter(|request| request.opcode() == opcode).collect()
}

#[tokio::test]
async fn cmd_sn_counts_what_is_not_immediate() {
    let rig = recording(target_config()).await;
    let (session, lun) = rig.open().await;
    rig.read_all(&lun).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
    let mut next = None;
    for request in rig.server.requests() {
        let found = request.field(CMD_SN);
        assert_eq!(found, next.unwrap_or(found));
        next = Some(found.wrapping_add(u32::from(!request.is_immediate())));
    }
    assert!(of(&rig, SCSI_COMMAND).iter().all(|request| !request.is_immediate()));
    let logout = of(&rig, LOGOUT);
    assert_eq!(logout.len(), 1);
    assert_eq!(logout[0].header[1], 0x80, "close the session");
}

#[tokio::test]
async fn exp_stat_sn_acknowledges_every_status() {
    let rig = recording(target_config()).await;
    let (session, lun) = rig.open().await;
    rig.read_all(&lun).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
    let commands = of(&rig, SCSI_COMMAND);
    let first = commands[0].field(EXP_STAT_SN);
    let last = of(&rig, LOGOUT)[0].field(EXP_STAT_SN);
    // One status for each command, and nothing else was sent.
    assert_eq!(usize::try_from(last.wrapping_sub(first)).unwrap(), commands.len());
    assert_eq!(rig.server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn commands_ask_for_what_their_cdb_says() {
    let rig = recording(target_config()).await;
    let (session, lun) = rig.open().await;
    rig.read_all(&lun).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
    for command in of(&rig, SCSI_COMMAND) {
        let [flags, cdb] = [command.header[1], command.header[32]];
        assert_eq!(flags & 0xa0, 0x80, "F, and never W");
        let length = command.field(20);
        assert_eq!(flags & 0x40 != 0, length > 0, "R with a length: {cdb:#x}");
        assert!(command.data.is_empty(), "no immediate data");
        if cdb == 0x88 {
            let blocks = u32::from_be_bytes(command.header[42..46].try_into().unwrap());
            assert_eq!(length, blocks * 512);
        }
    }
}

#[tokio::test]
async fn a_targets_ping_is_answered_in_kind() {
    let nop_interval = Some(Duration::from_millis(20));
    let rig = recording(Config { nop_interval, ..target_config() }).await;
    let (session, lun) = rig.open().await;
    rig.bounded(rig.server.wait_for(|stats| stats.nops >= 3)).await;
    rig.read_all(&lun).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
    for pong in of(&rig, NOP_OUT).iter().filter(|nop| nop.field(ITT) == NO_TAG) {
        assert!(pong.is_immediate());
        assert_eq!(pong.header[1], 0x80);
        assert_eq!(pong.field(TTT), 1, "the tag of the ping");
        assert_eq!(pong.header[8..16], [0; 8], "the LUN of the ping");
    }
    assert_eq!(rig.server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn a_ping_of_our_own_wants_an_answer() {
    let rig = recording(target_config()).await.timeout(Duration::from_secs(4));
    let (session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Silence).after(5));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
    let pings = of(&rig, NOP_OUT);
    assert!(!pings.is_empty(), "the silence went unnoticed");
    for ping in pings {
        assert_eq!(ping.field(TTT), NO_TAG);
        assert_ne!(ping.field(ITT), NO_TAG);
    }
}

#[tokio::test]
async fn abort_task_names_the_task() {
    let rig = recording(target_config()).await.timeout(Duration::from_secs(4));
    let (session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Silence).after(5));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
    let aborts = of(&rig, TASK_MANAGEMENT);
    assert!(!aborts.is_empty());
    let commands = of(&rig, SCSI_COMMAND);
    for abort in aborts {
        assert!(abort.is_immediate());
        assert_eq!(abort.header[1], 0x81, "ABORT TASK");
        let aborted =
            commands.iter().find(|command| command.field(ITT) == abort.field(20)).unwrap();
        assert_eq!(abort.field(32), aborted.field(CMD_SN), "RefCmdSN");
        assert_eq!(abort.header[8..16], aborted.header[8..16], "LUN");
        assert_ne!(abort.field(ITT), aborted.field(ITT));
    }
}

#[tokio::test]
async fn text_requests_follow_the_targets_tag() {
    let targets = (0..20).map(|n| Target::new(format!("iqn.2026-01.test:{n}"))).collect();
    let rig = recording(Config { targets, ..Config::default() }).await;
    rig.server.inject(Rule::new(On::Text, Fault::Pieces(300)).always());
    rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    let texts = of(&rig, TEXT);
    assert!(texts.len() > 2);
    assert_eq!(texts[0].field(TTT), NO_TAG);
    assert_eq!(&texts[0].data[..], b"SendTargets=All\0");
    assert_eq!(texts[0].header[1], 0x80, "one request, and it is complete");
    for next in &texts[1..] {
        assert_ne!(next.field(TTT), NO_TAG);
        assert_eq!(next.field(ITT), texts[0].field(ITT), "one exchange, one tag");
        assert!(next.data.is_empty());
    }
    assert_eq!(rig.server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn lun_300_is_addressed_in_the_flat_form() {
    let disk =
        |number: u16| Lun::new(number, format!("{number}"), Disk::pattern(1 << 20, number.into()));
    let targets = vec![Target::new(IQN).lun(disk(0)).lun(disk(255)).lun(disk(300))];
    let rig = recording(Config { targets, ..Config::default() }).await;
    let session = rig.login().await.unwrap();
    let luns = rig.bounded(session.luns()).await.unwrap();
    assert_eq!(luns.iter().map(|lun| lun.lun).collect::<Vec<_>>(), [0, 255, 300]);
    for (number, field) in [(0_u16, [0, 0]), (255, [0, 255]), (300, [0x41, 0x2c])] {
        let before = rig.server.requests().len();
        let lun = rig.bounded(session.open_lun(Some(u64::from(number)))).await.unwrap();
        let data =
            rig.bounded(snapbrowse::block::BlockSource::read_at(&lun, 0, 512)).await.unwrap();
        let right = Disk::pattern(1 << 20, u64::from(number)).read(0, 512).unwrap();
        assert_eq!(data.into_bytes(), right);
        let asked = rig.server.requests();
        let read =
            asked[before..].iter().find(|r| r.opcode() == SCSI_COMMAND && r.header[32] == 0x88);
        assert_eq!(read.unwrap().header[8..10], field);
    }
    rig.bounded(session.logout()).await.unwrap();
}
