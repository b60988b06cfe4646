//! Readable names beside the targets' own: links in the root, and snapshots grouped by volume and date.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;

use crate::error::{Error, ErrorKind, Result};

use super::tree::{Kind, NodeId, ROOT, Tree};

/// The directory of volumes with their snapshots.
const BY_VOLUME: &str = "by-volume";

/// Rules that give targets readable names: the user's own first, then what is known of vendors' names.
#[derive(Debug, Default)]
pub struct Aliases {
    rules: Vec<(Regex, String)>,
}

impl Aliases {
    /// Rules as the configuration has them: a regular expression for the whole target name, and the alias, in which
    /// `$1` or `${name}` stand for what was captured.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an expression that is none.
    pub fn new<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let compile = |(pattern, alias): (&str, &str)| {
            let regex = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
                Error::new(ErrorKind::Usage, format!("alias pattern {pattern:?}: {error}"))
            })?;
            Ok((regex, alias.to_owned()))
        };
        Ok(Self { rules: rules.into_iter().map(compile).collect::<Result<_>>()? })
    }

    /// The alias of a target.
    fn of(&self, target: &str) -> Option<String> {
        let own = self.rules.iter().find_map(|(regex, alias)| {
            let captures = regex.captures(target)?;
            let mut name = String::new();
            captures.expand(alias, &mut name);
            Some(name)
        });
        own.or_else(|| vendor_name(target)).map(|name| tame(&name)).filter(|name| is_alias(name))
    }

    /// Readable names for targets, each with the target that it stands for; targets without one are left out.
    pub fn names<'a>(&self, targets: impl IntoIterator<Item = &'a str>) -> Vec<(String, String)> {
        let mut names = Names::default();
        for target in targets {
            if let Some(alias) = self.of(target) {
                names.add(&alias, target);
            }
        }
        names.unique().map(|(name, target)| (name, target.to_owned())).collect()
    }

    /// Brings all links up to date with the targets of the tree.
    pub(super) fn apply(&self, tree: &mut Tree) {
        let targets: Vec<(String, Option<String>)> = tree
            .children(ROOT, 0)
            .filter_map(|(_, node)| match &node.kind {
                Kind::Target(target) => Some((node.name.clone(), target.alias())),
                _ => None,
            })
            .collect();
        let mut aliases = Names::default();
        let mut volumes: BTreeMap<String, Names> = BTreeMap::new();
        for (target, own) in &targets {
            let own = own.as_deref().map(tame).filter(|name| is_alias(name));
            let Some(alias) = self.of(target).or(own) else { continue };
            if let Some((volume, date)) = split_date(&alias) {
                volumes.entry(volume.to_owned()).or_default().add(date, target);
            }
            aliases.add(&alias, target);
        }
        set_links(tree, ROOT, "", &aliases);
        if volumes.is_empty() {
            if let Some(id) = tree.find(ROOT, BY_VOLUME) {
                tree.remove(id);
            }
            return;
        }
        let by_volume = tree.add(ROOT, BY_VOLUME, Kind::Dir);
        let stale: Vec<NodeId> = tree
            .children(by_volume, 0)
            .filter(|(_, node)| !volumes.contains_key(&node.name))
            .map(|(id, _)| id)
            .collect();
        for id in stale {
            tree.remove(id);
        }
        for (volume, dates) in &volumes {
            let dir = tree.add(by_volume, volume, Kind::Dir);
            set_links(tree, dir, "../../", dates);
        }
    }
}

/// Names with the targets that claim them.
#[derive(Default)]
struct Names(BTreeMap<String, BTreeSet<String>>);

impl Names {
    fn add(&mut self, name: &str, target: &str) {
        self.0.entry(name.to_owned()).or_default().insert(target.to_owned());
    }

    /// Each target under a name that no other has: where several claim one, a digest of the target's own name is added,
    /// so that a name does not depend on which other targets there are today in what order.
    fn unique(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().flat_map(|(name, targets)| {
            targets.iter().map(move |target| match targets.len() {
                1 => (name.clone(), target.as_str()),
                _ => (format!("{name}~{:08x}", crc32c::crc32c(target.as_bytes())), target.as_str()),
            })
        })
    }
}

/// Makes the links in `dir` those of `names`, in their order.
fn set_links(tree: &mut Tree, dir: NodeId, prefix: &str, names: &Names) {
    let wanted: BTreeMap<String, String> =
        names.unique().map(|(name, target)| (name, format!("{prefix}{target}"))).collect();
    let stale: Vec<NodeId> = tree
        .children(dir, 0)
        .filter(|(_, node)| match &node.kind {
            Kind::Link(target) => wanted.get(&node.name) != Some(target),
            _ => false,
        })
        .map(|(id, _)| id)
        .collect();
    for id in stale {
        tree.remove(id);
    }
    for (name, target) in wanted {
        // A name that is taken (by a target, or by a directory of ours) stays what it is.
        tree.add(dir, &name, Kind::Link(target));
    }
}

/// What vendors put behind the naming authority.
fn vendor_name(target: &str) -> Option<String> {
    let (authority, name) = target.split_once(':')?;
    if authority.starts_with("iqn.2001-05.com.equallogic") {
        // `0-8a0906-<volume>-<id>-NAME`
        return name.splitn(5, '-').nth(4).map(str::to_owned);
    }
    if authority.starts_with("iqn.2003-01.org.linux-iscsi.") {
        // LIO: the host's name and architecture stand in the authority, a serial number behind it.
        let host = authority.trim_start_matches("iqn.2003-01.org.linux-iscsi.");
        let host = host.rsplit_once('.').map_or(host, |(host, _)| host);
        return Some(format!("{host}-{}", name.trim_start_matches("sn.")));
    }
    if authority.starts_with("iqn.2000-01.com.synology") {
        // `NAS.Target-1.<serial>`
        return Some(match name.rsplit_once('.') {
            Some((name, serial)) if is_serial(serial) => name.to_owned(),
            _ => name.to_owned(),
        });
    }
    Some(name.to_owned())
}

fn is_serial(text: &str) -> bool {
    text.len() >= 6 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// `home-2026-11-20-10:00:01` is the volume `home` at `2026-11-20-10:00:01`.
fn split_date(name: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let is_date = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        matches!(parts[..], [y, m, d] if y.len() == 4 && m.len() == 2 && d.len() == 2
            && digits(y) && (1..=12).contains(&m.parse().unwrap_or(0)) && (1..=31).contains(&d.parse().unwrap_or(0)))
    };
    let at = (1..name.len()).find(|at| name.get(*at..at + 10).is_some_and(is_date))?;
    let volume = name[..at].trim_end_matches(['-', '_', '.', '@', ':']);
    (!volume.is_empty()).then_some((volume, &name[at..]))
}

/// A name without what has a meaning in paths.
fn tame(name: &str) -> String {
    let name: String =
        name.trim().chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    name.trim_start_matches('.').to_owned()
}

/// Whether a name can stand in a directory.
pub(super) fn is_safe(name: &str) -> bool {
    let fits = (1..=255).contains(&name.len()) && name != "." && name != "..";
    fits && !name.chars().any(|c| c == '/' || c.is_control())
}

/// Whether a name can stand in the root beside the targets' own. One that looks like a target's is another target's, today or
/// when that is presented, and `by-volume` is ours.
fn is_alias(name: &str) -> bool {
    is_safe(name) && name != BY_VOLUME && !is_target_name(name.as_bytes())
}

/// Whether a name has the form of a target's (RFC 7143 section 4.2.7).
pub(super) fn is_target_name(name: &[u8]) -> bool {
    [&b"iqn."[..], b"eui.", b"naa."].iter().any(|form| name.starts_with(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(target: &str) -> String {
        Aliases::default().of(target).unwrap()
    }

    #[test]
    fn equallogic_names_end_with_the_volumes() {
        for (target, name) in [
            (
                "iqn.2001-05.com.equallogic:0-8a0906-83bcb3401-16e0002fd0a46f3d-home-2026-11-20-10:00:01.7",
                "home-2026-11-20-10:00:01.7",
            ),
            ("iqn.2001-05.com.equallogic:4-52aed6-f1e3d5a17-8c800000d7c5f2a1-sql-data", "sql-data"),
        ] {
            assert_eq!(alias(target), name, "{target}");
        }
        // Too few parts to have a volume's name.
        assert_eq!(Aliases::default().of("iqn.2001-05.com.equallogic:0-8a0906"), None);
    }

    #[test]
    fn synology_names_end_with_a_serial_number() {
        for (target, name) in [
            ("iqn.2000-01.com.synology:NAS.Target-1.8b1e2f", "NAS.Target-1"),
            ("iqn.2000-01.com.synology:backup.home.1a2b3c4d5e", "backup.home"),
            ("iqn.2000-01.com.synology:nas.default-target", "nas.default-target"),
        ] {
            assert_eq!(alias(target), name, "{target}");
        }
    }

    #[test]
    fn truenas_and_tgt_names_are_what_the_administrator_chose() {
        for (target, name) in [
            ("iqn.2005-10.org.freenas.ctl:web", "web"),
            ("iqn.2005-10.org.freenas.ctl:tank-home-auto-2026-11-20", "tank-home-auto-2026-11-20"),
            ("iqn.2001-04.com.example:storage.disk1.sys1.xyz", "storage.disk1.sys1.xyz"),
        ] {
            assert_eq!(alias(target), name, "{target}");
        }
    }

    #[test]
    fn lio_names_have_the_host_before_and_a_serial_number_behind() {
        let target = "iqn.2003-01.org.linux-iscsi.storage.x8664:sn.d5b5d9c3b4c1";
        assert_eq!(alias(target), "storage-d5b5d9c3b4c1");
    }

    #[test]
    fn a_name_has_no_meaning_in_a_path() {
        assert_eq!(alias("iqn.2026-01.test:a/../b"), "a_.._b");
        assert_eq!(Aliases::default().of("eui.02004567A425678D"), None);
        for none in
            ["..", ".", "...", "", "by-volume", "eui.02004567A425678D", "iqn.2026-01.test:b"]
        {
            assert_eq!(Aliases::default().of(&format!("iqn.2026-01.test:{none}")), None);
        }
    }

    #[test]
    fn snapshots_of_a_volume_are_in_order_of_time() {
        let date = |day: u8| format!("iqn.2026-01.test:home-2026-11-{day:02}");
        let targets = [date(20), date(3), date(11)];
        let names = Aliases::default().names(targets.iter().map(String::as_str));
        let dates: Vec<&str> =
            names.iter().filter_map(|(name, _)| Some(split_date(name)?.1)).collect();
        assert_eq!(dates, ["2026-11-03", "2026-11-11", "2026-11-20"]);
    }

    #[test]
    fn two_targets_that_claim_a_name_keep_theirs_whoever_else_is_there() {
        let [one, two] = ["iqn.2026-01.test.a:home", "iqn.2026-01.test.b:home"];
        let names = |targets: &[&str]| Aliases::default().names(targets.iter().copied());
        let both = names(&[one, two]);
        assert!(both.iter().all(|(name, _)| name.starts_with("home~")) && both[0].0 != both[1].0);
        assert_eq!(both, names(&[two, one]));
    }

    #[test]
    fn the_users_own_rules_come_first() {
        let aliases = Aliases::new([(r"iqn\..*:(\w+)-(?<day>\d+)", "$1.of.${day}")]).unwrap();
        assert_eq!(aliases.of("iqn.2026-01.test:home-20").as_deref(), Some("home.of.20"));
        assert_eq!(aliases.of("iqn.2026-01.test:home").as_deref(), Some("home"));
        assert_eq!(Aliases::new([("(", "x")]).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_date_divides_a_snapshots_name() {
        assert_eq!(split_date("home-2026-11-20-10:00"), Some(("home", "2026-11-20-10:00")));
        assert_eq!(split_date("db_2026-02-30"), Some(("db", "2026-02-30")));
        for none in ["home", "2026-11-20", "home-2026-13-20", "home-2026-1-20", "é2026-11-2é"] {
            assert_eq!(split_date(none), None, "{none}");
        }
    }
}
