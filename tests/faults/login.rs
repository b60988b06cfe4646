//! Logins that are refused, redirected, slow, or take unusual ways.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::iscsi::{ChapAlgorithm, Credentials, Session};
use snapbrowse_target as target;
use snapbrowse_target::{BinaryForm, Chap, Close, Config, DigestSupport, Fault, On, Rule, Target};

use crate::rig::{INITIATOR, IQN, Rig, right_digest, target_config};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn refusals_name_their_cause() {
    for (class, detail, words) in [
        (2, 0, "initiator error"),
        (2, 1, "authentication"),
        (2, 2, "authorization"),
        (2, 3, "not found"),
        (2, 4, "removed"),
        (2, 5, "version"),
        (2, 6, "too many connections"),
        (2, 7, "missing"),
        (2, 8, "session"),
        (2, 9, "session type"),
        (2, 10, "session does not exist"),
        (2, 11, "invalid"),
    ] {
        let rig = Rig::new().await;
        rig.server.inject(Rule::new(On::Login, Fault::LoginStatus(class, detail)).always());
        let error = rig.login().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{error}");
        let text = error.to_string();
        assert!(text.to_lowercase().contains(words), "{class:02x}{detail:02x}: {text}");
        assert!(text.contains(&format!("{class:02x}{detail:02x}")), "{text}");
        assert_eq!(rig.server.stats().connections, 1, "{class:02x}{detail:02x} was tried again");
    }
}

#[tokio::test]
async fn a_hidden_target_says_which_initiator_to_allow() {
    let mut config = target_config();
    config.targets = config.targets.into_iter().map(|t| t.only_for(&["iqn.other"])).collect();
    let rig = Rig::with(config).await;
    let error = rig.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(error.to_string().contains(INITIATOR), "{error}");
}

#[tokio::test]
async fn a_target_that_is_out_of_order_is_tried_again() {
    for detail in 0..3 {
        let rig = Rig::new().await;
        rig.server.inject(Rule::new(On::Login, Fault::LoginStatus(3, detail)).times(2));
        let session = rig.login().await.unwrap();
        rig.bounded(session.logout()).await.unwrap();
    }
    let rig = Rig::new().await.timeout(SECOND);
    rig.server.inject(Rule::new(On::Login, Fault::LoginStatus(3, 1)).always());
    let error = rig.login().await.unwrap_err();
    assert!(error.to_string().contains("unavailable"), "{error}");
}

#[tokio::test]
async fn a_login_that_is_never_answered_is_an_error_at_the_deadline() {
    for on in [On::Connect, On::Login] {
        let rig = Rig::new().await.timeout(SECOND);
        rig.server.inject(Rule::new(on, Fault::Mute).always());
        let error = rig.login().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoAnswer, "{error}");
        assert!(error.to_string().contains("no answer"), "{error}");
    }
}

#[tokio::test]
async fn a_deadline_far_away_is_one_all_the_same() {
    let rig = Rig::new().await.timeout(99 * 365 * 86400 * SECOND);
    let session = rig.login().await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_refused_names_the_portal() {
    let rig = Rig::new().await.timeout(2 * SECOND);
    rig.server.stop_portal(0, Close::Fin).await;
    let error = rig.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    let words = format!("connect {}: connection refused", rig.portals()[0]);
    assert!(error.to_string().to_lowercase().contains(&words), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_during_the_login() {
    let rig = Rig::new().await;
    rig.server.inject(Rule::new(On::Login, Fault::Close(Close::Reset)));
    let error = rig.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    // With a session at stake it is tried again.
    let (session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Close(Close::Reset)).after(3));
    rig.server.inject(Rule::new(On::Login, Fault::Close(Close::Reset)).times(2));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_at_once() {
    use tokio::io::AsyncWriteExt as _;
    let answers: [(&[u8], &str); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html></html>", "HTTP/1.1 400 Bad Request"),
        // Shorter than a PDU's header.
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH-2.0-OpenSSH_9.2p1"),
        // Begins like an asynchronous message.
        (b"220 mail ESMTP\r\n", "220 mail ESMTP"),
        (b"+OK\r\n", ""),
        // A TLS alert; and nothing that anybody knows.
        (&[0x15, 3, 3, 0, 2, 2, 40], ""),
        (&[0x00; 48], ""),
    ];
    for (answer, quoted) in answers {
        let rig = Rig::new().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
                // It waits for more, as many do.
                tokio::spawn(async move {
                    let _ = stream.readable().await;
                    std::future::pending::<()>().await;
                });
            }
        };
        let portals = [format!("127.0.0.1:{port}").parse().unwrap()];
        let asked = async {
            let login = Session::login(&portals, IQN, &rig.config).await.unwrap_err();
            let discovery = snapbrowse::iscsi::discover(&portals, &rig.config).await.unwrap_err();
            [login, discovery]
        };
        let errors = tokio::select! {
            errors = tokio::time::timeout(SECOND, asked) => errors.expect("waited for more"),
            () = serve => unreachable!(),
        };
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("127.0.0.1:{port} does not speak iSCSI")), "{text}");
            assert!(text.contains(quoted) && text.contains("3260"), "{text}");
        }
    }
}

async fn two_targets() -> (Rig, target::Server) {
    let second = target::Server::start(target_config()).await.unwrap();
    (Rig::new().await, second)
}

#[tokio::test]
async fn redirections_are_followed() {
    for permanent in [false, true] {
        let (rig, second) = two_targets().await;
        let to = second.portal().to_string();
        rig.server.inject(Rule::new(On::Login, Fault::Redirect { to, permanent }).always());
        let (session, lun) = rig.open().await;
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        // After a temporary one the next login starts at the configured portal again.
        second.close_connections(Close::Fin);
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.bounded(session.logout()).await.unwrap();
        let asked = rig.server.stats().connections;
        assert_eq!(asked, if permanent { 1 } else { 2 });
        assert_eq!(second.stats().normal_sessions, 2);
    }
}

#[tokio::test]
async fn redirections_that_go_round_in_circles_end() {
    let (rig, second) = two_targets().await;
    for (here, there) in [(&rig.server, &second), (&second, &rig.server)] {
        let to = there.portal().to_string();
        here.inject(Rule::new(On::Login, Fault::Redirect { to, permanent: false }).always());
    }
    let error = rig.login().await.unwrap_err();
    assert!(error.to_string().contains("redirect"), "{error}");
    assert!(rig.server.stats().connections < 20);
}

#[tokio::test]
async fn a_redirection_to_nowhere_is_an_error() {
    for to in ["", "no-port-and-no-host:", "[::1:3260", "127.0.0.1:99999"] {
        let rig = Rig::new().await.timeout(2 * SECOND);
        let fault = Fault::Redirect { to: to.into(), permanent: false };
        rig.server.inject(Rule::new(On::Login, fault).always());
        assert!(rig.login().await.is_err(), "{to:?}");
    }
}

#[tokio::test]
async fn login_answers_in_pieces_and_with_keys_of_the_targets_own() {
    let rig = Rig::new().await;
    rig.server.inject(Rule::new(On::Login, Fault::Pieces(7)).always());
    let keys = [("X-com.example.fast", "Yes"), ("FutureKey", "17"), ("TargetAlias", "twice")];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    rig.server.inject(Rule::new(On::Login, Fault::MoreKeys(keys)));
    let (session, lun) = rig.open().await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
    assert_eq!(rig.server.stats().violations, Vec::<String>::new());
}

#[tokio::test]
async fn a_target_that_needs_another_round() {
    let rig = Rig::new().await;
    rig.server.inject(Rule::new(On::Login, Fault::NoTransit).times(3));
    let session = rig.login().await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
    assert_eq!(rig.server.stats().violations, Vec::<String>::new());
    let rig = Rig::new().await.timeout(3 * SECOND);
    rig.server.inject(Rule::new(On::Login, Fault::NoTransit).always());
    assert!(rig.login().await.is_err(), "a login without end");
}

async fn chap_login(rig: &Rig) -> snapbrowse::Result<()> {
    let session = rig.login().await?;
    rig.bounded(session.logout()).await
}

async fn chap_rig(chap: Chap) -> Rig {
    let mut rig =
        Rig::with(Config { targets: vec![Target::new(IQN).chap(chap)], ..Config::default() }).await;
    rig.config.credentials = Some(Credentials::new("alice", "secretsecret12"));
    rig
}

#[tokio::test]
async fn chap_with_every_algorithm_form_and_length() {
    use target::ChapAlgorithm as Theirs;
    for (ours, theirs) in [
        (ChapAlgorithm::Md5, Theirs::Md5),
        (ChapAlgorithm::Sha1, Theirs::Sha1),
        (ChapAlgorithm::Sha256, Theirs::Sha256),
        (ChapAlgorithm::Sha3_256, Theirs::Sha3_256),
    ] {
        for (form, challenge_length) in [
            (BinaryForm::Hex, 16),
            (BinaryForm::Base64, 16),
            (BinaryForm::Hex, 1024),
            (BinaryForm::Base64, 1),
        ] {
            let algorithms = vec![theirs];
            let chap = Chap::new("alice", "secretsecret12").mutual("tgt", "targetsecret12");
            let chap = Chap { algorithms, form, challenge_length, ..chap };
            let mut rig = chap_rig(chap).await;
            chap_login(&rig).await.unwrap();
            rig.config.chap_algorithms = vec![ours];
            rig.config.target_credentials = Some(Credentials::new("tgt", "targetsecret12"));
            chap_login(&rig).await.unwrap();
            assert_eq!(rig.server.stats().violations, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn wrong_secrets_are_refused_on_both_sides_and_never_shown() {
    let chap = || Chap::new("alice", "secretsecret12").mutual("tgt", "targetsecret12");
    let mut rig = chap_rig(chap()).await;
    rig.config.credentials = Some(Credentials::new("alice", "wrongsecret-12"));
    let error = chap_login(&rig).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(!error.to_string().contains("wrongsecret"), "{error}");
    assert_eq!(rig.server.stats().connections, 1, "a wrong secret locks accounts: one try");

    let mut rig = chap_rig(chap()).await;
    rig.config.target_credentials = Some(Credentials::new("tgt", "anothersecret12"));
    let error = chap_login(&rig).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert_eq!(rig.server.stats().normal_sessions, 0);
    assert!(rig.log().iter().all(|line| !line.contains("secretsecret")), "{:#?}", rig.log());

    let mut rig = chap_rig(chap()).await;
    rig.config.credentials = None;
    assert_eq!(chap_login(&rig).await.unwrap_err().kind(), ErrorKind::Login);
}

#[tokio::test]
async fn a_target_that_cannot_prove_itself_is_refused() {
    let mut rig = chap_rig(Chap::new("alice", "secretsecret12")).await;
    rig.config.target_credentials = Some(Credentials::new("tgt", "targetsecret12"));
    assert_eq!(chap_login(&rig).await.unwrap_err().kind(), ErrorKind::Login);
    // Nor is one that does not ask for CHAP at all.
    let mut rig = Rig::new().await;
    rig.config.credentials = Some(Credentials::new("alice", "secretsecret12"));
    rig.config.target_credentials = Some(Credentials::new("tgt", "targetsecret12"));
    assert_eq!(chap_login(&rig).await.unwrap_err().kind(), ErrorKind::Login);
    assert_eq!(rig.server.stats().normal_sessions, 0);
}

#[tokio::test]
async fn digests_that_both_sides_cannot_agree_on() {
    let config = Config { header_digest: DigestSupport::None, ..target_config() };
    let mut rig = Rig::with(config).await;
    rig.config.header_digest = snapbrowse::iscsi::DigestPolicy::Require;
    let error = rig.login().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login, "{error}");
}

#[tokio::test]
async fn two_readers_with_one_name_do_not_push_each_other_out() {
    let rig = Rig::new().await;
    let (first, lun) = rig.open().await;
    let (second, other) = rig.open().await;
    let (a, b) = tokio::join!(rig.read_all(&lun), rig.read_all(&other));
    assert_eq!((a.unwrap(), b.unwrap()), (right_digest(), right_digest()));
    assert_eq!(rig.server.stats().normal_sessions, 2, "one session reinstated the other away");
    rig.bounded(first.logout()).await.unwrap();
    rig.bounded(second.logout()).await.unwrap();
}

#[tokio::test]
async fn the_second_portal_serves_where_the_first_is_down() {
    let config = Config { portals: vec![([127, 0, 0, 1], 0).into(); 2], ..target_config() };
    let rig = Rig::with(config).await;
    rig.server.stop_portal(0, Close::Fin).await;
    let portals = rig.portals();
    let login = Session::login(&portals, IQN, &rig.config);
    let session = rig.bounded(login).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
}
