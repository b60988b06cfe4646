//! Dialogues with a running server, spoken by a client that knows nothing but PDUs.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::chap::{self, ChapAlgorithm};
use crate::keys::Keys;
use crate::wire::{self, Digests, Encoded, Mangle, NO_TAG, Pdu, request, response};
use crate::{
    AsyncMessage, Chap, Close, Config, DigestSupport, Disk, Fault, Lun, On, Residual, Rule, Sense,
    Server, Target,
};

const IQN: &str = "iqn.2026-01.test:a";
const CRC: Digests = Digests { header: true, data: true };

struct Client {
    stream: TcpStream,
    digests: Digests,
    cmd_sn: u32,
    exp_stat_sn: u32,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.portal()).await.unwrap();
        Self { stream, digests: Digests::default(), cmd_sn: 77, exp_stat_sn: 0 }
    }

    async fn send(&mut self, mut pdu: Pdu) {
        pdu.set_u32(24, self.cmd_sn);
        pdu.set_u32(28, self.exp_stat_sn);
        if !pdu.immediate() {
            self.cmd_sn += 1;
        }
        let Encoded { head, data, tail } = wire::encode(pdu, self.digests, &Mangle::default());
        self.stream.write_all(&[&head[..], &data[..], &tail[..]].concat()).await.unwrap();
    }

    /// The next PDU; `None` where the connection ended, in whatever way.
    async fn receive(&mut self) -> Option<Pdu> {
        let pdu = wire::read_pdu(&mut self.stream, self.digests);
        let pdu = tokio::time::timeout(Duration::from_secs(10), pdu).await.expect("an answer");
        let pdu = pdu.ok().flatten()?;
        let has_status = pdu.opcode() != response::DATA_IN || pdu.bhs[1] & 1 != 0;
        if has_status && pdu.itt() != NO_TAG {
            self.exp_stat_sn = pdu.u32_at(24) + 1;
        }
        Some(pdu)
    }

    async fn login_request(&mut self, flags: u8, text: &str) -> Option<Pdu> {
        let pdu = Pdu::new(request::LOGIN | 0x40, flags)
            .with_bytes(8, &[0x80, 1, 2, 3, 0, 0])
            .with_data(text.replace(' ', "\0").into_bytes());
        self.send(pdu).await;
        self.receive().await
    }

    /// Straight to the full-feature phase.
    async fn login(server: &Server, more: &str) -> Self {
        let mut client = Self::connect(server).await;
        let text = format!("InitiatorName=iqn.i TargetName={IQN} {more}");
        let reply = client.login_request(0x87, &text).await.unwrap();
        assert_eq!((reply.bhs[1], &reply.bhs[36..38]), (0x87, &[0, 0][..]));
        client
    }

    async fn command(&mut self, itt: u32, cdb: &[u8], length: u32) {
        let pdu = Pdu::new(request::SCSI_COMMAND, if length > 0 { 0xc0 } else { 0x80 })
            .with_bytes(9, &[1])
            .with_u32(16, itt)
            .with_u32(20, length)
            .with_bytes(32, cdb);
        self.send(pdu).await;
    }

    /// READ(10) of blocks of 512 bytes.
    async fn read(&mut self, itt: u32, lba: u8, blocks: u8) {
        let cdb = [0x28, 0, 0, 0, 0, lba, 0, 0, blocks, 0];
        self.command(itt, &cdb, u32::from(blocks) * 512).await;
    }
}

fn config() -> Config {
    let lun = Lun::new(1, "serial", Disk::pattern(1 << 20, 3));
    let targets = vec![Target::new(IQN).alias("a-disk").lun(lun)];
    Config { targets, power_on_attention: false, forgiving: true, ..Config::default() }
}

#[tokio::test]
async fn a_read_arrives_whole_with_and_without_digests() {
    let server = Server::start(config()).await.unwrap();
    for digest in ["None", "CRC32C"] {
        let more =
            format!("HeaderDigest={digest} DataDigest={digest} MaxRecvDataSegmentLength=1024 ");
        let mut client = Client::login(&server, &more).await;
        client.digests = if digest == "None" { Digests::default() } else { CRC };
        client.read(5, 2, 4).await;
        let (first, second) = (client.receive().await.unwrap(), client.receive().await.unwrap());
        let data = [&first.data[..], &second.data[..]].concat();
        assert_eq!(data, Disk::pattern(1 << 20, 3).read(1024, 2048).unwrap());
        assert_eq!((first.itt(), second.bhs[1]), (5, 0x81));
    }
    let stats = server.stats();
    assert_eq!((stats.reads(), stats.bytes_read), (2, 4096));
    assert_eq!(stats.violations, Vec::<String>::new());
}

#[tokio::test]
async fn login_keys_get_their_results() {
    let server = Server::start(config()).await.unwrap();
    let mut client = Client::connect(&server).await;
    let text = format!(
        "InitiatorName=iqn.i TargetName={IQN} HeaderDigest=CRC32C,None MaxBurstLength=16777215 \
         FirstBurstLength=512 DefaultTime2Wait=5 ErrorRecoveryLevel=2 InitialR2T=No X-com.x=1 "
    )
    .replace("          ", "");
    let reply = client.login_request(0x87, &text).await.unwrap();
    let keys = Keys::parse(&reply.data).unwrap();
    for (key, value) in [
        ("TargetAlias", "a-disk"),
        ("TargetPortalGroupTag", "1"),
        ("HeaderDigest", "CRC32C"),
        ("MaxBurstLength", "1048576"),
        ("FirstBurstLength", "512"),
        ("DefaultTime2Wait", "5"),
        ("ErrorRecoveryLevel", "0"),
        ("InitialR2T", "Yes"),
        ("X-com.x", "NotUnderstood"),
    ] {
        assert_eq!(keys.get(key), Some(value), "{key}");
    }
    assert_eq!(reply.bhs[14..16], [0, 1]);
}

#[tokio::test]
async fn login_text_may_come_and_go_in_pieces() {
    let server = Server::start(config()).await.unwrap();
    server.inject(Rule::new(On::Login, Fault::Pieces(10)).always());
    let mut client = Client::connect(&server).await;
    let halves = ("InitiatorName=iqn.i Targ", format!("etName={IQN} "));
    let reply = client.login_request(0x44, halves.0).await.unwrap();
    assert_eq!((reply.bhs[1], reply.data.len()), (0x04, 0));
    let mut reply = client.login_request(0x87, &halves.1).await.unwrap();
    let mut text = reply.data.to_vec();
    while reply.bhs[1] == 0x44 {
        reply = client.login_request(0x87, "").await.unwrap();
        text.extend_from_slice(&reply.data);
    }
    assert_eq!(reply.bhs[1], 0x87);
    assert_eq!(Keys::parse(&text).unwrap().get("TargetAlias"), Some("a-disk"));
    assert_eq!(server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn chap_lets_in_who_knows_the_secret_and_proves_the_target() {
    let chap = Chap::new("alice", "secretsecret12").mutual("tgt", "targetsecret12");
    let targets = vec![Target::new(IQN).chap(chap)];
    let server = Server::start(Config { targets, ..config() }).await.unwrap();
    for (secret, status) in [("secretsecret12", [0, 0]), ("wrong", [2, 1])] {
        let mut client = Client::connect(&server).await;
        let names = format!("InitiatorName=iqn.i TargetName={IQN} AuthMethod=CHAP,None ");
        let reply = client.login_request(0, &names).await.unwrap();
        assert_eq!(Keys::parse(&reply.data).unwrap().get("AuthMethod"), Some("CHAP"));
        let reply = client.login_request(0, "CHAP_A=9,5 ").await.unwrap();
        let keys = Keys::parse(&reply.data).unwrap();
        let challenge = chap::read_binary(keys.get("CHAP_C").unwrap()).unwrap();
        let id = keys.get("CHAP_I").unwrap().parse().unwrap();
        let answer = ChapAlgorithm::Md5.response(id, secret, &challenge);
        let answer = chap::write_binary(chap::BinaryForm::Hex, &answer);
        let text = format!("CHAP_N=alice CHAP_R={answer} CHAP_I=7 CHAP_C=0x0102 ");
        let reply = client.login_request(0x83, &text).await.unwrap();
        assert_eq!(reply.bhs[36..38], status);
        if status == [0, 0] {
            let ours = ChapAlgorithm::Md5.response(7, "targetsecret12", &[1, 2]);
            let found = Keys::parse(&reply.data).unwrap();
            let found = chap::read_binary(found.get("CHAP_R").unwrap()).unwrap();
            assert_eq!((found, reply.bhs[1]), (ours, 0x83));
        } else {
            assert!(client.receive().await.is_none());
        }
    }
    let mut skipping = Client::connect(&server).await;
    let text = format!("InitiatorName=iqn.i TargetName={IQN} ");
    assert_eq!(skipping.login_request(0x87, &text).await.unwrap().bhs[36..38], [2, 1]);
}

#[tokio::test]
async fn logins_are_refused_and_redirected_by_status() {
    let mut hidden = config();
    hidden.targets = vec![Target::new(IQN).only_for(&["iqn.other"])];
    let server = Server::start(hidden).await.unwrap();
    let names = format!("InitiatorName=iqn.i TargetName={IQN} ");
    let mut client = Client::connect(&server).await;
    assert_eq!(client.login_request(0x87, &names).await.unwrap().bhs[36..38], [2, 3]);
    server.inject(Rule::new(On::Login, Fault::LoginStatus(3, 2)));
    let mut client = Client::connect(&server).await;
    assert_eq!(client.login_request(0x87, &names).await.unwrap().bhs[36..38], [3, 2]);
    server.inject(Rule::new(On::Login, Fault::Redirect { to: "[::1]:9".into(), permanent: true }));
    let mut client = Client::connect(&server).await;
    let reply = client.login_request(0x87, &names).await.unwrap();
    assert_eq!(reply.bhs[36..38], [1, 2]);
    assert_eq!(Keys::parse(&reply.data).unwrap().get("TargetAddress"), Some("[::1]:9"));
    let strict = Config { header_digest: DigestSupport::Require, ..config() };
    let server = Server::start(strict).await.unwrap();
    let mut client = Client::connect(&server).await;
    let text = format!("{names}HeaderDigest=None ");
    assert_eq!(client.login_request(0x87, &text).await.unwrap().bhs[36..38], [2, 0]);
}

#[tokio::test]
async fn discovery_lists_targets_with_portals_over_several_texts() {
    let mut several = config();
    several.portals = vec![([127, 0, 0, 1], 0).into(); 2];
    several.targets.push(Target::new("iqn.2026-01.test:b"));
    several.targets.push(Target::new("iqn.2026-01.test:hidden").only_for(&["iqn.other"]));
    let server = Server::start(several).await.unwrap();
    server.inject(Rule::new(On::Text, Fault::Pieces(20)).always());
    let mut client = Client::connect(&server).await;
    let text = "InitiatorName=iqn.i SessionType=Discovery ";
    assert_eq!(client.login_request(0x87, text).await.unwrap().bhs[1], 0x87);
    let ask = Pdu::new(request::TEXT, 0x80).with_u32(20, NO_TAG);
    client.send(ask.with_data(&b"SendTargets=All\0"[..])).await;
    let mut found = Vec::new();
    loop {
        let reply = client.receive().await.unwrap();
        found.extend_from_slice(&reply.data);
        if reply.bhs[1] == 0x80 {
            break;
        }
        client.send(Pdu::new(request::TEXT, 0x80).with_u32(20, reply.u32_at(20))).await;
    }
    let [p, q] = [server.portals()[0], server.portals()[1]];
    let addresses = format!("TargetAddress={p},1 TargetAddress={q},2 ");
    let all = format!("TargetName={IQN} {addresses}TargetName=iqn.2026-01.test:b {addresses}");
    assert_eq!(found, all.replace(' ', "\0").into_bytes());
    assert_eq!(server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn a_delayed_answer_holds_no_other_back_and_can_be_aborted() {
    let server = Server::start(config()).await.unwrap();
    server.inject(Rule::new(On::ReadOf(0..1), Fault::Delay(Duration::from_secs(3600))));
    let mut client = Client::login(&server, "").await;
    client.read(1, 0, 1).await;
    client.read(2, 8, 1).await;
    assert_eq!(client.receive().await.unwrap().itt(), 2);
    assert_eq!(server.stats().max_in_flight, 2);
    for expected in [0, 1] {
        let abort = Pdu::new(request::TASK_MANAGEMENT | 0x40, 0x81);
        client.send(abort.with_u32(16, 3).with_u32(20, 1)).await;
        let reply = client.receive().await.unwrap();
        assert_eq!((reply.opcode(), reply.bhs[2]), (response::TASK_MANAGEMENT, expected));
    }
}

#[tokio::test]
async fn connections_end_where_the_script_says() {
    let server = Server::start(config()).await.unwrap();
    server.inject(Rule::new(On::Read, Fault::Close(Close::Fin)));
    let mut client = Client::login(&server, "").await;
    client.read(1, 0, 1).await;
    assert!(client.receive().await.is_none());
    server.inject(Rule::new(On::Read, Fault::CloseAfter(700, Close::Reset)));
    let mut client = Client::login(&server, "MaxRecvDataSegmentLength=512 ").await;
    client.read(1, 0, 4).await;
    assert_eq!(client.receive().await.unwrap().data.len(), 512);
    assert!(client.receive().await.is_none());
}

#[tokio::test]
async fn a_frozen_window_opens_again_with_a_nop() {
    let server = Server::start(Config { queue_depth: 2, ..config() }).await.unwrap();
    server.inject(Rule::new(On::Read, Fault::FreezeWindow(Duration::from_millis(20))));
    let mut client = Client::login(&server, "").await;
    let first = client.cmd_sn;
    client.read(1, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().u32_at(32), first + 1);
    client.read(2, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().u32_at(32), first + 1);
    let nop = client.receive().await.unwrap();
    assert_eq!((nop.opcode(), nop.itt(), nop.u32_at(32)), (response::NOP_IN, NO_TAG, first + 3));
}

#[tokio::test]
async fn what_an_initiator_does_wrong_is_noted() {
    let server = Server::start(config()).await.unwrap();
    let mut client = Client::login(&server, "").await;
    client.command(1, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512).await;
    assert_eq!(client.receive().await.unwrap().data[14..16], [0x20, 0]);
    client.cmd_sn += 5;
    client.read(2, 0, 1).await;
    client.cmd_sn -= 6;
    client.exp_stat_sn += 9;
    client.read(3, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().itt(), 3);
    let stats = server.stats();
    assert_eq!(stats.forbidden, 1);
    assert_eq!(stats.opcode(0x2a), 1);
    assert_eq!(stats.violations.len(), 2, "{:?}", stats.violations);
}

#[tokio::test]
#[should_panic(expected = "1 commands were not for reading")]
async fn an_initiator_that_does_more_than_read_is_not_forgiven() {
    let server = Server::start(Config { forgiving: false, ..config() }).await.unwrap();
    let mut client = Client::login(&server, "").await;
    client.command(1, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512).await;
    client.receive().await.unwrap();
}

#[tokio::test]
async fn statuses_senses_attentions_and_lies() {
    let server = Server::start(config()).await.unwrap();
    let mut client = Client::login(&server, "").await;
    server.inject(Rule::new(On::Read, Fault::Status(8, None)));
    server.inject(Rule::new(On::Read, Fault::Reject(9)).after(1));
    server.inject(Rule::new(On::Read, Fault::Attention(vec![Sense::LUNS_CHANGED])).after(2));
    server.inject(Rule::new(On::Read, Fault::Short(512, Residual::Overflow(3))).after(3));
    client.read(1, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().bhs[3], 8);
    client.read(2, 0, 1).await;
    let reject = client.receive().await.unwrap();
    assert_eq!((reject.opcode(), reject.bhs[2]), (response::REJECT, 9));
    assert_eq!(reject.data.len(), 48);
    client.read(3, 0, 1).await;
    assert_eq!(client.receive().await.unwrap().data[14..16], [0x3f, 0x0e]);
    client.read(4, 0, 2).await;
    let short = client.receive().await.unwrap();
    assert_eq!((short.data.len(), short.bhs[1], short.u32_at(44)), (512, 0x85, 3));
}

#[tokio::test]
async fn events_from_outside_reach_every_session() {
    let server = Server::start(config()).await.unwrap();
    let mut client = Client::login(&server, "").await;
    server.send_async(AsyncMessage::LogoutRequest(3));
    let message = client.receive().await.unwrap();
    assert_eq!((message.opcode(), message.bhs[36], message.bhs[43]), (response::ASYNC, 1, 3));
    server.stop_portal(0, Close::Fin).await;
    assert!(client.receive().await.is_none());
    server.start_portal(0).await.unwrap();
    let mut client = Client::login(&server, "").await;
    let mut again = Client::login(&server, "").await;
    assert!(client.receive().await.is_none(), "the same ISID reinstates the session");
    again.read(1, 0, 1).await;
    assert_eq!(again.receive().await.unwrap().data.len(), 512);
    again.send(Pdu::new(request::LOGOUT | 0x40, 0x80)).await;
    assert_eq!(again.receive().await.unwrap().opcode(), response::LOGOUT);
    assert!(again.receive().await.is_none());
    assert_eq!(server.stats().logouts, 1);
}
