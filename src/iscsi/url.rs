//! The URL form of libiscsi and QEMU.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

use super::{ChapSecret, DigestPolicy};

/// The port that IANA gave to iSCSI targets.
const DEFAULT_PORT: u16 = 3260;

/// A network portal: where a target listens. Port 3260 unless the URL says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Portal {
    /// A name or an address; IPv6 addresses without brackets, link-local ones with `%interface`.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Portal {
    type Err = Error;

    /// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
    ///
    /// What stands here by mistake may be part of a password, so no message repeats more than a host's name.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Usage, format!("portal: {why}"));
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| bad("the `[` is not closed"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(bad("only `:port` can follow the `]`")),
            }
        } else {
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => (text, None),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(bad("no host"));
        }
        if !is_host(host) {
            return Err(bad("the host is neither a name nor an address").with_hint(APART));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => {
                    return Err(bad(&format!("{host}: the port is a number from 1 to 65535")));
                }
                Ok(port) => port,
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Whether it can be asked for: an IPv6 address, perhaps with its zone, or a text without what no name has and a
/// password may have.
fn is_host(text: &str) -> bool {
    if text.contains(':') {
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        return address.parse::<Ipv6Addr>().is_ok();
    }
    !text.contains(|c: char| "@%?#\"'\\".contains(c) || c.is_whitespace() || c.is_control())
}

/// What helps where a URL's account cannot be told from the rest.
const APART: &str = "a user and a password with special characters are given apart from the URL: --user, --password-file";

/// `iscsi://[user[%password]@]host[:port][,host[:port]...][/target[/lun]][?key=value&...]`.
///
/// As in libiscsi, escapes (`%3A`) are decoded in the target's name only, and the keys after `?` are
/// `target_user`, `target_password` and `header_digest`; others are ignored. Several hosts are portals of one target.
#[derive(Clone, Debug)]
pub struct IscsiUrl {
    /// Where to connect: at least one, tried in turn.
    pub portals: Vec<Portal>,
    /// The CHAP name in the URL.
    pub user: Option<String>,
    /// The CHAP secret in the URL, as libiscsi allows; whoever uses it warns.
    pub password: Option<ChapSecret>,
    /// The name that the target proves itself with (mutual CHAP).
    pub target_user: Option<String>,
    /// The secret that the target proves itself with; whoever uses it warns.
    pub target_password: Option<ChapSecret>,
    /// What the URL asks for as header digest.
    pub header_digest: Option<DigestPolicy>,
    /// The target's name; absent where a portal is meant.
    pub target: Option<String>,
    /// The LUN; absent for the target's only disk.
    pub lun: Option<u64>,
}

impl IscsiUrl {
    /// Whether a text is meant as a URL of this form, be it a good one or not.
    pub fn is_meant_by(text: &str) -> bool {
        after_scheme(text).is_some()
    }
}

impl FromStr for IscsiUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text may hold a password: no message repeats it.
        let bad = |why: String| Error::new(ErrorKind::Usage, format!("iSCSI URL: {why}"));
        let rest =
            after_scheme(text).ok_or_else(|| bad("it does not begin with iscsi://".into()))?;
        let (account, rest) = split_account(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, password) = match account {
            None => (None, None),
            Some(account) => match account.split_once('%').or_else(|| account.split_once(':')) {
                Some((user, password)) => (Some(user), Some(password)),
                None => (Some(account), None),
            },
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let portals = hosts.split(',').map(str::parse).collect::<Result<Vec<Portal>>>()?;
        let (target, lun) = match path.split_once('/') {
            Some((target, lun)) => (target, lun.strip_suffix('/').unwrap_or(lun)),
            None => (path, ""),
        };
        if target.is_empty() && !lun.is_empty() {
            return Err(bad("a LUN without a target".into()));
        }
        let lun = match lun {
            "" => None,
            digits => Some(digits.parse().map_err(|_| {
                bad(format!("\"{digits}\" is no LUN: a number stands behind the target's name"))
                    .with_hint("a path in the file system is an argument of its own")
            })?),
        };
        let mut url = Self {
            portals,
            user: user.filter(|user| !user.is_empty()).map(str::to_owned),
            password: password.filter(|secret| !secret.is_empty()).map(ChapSecret::from),
            target_user: None,
            target_password: None,
            header_digest: None,
            target: if target.is_empty() { None } else { Some(decode(target)?) },
            lun,
        };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "target_user" => url.target_user = Some(value.to_owned()),
                "target_password" => url.target_password = Some(ChapSecret::from(value)),
                "header_digest" => {
                    url.header_digest = Some(match value {
                        "none" => DigestPolicy::None,
                        "crc32c" => DigestPolicy::Require,
                        _ => return Err(bad(format!("header_digest={value}: none or crc32c"))),
                    });
                }
                _ => {}
            }
        }
        Ok(url)
    }
}

/// What follows `iscsi://`, in capitals or not, with white space around it or not.
fn after_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.trim().split_once("://")?;
    scheme.eq_ignore_ascii_case("iscsi").then_some(rest)
}

/// `user`, `user%password` or `user:password`, and what follows its `@`.
///
/// A password may hold any character, an `@` too: the account ends at the last `@` in front of the `/` that ends the
/// hosts. Where it could end at several places nothing is guessed, for the rest would be taken for a host.
fn split_account(rest: &str) -> Result<(Option<&str>, &str)> {
    let Some(first) = rest.find('@') else { return Ok((None, rest)) };
    // A `?` behind a `/` begins the keys, and the `@` belongs to one of their values.
    let before = &rest[..first];
    if before.split_once('?').is_some_and(|(place, _)| place.contains('/')) {
        return Ok((None, rest));
    }
    let end = rest[first..].find('/').map_or(rest.len(), |slash| first + slash);
    let last = rest[..end].rfind('@').expect("the first one is in front of the `/`");
    let user = before.split_once('%').map_or(before, |(user, _)| user);
    if user.contains('?') || rest[first..last].contains('?') {
        let message = "iSCSI URL: a `?` in front of an `@`: where the password ends is not clear";
        return Err(Error::new(ErrorKind::Usage, message).with_hint(APART));
    }
    Ok((Some(&rest[..last]), &rest[last + 1..]))
}

/// `%XX` escapes; the result must be UTF-8, as iSCSI names are (RFC 7143 section 4.2.7).
fn decode(name: &str) -> Result<String> {
    let bad = |why| Error::new(ErrorKind::Usage, format!("iSCSI URL: target \"{name}\": {why}"));
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let value = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(value.ok_or_else(|| bad("two hexadecimal digits must follow %"))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn parse(text: &str) -> IscsiUrl {
        text.parse().unwrap()
    }

    #[test]
    fn everything_that_a_url_can_hold() {
        let url = parse(
            "iscsi://bob%p:w@san1:3333/iqn.2003-01.org%3Ax/7?target_user=t&target_password=s",
        );
        assert_eq!(url.portals, [Portal { host: "san1".into(), port: 3333 }]);
        assert_eq!(url.user.as_deref(), Some("bob"));
        assert_eq!(url.password.unwrap().0.expose_secret(), "p:w");
        assert_eq!(url.target.as_deref(), Some("iqn.2003-01.org:x"));
        assert_eq!(url.lun, Some(7));
        assert_eq!(url.target_user.as_deref(), Some("t"));
        assert_eq!(url.target_password.unwrap().0.expose_secret(), "s");
    }

    #[test]
    fn target_and_lun_may_be_absent() {
        let url = parse("iscsi://10.0.0.1");
        assert_eq!(url.portals[0].to_string(), "10.0.0.1:3260");
        assert_eq!((url.target, url.lun), (None, None));
        let url = parse("iscsi://alice@10.0.0.1/iqn.x/");
        assert_eq!((url.target.as_deref(), url.lun), (Some("iqn.x"), None));
        assert_eq!(url.user.as_deref(), Some("alice"));
        assert!(url.password.is_none());
    }

    #[test]
    fn ipv6_and_several_portals() {
        let url = parse("iscsi://[fe80::1%eth0]:3261,[::1],san2/iqn.x/0");
        let shown: Vec<_> = url.portals.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["[fe80::1%eth0]:3261", "[::1]:3260", "san2:3260"]);
        assert_eq!(url.user, None);
        assert_eq!("::1".parse::<Portal>().unwrap().to_string(), "[::1]:3260");
    }

    #[test]
    fn a_password_may_hold_what_separates_other_parts() {
        for (text, secret) in [
            ("iscsi://bob%sec@ret@h:1/iqn.x/0", "sec@ret"),
            ("iscsi://bob%se?cret@h:1/iqn.x/0", "se?cret"),
            ("iscsi://bob%se/cr@et@h:1/iqn.x/0", "se/cr@et"),
            ("iscsi://bob:s%ecret@h:1/iqn.x/0?target_password=a@b", "ecret"),
            (" ISCSI://bob%secret@h:1/iqn.x/0\n", "secret"),
        ] {
            let url = parse(text);
            assert_eq!(url.portals, [Portal { host: "h".into(), port: 1 }], "{text}");
            assert_eq!(url.password.unwrap().0.expose_secret(), secret, "{text}");
            assert_eq!((url.target.as_deref(), url.lun), (Some("iqn.x"), Some(0)), "{text}");
            assert!(IscsiUrl::is_meant_by(text));
        }
        let url = parse("iscsi://h/iqn.x/0?target_password=a@b/c@d");
        assert_eq!(url.target_password.unwrap().0.expose_secret(), "a@b/c@d");
        assert!(url.user.is_none());
        assert!(!IscsiUrl::is_meant_by("a/iscsi://h") && !IscsiUrl::is_meant_by("iscsi.img"));
    }

    #[test]
    fn nonsense_is_refused_without_repeating_a_password() {
        for text in [
            "http://x/",
            "iscsi://",
            "iscsi:///iqn.x/0",
            "iscsi://h:0/iqn.x",
            "iscsi://h:99999",
            "iscsi://[::1/iqn.x/0",
            "iscsi://[::1]x/iqn.x/0",
            "iscsi://h//0",
            "iscsi://h/iqn.x/zero",
            "iscsi://h/iqn.%4",
            "iscsi://h/iqn.%+1",
            "iscsi://h/iqn.%ff/0",
            "iscsi://bob%secret@h/iqn.x/0/1",
            "iscsi://bob%secret/iqn.x/0",
            "iscsi://bob:secret/iqn.x/0",
            "iscsi://bob%secret:a:b/iqn.x/0",
            "iscsi://bob%x/secret?secret@h/iqn.x/0",
            "iscsi://h?target_password=x@secret",
            "iscsi://bob%x@h?target_password=x@secret/0",
            "iscsi://bob%x@[secret/0",
            "iscsi://h/iqn.x/0?header_digest=md5",
        ] {
            let error = text.parse::<IscsiUrl>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
