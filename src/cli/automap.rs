//! `snapbrowse automap`: entries of autofs(5) maps, as a program map calls for them or as a whole file.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use futures_util::future;

use crate::error::{Error, ErrorKind, Result};
use crate::iscsi::{self, IscsiUrl, Portal, TargetRecord};

use super::args::Cli;
use super::browse::aliases;
use super::context::Context;
use super::exit::Exit;
use super::initiator::check_name;
use super::output::Output;
use super::presenting::Presenter;
use super::source::portals;
use super::tally::Tally;

/// The name that autofs calls the program by, as a link: `/iscsiauto program:/etc/auto.iscsi`.
const LINK: &str = "auto.iscsi";

/// The longest that portals may take to tell of their targets: a user waits at a `cd` meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest key that autofs stores, quotes included.
const LONGEST_KEY: usize = 255;

/// Print an autofs map entry for a target, as a program map does
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Called by a link of the name auto.iscsi it is a program map; in auto.master:
  /iscsiauto program:/etc/auto.iscsi
A program map's keys are not listed. Those of a file are, with the option browse:
  /iscsiauto /etc/auto.iscsi.map browse

The portals come from open-iscsi's node database (/etc/iscsi/nodes) where that knows the target, else from those of \
the configuration that report it. --all prints what the list hook prints, too. The reason of a failure goes to the system's log too.

Examples:
  snapbrowse automap iqn.2001-05.com.example:snap-2026-11-20
  snapbrowse automap --all --aliases > /etc/auto.iscsi.map")]
pub(crate) struct Args {
    /// The target's iSCSI name
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IQN")]
    target: Option<OsString>,
    /// Print a whole map of all targets
    #[arg(long)]
    all: bool,
    /// Key the map by readable names, where targets have one
    #[arg(long, requires = "all")]
    aliases: bool,
}

/// The command line that a call by that link stands for.
pub(crate) fn called() -> Option<Cli> {
    let mut arguments = std::env::args_os();
    let name = arguments.next()?;
    if Path::new(&name).file_name()? != LINK {
        return None;
    }
    // A key may begin with a dash.
    let command = ["snapbrowse", "automap", "--"].map(OsString::from);
    Some(Cli::parse_from(command.into_iter().chain(arguments)))
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    match args.target {
        Some(target) => one(context, &Name::new(&target)?).await,
        None => all(context, args.aliases).await,
    }
}

async fn one(context: &Context, target: &Name) -> Result<Exit> {
    let entry = find(context, target).await.map_err(|error| error.context(target))?;
    let mut out = Output::new();
    out.line(entry)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// Where the target is: open-iscsi knows, or the portals tell.
async fn find(context: &Context, target: &Name) -> Result<Entry> {
    let settings = &context.settings;
    if let Some(node) = settings.nodes().find(&target.0) {
        return Ok(Entry::new(target, None, node.portals));
    }
    if settings.config.portals.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "open-iscsi does not know the target")
            .with_hint("set portals in the configuration, or run iscsiadm -m discovery"));
    }
    let answers = ask(context, &settings.portals(&[])?).await?;
    if let Some(entry) = told(&answers, target) {
        return Ok(entry);
    }
    // A portal that does not tell may have it all the same, and each one when the mount has had it presented: the login
    // will show.
    let presentable = settings.config.hooks.may_present(&target.0)?;
    let mut silent = Vec::new();
    for answer in &answers {
        let failure = answer.result.as_ref().err();
        failure.into_iter().for_each(|error| tracing::warn!("{error}"));
        if presentable || failure.is_some() {
            silent.push(&answer.url);
        }
    }
    if let Some(first) = silent.first() {
        let portals = silent.iter().flat_map(|url| url.portals.clone());
        return Ok(Entry::new(target, first.user.as_deref(), portals));
    }
    let asked: Vec<String> = answers.iter().map(|answer| portals(&answer.url)).collect();
    let initiator = settings.login(&answers[0].url)?.initiator;
    Err(Error::new(ErrorKind::NotFound, format!("no such target at {}", asked.join(" ")))
        .with_hint(format!("the SAN must present it to the initiator {initiator}")))
}

/// The entry for a target that portals told of.
fn told(answers: &[Answer], target: &Name) -> Option<Entry> {
    let first = answers.iter().find(|answer| answer.portals_of(target).is_some())?;
    let portals = answers.iter().filter_map(|answer| answer.portals_of(target)).flatten();
    Some(Entry::new(target, first.url.user.as_deref(), portals))
}

/// Every target that open-iscsi knows, a portal tells of or hooks could present, with what failed named at the end.
async fn all(context: &Context, by_alias: bool) -> Result<Exit> {
    let settings = &context.settings;
    let nodes = settings.nodes();
    let mut tally = Tally::default();
    let mut entries = BTreeMap::new();
    for name in nodes.names() {
        let Ok(target) = Name::new(OsStr::new(&name)) else { continue };
        let Some(node) = nodes.find(&name) else { continue };
        entries.insert(name, Entry::new(&target, None, node.portals));
        tally.done();
    }
    // Without portals in the configuration, what open-iscsi knows is the whole answer.
    if entries.is_empty() || !settings.config.portals.is_empty() {
        let urls = settings.portals(&[])?;
        let (answers, presentable) = tokio::join!(ask(context, &urls), presentable(context, &urls));
        let answers = answers?;
        for answer in &answers {
            let Ok(records) = answer.result.as_ref().inspect_err(|error| tally.failed(error))
            else {
                continue;
            };
            tally.done();
            for name in records.keys() {
                match Name::new(OsStr::new(name)) {
                    Ok(target) => {
                        let entry = || told(&answers, &target).expect("this answer tells of it");
                        entries.entry(name.clone()).or_insert_with(entry);
                    }
                    Err(error) => tracing::warn!("left out: {error}"),
                }
            }
        }
        match presentable {
            Ok(None) => {}
            Ok(Some(targets)) => {
                tally.done();
                for target in targets {
                    let portals = urls.iter().flat_map(|url| url.portals.clone());
                    let entry = || Entry::new(&target, urls[0].user.as_deref(), portals);
                    entries.entry(target.0.clone()).or_insert_with(entry);
                }
            }
            Err(error) => tally.failed(&error),
        }
    }
    let mut names = BTreeMap::new();
    if by_alias {
        let aliases = aliases(&context.settings.config)?
            .names(entries.keys().map(String::as_str))
            .into_iter();
        let free = aliases.filter(|(alias, _)| !entries.contains_key(alias));
        names.extend(free.map(|(alias, target)| (target, alias)));
    }
    let mut out = Output::new();
    for (target, entry) in &entries {
        let key = names.get(target).and_then(|alias| Key::new(alias)).or_else(|| Key::new(target));
        if let Some(key) = key {
            out.line(format_args!("{key} {entry}"))?;
        }
    }
    out.flush()?;
    Ok(tally.exit())
}

/// The targets that hooks could present, whichever portal will have them then; `None` where no hook lists them.
async fn presentable(context: &Context, urls: &[IscsiUrl]) -> Result<Option<Vec<Name>>> {
    let hooks = &context.settings.config.hooks;
    let (Some(_), Some(url)) = (&hooks.list, urls.first()) else { return Ok(None) };
    let Some(presenter) = Presenter::new(hooks)? else { return Ok(None) };
    let names = presenter.list(&url.portals, &context.settings.login(url)?).await?;
    let names = names.unwrap_or_default();
    let named = names.iter().map(|name| Name::new(OsStr::new(name)));
    let good =
        |name: Result<Name>| name.inspect_err(|error| tracing::warn!("left out: {error}")).ok();
    Ok(Some(named.filter_map(good).collect()))
}

/// What one portal said.
struct Answer {
    url: IscsiUrl,
    /// The targets by name: there may be a hundred thousand.
    result: Result<BTreeMap<String, TargetRecord>>,
}

impl Answer {
    fn new(url: IscsiUrl, result: Result<Vec<TargetRecord>>) -> Self {
        let by_name = |record: TargetRecord| (record.name.clone(), record);
        Self { url, result: result.map(|records| records.into_iter().map(by_name).collect()) }
    }

    fn portals_of(&self, target: &Name) -> Option<Vec<Portal>> {
        let record = self.result.as_ref().ok()?.get(&target.0)?;
        Some(record.ways(&self.url.portals))
    }
}

/// Asks all portals at the same time.
async fn ask(context: &Context, urls: &[IscsiUrl]) -> Result<Vec<Answer>> {
    let mut questions = Vec::new();
    for url in urls {
        let mut config = context.settings.login(url)?;
        config.timeout = config.timeout.min(PATIENCE);
        questions.push(async move {
            Answer::new(url.clone(), iscsi::discover(&url.portals, &config).await)
        });
    }
    Ok(future::join_all(questions).await)
}

/// An iSCSI name (RFC 7143 section 4.2.7): nothing in it has a meaning in a path, a URL or a map.
#[derive(Debug)]
struct Name(String);

impl Name {
    fn new(text: &OsStr) -> Result<Self> {
        let bad = |why: String| {
            let shown = text.to_string_lossy();
            Error::new(ErrorKind::NotFound, format!("{shown:?} is no target's name: {why}"))
        };
        let name = text.to_str().ok_or_else(|| bad("not UTF-8".to_owned()))?;
        check_name(name).map_err(bad)?;
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a map has behind a key.
#[derive(Debug)]
struct Entry {
    url: String,
}

impl Entry {
    /// The target at these portals, those that are named twice once.
    fn new(target: &Name, user: Option<&str>, portals: impl IntoIterator<Item = Portal>) -> Self {
        let mut known = HashSet::new();
        let hosts = portals.into_iter().map(|portal| portal.to_string());
        let hosts: Vec<String> = hosts.filter(|host| known.insert(host.clone())).collect();
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        // What is not ASCII goes in escapes, which the URL form has for a target's name.
        let name: String = target.0.bytes().map(escaped).collect();
        Self { url: format!("iscsi://{user}{}/{name}", hosts.join(",")) }
    }
}

fn escaped(byte: u8) -> String {
    if byte.is_ascii() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}

/// The location is quoted: autofs takes a bare colon behind the first `:/` for a slash.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-fstype=fuse.snapbrowse,ro,allow_other \":{}\"", self.url)
    }
}

/// A key of a file map, quoted where it must be.
struct Key<'a>(&'a str);

impl<'a> Key<'a> {
    /// `None` for what cannot be a key: the wildcard, and what autofs cannot store.
    fn new(name: &'a str) -> Option<Self> {
        let key = Self(name);
        let fits = !name.is_empty() && key.to_string().len() <= LONGEST_KEY;
        let is_key = name != "*" && !name.contains('/') && !name.chars().any(char::is_control);
        (fits && is_key).then_some(key)
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_' | '~' | '@' | '=')
        };
        if self.0.starts_with(|c: char| c.is_ascii_alphanumeric()) && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        // A quote inside ends the quotes, stands for itself behind a backslash, and begins them anew.
        write!(f, "\"{}\"", self.0.replace('"', "\"\\\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(OsStr::new(text)).unwrap()
    }

    #[test]
    fn an_entry_is_one_line_that_autofs_takes_as_it_stands() {
        let portals = ["10.0.0.1:3260", "[fe80::1]:3261", "10.0.0.1"];
        let portals = portals.map(|portal| portal.parse::<Portal>().unwrap());
        let entry = Entry::new(&name("iqn.2001-05.com.example:home"), Some("alice"), portals);
        assert_eq!(
            entry.to_string(),
            "-fstype=fuse.snapbrowse,ro,allow_other \":iscsi://alice@10.0.0.1:3260,[fe80::1]:3261/iqn.2001-05.com.example:home\""
        );
    }

    #[test]
    fn as_many_targets_as_portals_can_tell_of_are_found_at_once() {
        let names: Vec<Name> =
            (0..100_000).map(|n| name(&format!("iqn.2026-01.test:{n}"))).collect();
        let record = |name: &Name| TargetRecord { name: name.0.clone(), portals: Vec::new() };
        let answer =
            |url: &str| Answer::new(url.parse().unwrap(), Ok(names.iter().map(record).collect()));
        let answers = [answer("iscsi://a"), answer("iscsi://b")];
        let entries = names.iter().filter_map(|name| told(&answers, name));
        let at_both = entries.filter(|entry| entry.url.starts_with("iscsi://a:3260,b:3260/iqn"));
        assert_eq!(at_both.count(), names.len());
    }

    #[test]
    fn a_name_beyond_ascii_is_the_same_behind_the_url() {
        let target = name("iqn.2001-05.com.example:größe");
        let entry = Entry::new(&target, None, ["san".parse::<Portal>().unwrap()]);
        assert!(entry.url.is_ascii(), "{entry}");
        let url: IscsiUrl = entry.url.parse().unwrap();
        assert_eq!(url.target.as_deref(), Some(target.0.as_str()));
    }

    #[test]
    fn what_is_no_iscsi_name_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let long = format!("iqn.{}", "x".repeat(220));
        for bad in [
            "",
            "..",
            "../x",
            "home",
            "-o",
            "iqn",
            "iqn.x/../y",
            "iqn.x y",
            "iqn.x\ny",
            "iqn.x\"",
            "iqn.x,y",
            "iqn.x$y",
            "iqn.x&",
            "iqn.x*",
            "iqn.x\\y",
            "iqn.x?y",
            "iqn.x%41",
            "iqn.x#y",
            "iqn.x@h",
            ".iqn.x",
            &long,
        ] {
            let error = Name::new(OsStr::new(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{bad:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(Name::new(OsStr::from_bytes(b"iqn.\xff")).is_err());
        for good in
            ["iqn.2001-05.com.example:a_b-c.d:1", "eui.02004567A425678D", "naa.52004567BA64678D"]
        {
            assert!(Name::new(OsStr::new(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn keys_are_quoted_where_autofs_would_read_something_else() {
        for (name, key) in [
            ("home-2026-11-20", "home-2026-11-20"),
            ("iqn.2001-05.com.example:x", "iqn.2001-05.com.example:x"),
            ("+home", "\"+home\""),
            ("#1", "\"#1\""),
            ("-o", "\"-o\""),
            ("two words", "\"two words\""),
            ("a\\b&$c", "\"a\\b&$c\""),
            ("a\"b", "\"a\"\\\"\"b\""),
            ("größe", "\"größe\""),
        ] {
            assert_eq!(Key::new(name).unwrap().to_string(), key);
        }
        for none in ["*", "", "a/b", "a\nb", &"x".repeat(256)] {
            assert!(Key::new(none).is_none(), "{none:?}");
        }
    }
}
