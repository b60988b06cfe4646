//! What applies in the end: flags over the environment over the configuration files.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::{self, JournalMode};
use crate::iscsi::{self, ChapSecret, Credentials, DigestPolicy, IscsiUrl};

use super::args::{Engine, GlobalArgs, SourceArg};
use super::config::Config;
use super::nodes::{Node, Nodes};
use super::source::portals;
use super::{initiator, password, units};

const DEFAULT_CACHE: u64 = 256 << 20;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The variables of libiscsi, which other programs set for their users already.
#[derive(Clone, Debug, Default)]
struct Environment {
    user: Option<String>,
    password: Option<ChapSecret>,
    target_user: Option<String>,
    target_password: Option<ChapSecret>,
}

impl Environment {
    fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let secret = |name: &str| text(name).map(|secret| ChapSecret::from(secret.as_str()));
        Self {
            user: text("LIBISCSI_CHAP_USERNAME"),
            password: secret("LIBISCSI_CHAP_PASSWORD"),
            target_user: text("LIBISCSI_CHAP_TARGET_USERNAME"),
            target_password: secret("LIBISCSI_CHAP_TARGET_PASSWORD"),
        }
    }
}

/// Everything that the commands need to know besides their own arguments.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The volume to use.
    pub(crate) volume: Option<String>,
    /// How to open an ext file system.
    pub(crate) ext: ext::Options,
    /// Where a journal outside the file system lies.
    pub(crate) journal_device: Option<SourceArg>,
    /// The ext reader.
    pub(crate) engine: Engine,
    /// The budget of the block cache in bytes.
    pub(crate) cache: u64,
    /// The longest that one operation on the SAN may take.
    pub(crate) timeout: Duration,
    /// Whether hooks are to present what is read.
    pub(crate) present: bool,
    /// The most portals of a target to read through at the same time.
    pub(crate) paths: Option<u16>,
    /// Whether to print JSON.
    pub(crate) json: bool,
    /// Whether to say nothing but errors.
    pub(crate) quiet: bool,
    /// The configuration files.
    pub(crate) config: Config,
    initiator: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    target_user: Option<String>,
    target_password_file: Option<PathBuf>,
    header_digest: Option<DigestPolicy>,
    data_digest: Option<DigestPolicy>,
    environment: Environment,
}

impl Settings {
    /// Reads the configuration files and the environment, and lays the flags over them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a configuration that is not understood.
    pub(crate) fn resolve(flags: GlobalArgs) -> Result<Self> {
        let config = Config::read(flags.config.as_deref())?;
        Self::combine(flags, Environment::read(), config)
    }

    /// The longest that a login takes with the hooks before it, or a logout with those after it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a limit of the hooks that is not understood.
    pub(crate) fn with_hooks(&self) -> Result<Duration> {
        Ok(self.timeout.saturating_add(self.config.hooks.longest()?))
    }

    fn combine(flags: GlobalArgs, environment: Environment, config: Config) -> Result<Self> {
        let wrong =
            |message: String| Error::new(ErrorKind::Usage, format!("configuration: {message}"));
        let cache = match (flags.cache, &config.cache) {
            (Some(cache), _) => cache,
            (None, Some(text)) => units::size(text).map_err(wrong)?,
            (None, None) => DEFAULT_CACHE,
        };
        let timeout = match (flags.timeout, &config.timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => units::duration(text).map_err(wrong)?,
            (None, None) => DEFAULT_TIMEOUT,
        };
        if timeout.is_zero() {
            return Err(Error::new(ErrorKind::Usage, "a timeout of 0 leaves no time for anything"));
        }
        Ok(Self {
            volume: flags.volume,
            ext: ext::Options {
                journal: flags.journal.map(JournalMode::from).unwrap_or_default(),
                superblock: flags.sb,
            },
            journal_device: flags.journal_device,
            engine: flags.engine.unwrap_or_default(),
            cache,
            timeout,
            paths: flags.max_paths.or(config.paths),
            present: flags.present,
            json: flags.json,
            quiet: flags.quiet,
            initiator: flags.initiator,
            user: flags.user,
            password_file: flags.password_file,
            target_user: flags.target_user,
            target_password_file: flags.target_password_file,
            header_digest: flags.header_digest.map(DigestPolicy::from),
            data_digest: flags.data_digest.map(DigestPolicy::from),
            environment,
            config,
        })
    }

    /// The portals that `arguments` name, else those of the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where there are none, or one is not a portal.
    pub(crate) fn portals(&self, arguments: &[SourceArg]) -> Result<Vec<IscsiUrl>> {
        if arguments.is_empty() && self.config.portals.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "no portal was named")
                .with_hint("give iscsi://HOST[:PORT], or set portals in the configuration"));
        }
        if arguments.is_empty() {
            return self.config.portals.iter().map(|name| portal(name)).collect();
        }
        let text = |argument: &SourceArg| argument.0.to_str().map(portal);
        let not_text = || Err(Error::new(ErrorKind::Usage, "a portal's name is not UTF-8"));
        arguments.iter().map(|argument| text(argument).unwrap_or_else(not_text)).collect()
    }

    /// What open-iscsi was told of targets.
    pub(crate) fn nodes(&self) -> Nodes {
        Nodes::new(self.config.node_database.as_deref())
    }

    /// How to log in to what `url` names.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for half of a login, errors of the password files, no initiator name.
    pub(crate) fn login(&self, url: &IscsiUrl) -> Result<iscsi::Config> {
        let file =
            url.target.as_deref().map(|target| self.config.target(target)).unwrap_or_default();
        let environment = &self.environment;
        if url.password.is_some() || url.target_password.is_some() {
            tracing::warn!(
                "the password in the URL can be seen by every user of this machine; use --password-file"
            );
        }
        let initiator = match self.initiator.as_ref().or(self.config.initiator.as_ref()) {
            Some(name) => {
                initiator::check_name(name).map_err(|why| {
                    let why = format!("{name:?} is no initiator's name: {why}");
                    Error::new(ErrorKind::Usage, why)
                })?;
                name.clone()
            }
            None => initiator::default_name()?,
        };
        let credentials = pair(
            "--user",
            first([&self.user, &url.user, &environment.user, &file.user]),
            secret(
                self.password_file.as_ref(),
                [&url.password, &environment.password],
                file.password_file.as_ref(),
            )?,
        )?;
        let target_credentials = pair(
            "--target-user",
            first([
                &self.target_user,
                &url.target_user,
                &environment.target_user,
                &file.target_user,
            ]),
            secret(
                self.target_password_file.as_ref(),
                [&url.target_password, &environment.target_password],
                file.target_password_file.as_ref(),
            )?,
        )?;
        // An account of open-iscsi's is for where open-iscsi uses it, and never mixed with parts of others.
        let (credentials, target_credentials) = match (credentials, target_credentials) {
            (None, None) => match self.node(url) {
                Some(node) => (node.credentials, node.target_credentials),
                None => (None, None),
            },
            given => given,
        };
        if target_credentials.is_some() && credentials.is_none() {
            return Err(Error::new(
                ErrorKind::Usage,
                "the target is to prove itself, but there is no login of ours",
            )
            .with_hint("mutual CHAP needs --user and --password-file too"));
        }
        let defaults = iscsi::Config::new(initiator);
        let chap_algorithms = match &self.config.chap_algorithms {
            Some(names) if names.is_empty() => {
                return Err(Error::new(ErrorKind::Usage, "chap_algorithms: none is left to offer")
                    .with_hint("name one of md5, sha256, sha1, sha3-256, or leave the key out"));
            }
            Some(names) => names.iter().copied().map(Into::into).collect(),
            None => defaults.chap_algorithms.clone(),
        };
        Ok(iscsi::Config {
            chap_algorithms,
            credentials,
            target_credentials,
            header_digest: self.header_digest.or(url.header_digest).unwrap_or_default(),
            data_digest: self.data_digest.unwrap_or_default(),
            timeout: self.timeout,
            paths: self.paths.map_or(defaults.paths, usize::from),
            ..defaults
        })
    }

    /// The target of `url` as open-iscsi knows it, if it is at one of the same portals.
    fn node(&self, url: &IscsiUrl) -> Option<Node> {
        let node = self.nodes().find(url.target.as_deref()?)?;
        url.portals.iter().any(|portal| node.portals.contains(portal)).then_some(node)
    }
}

/// A URL that names a portal and no target; `iscsi://` may be left out.
fn portal(name: &str) -> Result<IscsiUrl> {
    let url: IscsiUrl =
        if name.contains("://") { name.parse()? } else { format!("iscsi://{name}").parse()? };
    match &url.target {
        None => Ok(url),
        Some(target) => Err(Error::new(
            ErrorKind::Usage,
            format!("{target} is a target, and a portal is needed here"),
        )
        .with_hint(format!("use {}", portals(&url)))),
    }
}

/// The first value that is there: the order of the list is the order of precedence.
fn first<const N: usize>(values: [&Option<String>; N]) -> Option<String> {
    values.into_iter().flatten().next().cloned()
}

/// The secret with the same precedence: flag, then values at hand, then the configuration's file.
fn secret<const N: usize>(
    flag: Option<&PathBuf>,
    at_hand: [&Option<ChapSecret>; N],
    file: Option<&PathBuf>,
) -> Result<Option<ChapSecret>> {
    if let Some(path) = flag {
        return password::read(path).map(Some);
    }
    if let Some(secret) = at_hand.into_iter().flatten().next() {
        return Ok(Some(secret.clone()));
    }
    file.map(|path| password::read(path)).transpose()
}

fn pair(
    flag: &str,
    name: Option<String>,
    secret: Option<ChapSecret>,
) -> Result<Option<Credentials>> {
    match (name, secret) {
        (Some(name), Some(secret)) => Ok(Some(Credentials { name, secret })),
        (None, None) => Ok(None),
        (Some(name), None) => {
            Err(Error::new(ErrorKind::Usage, format!("no password for the user {name} of {flag}"))
                .with_hint(format!("use {}", flag.replace("user", "password-file"))))
        }
        (None, Some(_)) => Err(Error::new(ErrorKind::Usage, "a password without a user name")
            .with_hint(format!("use {flag} NAME"))),
    }
}
