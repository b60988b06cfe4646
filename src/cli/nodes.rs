//! open-iscsi's node database: where this machine's own initiator was told that targets are, and how to log in.
//!
//! A directory per target, in it one per portal (`HOST,PORT,TPGT`, older releases write a file of that name), in it a
//! record per interface: lines `key = value`, described in iscsiadm(8). Only root can read it on most systems; to
//! everybody else it is empty.

use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;

use crate::iscsi::{Credentials, Portal};

/// Where open-iscsi keeps it, by the age of its release.
const DIRECTORIES: [&str; 2] = ["/etc/iscsi/nodes", "/var/lib/iscsi/nodes"];

/// A record is some 2 KiB; what is longer than this is none.
const LONGEST_RECORD: u64 = 64 << 10;

/// The database.
#[derive(Clone, Debug)]
pub(crate) struct Nodes(Vec<PathBuf>);

/// What the database knows of a target.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it is: at least one.
    pub(crate) portals: Vec<Portal>,
    /// The CHAP account.
    pub(crate) credentials: Option<Credentials>,
    /// What the target proves itself with.
    pub(crate) target_credentials: Option<Credentials>,
}

impl Nodes {
    /// The database in `directory`, else in the usual places.
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        Self(match directory {
            Some(directory) => vec![directory.to_owned()],
            None => DIRECTORIES.map(PathBuf::from).into(),
        })
    }

    /// What is known of a target.
    pub(crate) fn find(&self, target: &str) -> Option<Node> {
        if target.contains('/') || target.starts_with('.') {
            return None;
        }
        self.0.iter().find_map(|directory| Node::read(&directory.join(target)))
    }

    /// The names of all targets, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.0.iter().flat_map(|directory| entries(directory)).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Node {
    fn read(directory: &Path) -> Option<Self> {
        let mut node = Self { portals: Vec::new(), credentials: None, target_credentials: None };
        for name in entries(directory) {
            let place = directory.join(&name);
            let records: Vec<Record> = match Record::read(&place) {
                Some(record) => vec![record],
                None => entries(&place)
                    .iter()
                    .filter_map(|name| Record::read(&place.join(name)))
                    .collect(),
            };
            let recorded = records.iter().find_map(Record::portal);
            let Some(portal) = recorded.or_else(|| portal_of(&name)) else { continue };
            if !node.portals.contains(&portal) {
                node.portals.push(portal);
            }
            for record in records {
                node.credentials = node.credentials.or_else(|| record.account(""));
                node.target_credentials = node.target_credentials.or_else(|| record.account("_in"));
            }
        }
        (!node.portals.is_empty()).then_some(node)
    }
}

/// `HOST,PORT,TPGT`, an IPv6 address without brackets.
fn portal_of(name: &str) -> Option<Portal> {
    let mut parts = name.split(',');
    portal(parts.next()?, parts.next()?)
}

fn portal(host: &str, port: &str) -> Option<Portal> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{host}:{port}").parse().ok()
}

/// A record's text, which may hold a password.
struct Record(Zeroizing<String>);

impl Record {
    fn read(path: &Path) -> Option<Self> {
        let file = std::fs::File::open(path).ok().filter(|_| path.is_file())?;
        // The capacity is never exceeded, so no copy is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(LONGEST_RECORD as usize + 32));
        file.take(LONGEST_RECORD).read_to_string(&mut text).ok()?;
        Some(Self(text))
    }

    fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.lines().filter_map(|line| line.split_once('='));
        let value = pairs.find(|(known, _)| known.trim() == key)?.1.trim();
        (!value.is_empty() && value != "<empty>").then_some(value)
    }

    fn portal(&self) -> Option<Portal> {
        portal(self.get("node.conn[0].address")?, self.get("node.conn[0].port")?)
    }

    /// The account for our proof, or with `_in` for the target's.
    fn account(&self, which: &str) -> Option<Credentials> {
        if !self.get("node.session.auth.authmethod")?.eq_ignore_ascii_case("CHAP") {
            return None;
        }
        let field = |name: &str| self.get(&format!("node.session.auth.{name}{which}"));
        Some(Credentials::new(field("username")?, field("password")?))
    }
}

/// The names in a directory, in order; none where it cannot be read.
fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const IQN: &str = "iqn.2001-05.com.example:home";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn shown(portals: &[Portal]) -> Vec<String> {
        portals.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn portals_and_accounts_of_records_old_and_new() {
        let root = tempfile::tempdir().unwrap();
        let new = "# BEGIN RECORD 2.1.8\nnode.name = x\nnode.conn[0].address = 10.0.0.1\nnode.conn[0].port = 3261\n\
            node.session.auth.authmethod = CHAP\nnode.session.auth.username = alice\n\
            node.session.auth.password = se=cret\nnode.session.auth.username_in = <empty>\n# END RECORD\n";
        write(root.path(), &format!("{IQN}/10.0.0.1,3261,1/default"), new);
        write(root.path(), &format!("{IQN}/fe80::1,3260,2/eth1"), "node.name = x\n");
        write(root.path(), &format!("{IQN}/san2,3260"), "node.name = x\n");
        let nodes = Nodes::new(Some(root.path()));
        let node = nodes.find(IQN).unwrap();
        assert_eq!(shown(&node.portals), ["10.0.0.1:3261", "[fe80::1]:3260", "san2:3260"]);
        let account = node.credentials.unwrap();
        assert_eq!(account.name, "alice");
        assert_eq!(account.secret.0.expose_secret(), "se=cret");
        assert!(node.target_credentials.is_none());
        assert_eq!(nodes.names(), [IQN]);
    }

    #[test]
    fn an_account_without_chap_is_none() {
        let root = tempfile::tempdir().unwrap();
        let text = "node.session.auth.authmethod = None\nnode.session.auth.username = alice\n\
            node.session.auth.password = secret\n";
        write(root.path(), &format!("{IQN}/10.0.0.1,3260,1/default"), text);
        let node = Nodes::new(Some(root.path())).find(IQN).unwrap();
        assert!(node.credentials.is_none());
        assert_eq!(shown(&node.portals), ["10.0.0.1:3260"]);
    }

    #[test]
    fn what_is_no_record_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &format!("{IQN}/rubbish/default"), "node.conn[0].port = 3260\n");
        write(root.path(), &format!("{IQN}/host,99999,1/default"), "");
        std::fs::create_dir(root.path().join("iqn.empty")).unwrap();
        let nodes = Nodes::new(Some(root.path()));
        for target in [IQN, "iqn.empty", "iqn.absent", "../x", "..", "."] {
            assert!(nodes.find(target).is_none(), "{target}");
        }
        let nowhere = Nodes::new(Some(Path::new("/no/such/directory")));
        assert!(nowhere.find(IQN).is_none() && nowhere.names().is_empty());
    }
}
