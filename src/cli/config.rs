//! The configuration files: `$XDG_CONFIG_HOME/snapbrowse/config.toml` over `/etc/snapbrowse/config.toml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::Glob;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::hooks::Argv;
use crate::iscsi::ChapAlgorithm;

const SYSTEM_FILE: &str = "/etc/snapbrowse/config.toml";

/// Where root's state is.
const ROOTS_DIRECTORY: &str = "/var/lib/snapbrowse";

/// What the configuration files say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Portals for commands that name none.
    pub(crate) portals: Vec<String>,
    /// The initiator name.
    pub(crate) initiator: Option<String>,
    /// The default of `--cache`.
    pub(crate) cache: Option<String>,
    /// The default of `--timeout`.
    pub(crate) timeout: Option<String>,
    /// The default of `--paths`.
    pub(crate) paths: Option<u16>,
    /// The CHAP algorithms that are offered, the preferred one first.
    pub(crate) chap_algorithms: Option<Vec<ChapName>>,
    /// Where open-iscsi keeps its nodes, where that is not the usual place.
    pub(crate) node_database: Option<PathBuf>,
    /// Logins by a glob over target names.
    target: BTreeMap<String, TargetConfig>,
    /// Readable names for targets.
    pub(crate) alias: toml::Table,
    /// Commands that present and revoke snapshots.
    pub(crate) hooks: HooksConfig,
    /// The defaults of `browse`'s own options.
    pub(crate) browse: BrowseConfig,
}

/// A CHAP algorithm by its name.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) enum ChapName {
    #[serde(rename = "md5")]
    Md5,
    #[serde(rename = "sha1")]
    Sha1,
    #[serde(rename = "sha256")]
    Sha256,
    #[serde(rename = "sha3-256")]
    Sha3_256,
}

impl From<ChapName> for ChapAlgorithm {
    fn from(name: ChapName) -> Self {
        match name {
            ChapName::Md5 => Self::Md5,
            ChapName::Sha1 => Self::Sha1,
            ChapName::Sha256 => Self::Sha256,
            ChapName::Sha3_256 => Self::Sha3_256,
        }
    }
}

/// The `[hooks]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HooksConfig {
    /// Presents a snapshot.
    pub(crate) present: Option<Argv>,
    /// Takes it back.
    pub(crate) revoke: Option<Argv>,
    /// Prints the names of targets that could be presented.
    pub(crate) list: Option<Argv>,
    /// The longest that each may take.
    pub(crate) timeout: Option<String>,
    /// Which targets are presented; all where there is none.
    pub(crate) targets: Option<String>,
    /// Whether each LUN is presented on its own.
    pub(crate) per_lun: bool,
}

/// The `[browse]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BrowseConfig {
    /// The default of `--idle`.
    pub(crate) idle: Option<String>,
    /// The default of `--refresh`.
    pub(crate) refresh: Option<String>,
    /// The default of `--max-sessions`.
    pub(crate) max_sessions: Option<u16>,
    /// The default of `--targets`.
    pub(crate) targets: Option<String>,
}

/// One `[target."GLOB"]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TargetConfig {
    /// The CHAP user name.
    pub(crate) user: Option<String>,
    /// Where the CHAP secret is.
    pub(crate) password_file: Option<PathBuf>,
    /// The name that the target must prove itself with.
    pub(crate) target_user: Option<String>,
    /// Where the target's secret is.
    pub(crate) target_password_file: Option<PathBuf>,
}

impl Config {
    /// Reads `only` where it is given, else the system's file and the user's over it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a file that is not understood; a file that is not there is none, unless it is `only`.
    pub(crate) fn read(only: Option<&Path>) -> Result<Self> {
        let mut merged = toml::Table::new();
        if let Some(path) = only {
            let table = read_table(path)?.ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{}: no such file", path.display()))
            })?;
            merge(&mut merged, table);
        } else {
            for path in [Some(PathBuf::from(SYSTEM_FILE)), user_file()].into_iter().flatten() {
                match read_table(&path) {
                    Ok(table) => merge(&mut merged, table.unwrap_or_default()),
                    // Another user's home (`sudo -u` keeps HOME), or a file that is only root's.
                    Err(error) if error.kind() == ErrorKind::Permission => {
                        tracing::warn!("{error}: going on without it");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let config: Self = merged.try_into().map_err(|error: toml::de::Error| {
            Error::new(ErrorKind::Usage, format!("configuration: {}", one_line(&error)))
        })?;
        for pattern in config.target.keys() {
            glob("target", pattern)?;
        }
        Ok(config)
    }

    /// The table of the longest (so the most exact) glob that matches `target`.
    pub(crate) fn target(&self, target: &str) -> TargetConfig {
        self.target
            .iter()
            .filter(|(pattern, _)| {
                glob("target", pattern).is_ok_and(|glob| glob.compile_matcher().is_match(target))
            })
            .max_by_key(|(pattern, _)| pattern.len())
            .map(|(_, config)| config.clone())
            .unwrap_or_default()
    }
}

/// A pattern for target names, which stands in `key` of the configuration.
///
/// # Errors
/// [`ErrorKind::Usage`] for one that is none.
pub(crate) fn glob(key: &str, pattern: &str) -> Result<Glob> {
    Glob::new(pattern).map_err(|error| {
        Error::new(ErrorKind::Usage, format!("configuration: {key}: {pattern:?}: {}", error.kind()))
    })
}

/// `$XDG_CONFIG_HOME/snapbrowse/config.toml`, where there is a home at all.
fn user_file() -> Option<PathBuf> {
    let ours = xdg_directory(|name| std::env::var_os(name), "XDG_CONFIG_HOME", ".config")?;
    Some(ours.join("config.toml"))
}

/// Where we keep what must outlive the session and the next boot: in `$XDG_STATE_HOME`, and without it in the user's
/// home.
pub(crate) fn state_directory() -> Option<PathBuf> {
    state_directory_of(rustix::process::geteuid().is_root(), |name| std::env::var_os(name))
}

/// Root has one place: mount(8) and systemd set no `$HOME`, and sudo may leave that of somebody else.
fn state_directory_of(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let chosen = directory(&variable, "XDG_STATE_HOME");
    match chosen {
        None if root => Some(PathBuf::from(ROOTS_DIRECTORY)),
        _ => xdg_directory(variable, "XDG_STATE_HOME", ".local/state"),
    }
}

/// Our directory under an XDG base directory: the variable where it is absolute, else `fallback` in `$HOME`.
fn xdg_directory(
    variable: impl Fn(&str) -> Option<OsString>,
    name: &str,
    fallback: &str,
) -> Option<PathBuf> {
    let base = directory(&variable, name)
        .or_else(|| directory(&variable, "HOME").map(|home| home.join(fallback)))?;
    Some(base.join("snapbrowse"))
}

/// The value of a variable that names a directory; a relative one counts as none.
fn directory(variable: impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn read_table(path: &Path) -> Result<Option<toml::Table>> {
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    let wrong = |error: toml::de::Error| {
        Error::new(ErrorKind::Usage, format!("{}: {}", path.display(), one_line(&error)))
    };
    let table = text.parse::<toml::Table>().map_err(wrong)?;
    // Here, where it can be said which file it is.
    table.clone().try_into::<Config>().map_err(wrong)?;
    if table.contains_key("hooks") {
        check_author(path, &file.metadata().map_err(failed)?)?;
    }
    Ok(Some(table))
}

/// Whoever can write a file that names hooks has programs run in the name of whoever reads it.
fn check_author(path: &Path, metadata: &Metadata) -> Result<()> {
    let shown = path.display();
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let message = format!("{shown}: names hooks, and belongs to user {owner}");
        return Err(Error::new(ErrorKind::Usage, message)
            .with_hint("hooks are taken from files of your own or of root's only"));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        let message = format!("{shown}: names hooks, and with mode {mode:04o} others can write it");
        return Err(Error::new(ErrorKind::Usage, message).with_hint(format!("chmod go-w {shown}")));
    }
    Ok(())
}

/// The parser's complaint without the excerpt of the file, which may show what must not be shown.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', ", ")
}

/// Lays `over` on `base`: tables join key by key, everything else is replaced.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::browse::aliases;
    use crate::cli::units;

    fn parse(text: &str) -> Config {
        text.parse::<toml::Table>().unwrap().try_into().unwrap()
    }

    #[test]
    fn the_users_keys_win_and_tables_join() {
        let mut base: toml::Table =
            "initiator = 'a'\nportals = ['x']\n[target.'*']\nuser = 'u'".parse().unwrap();
        let over: toml::Table =
            "initiator = 'b'\n[target.'*']\npassword_file = '/p'\n[target.'iqn.x']\nuser = 'v'"
                .parse()
                .unwrap();
        merge(&mut base, over);
        let config: Config = base.try_into().unwrap();
        assert_eq!(config.initiator.as_deref(), Some("b"));
        assert_eq!(config.portals, ["x"]);
        let any = config.target("iqn.y");
        assert_eq!(any.user.as_deref(), Some("u"));
        assert_eq!(any.password_file, Some(PathBuf::from("/p")));
    }

    #[test]
    fn roots_state_is_in_one_place_with_and_without_a_home() {
        let state = |root: bool, set: &[(&str, &str)]| {
            let value = |name: &str| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            };
            state_directory_of(root, value).map(|path| path.to_str().unwrap().to_owned())
        };
        let root = Some("/var/lib/snapbrowse".to_owned());
        assert_eq!(state(true, &[]), root);
        assert_eq!(state(true, &[("HOME", "/home/ann")]), root);
        assert_eq!(state(true, &[("XDG_STATE_HOME", "relative")]), root);
        let chosen = [("HOME", "/home/ann"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(state(true, &chosen).as_deref(), Some("/s/snapbrowse"));
        assert_eq!(state(false, &chosen).as_deref(), Some("/s/snapbrowse"));
        let home = state(false, &chosen[..1]);
        assert_eq!(home.as_deref(), Some("/home/ann/.local/state/snapbrowse"));
        assert_eq!(state(false, &[]), None);
    }

    #[test]
    fn the_longest_matching_glob_decides() {
        let config = parse(
            "[target.'iqn.*']\nuser = 'any'\n[target.'iqn.2001-05.com.*:snap-*']\nuser = 'snap'\n[target.'x']\nuser = 'x'",
        );
        assert_eq!(config.target("iqn.2001-05.com.example:snap-1").user.as_deref(), Some("snap"));
        assert_eq!(config.target("iqn.2001-05.com.example:data").user.as_deref(), Some("any"));
        assert_eq!(config.target("eui.00").user, None);
    }

    #[test]
    fn the_example_in_the_readme_is_understood() {
        let readme = include_str!("../../README.md");
        let (_, example) = readme.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), example).unwrap();
        let config = Config::read(Some(file.path())).unwrap();
        assert_eq!(units::size(&config.cache.clone().unwrap()), Ok(256 << 20));
        assert!(units::duration(&config.timeout.clone().unwrap()).is_ok());
        let target = "iqn.2001-05.com.example:home-2026-11-20";
        assert_eq!(config.target(target).user.as_deref(), Some("backup"));
        let names = aliases(&config).unwrap().names([target]);
        assert_eq!(names, [("home".to_owned(), target.to_owned())]);
        assert!(config.hooks.present.is_some());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "initator = 'typo'").unwrap();
        let error = Config::read(Some(file.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.message().contains("initator"), "{error}");
        assert!(error.message().starts_with(file.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn hooks_are_taken_from_files_only_that_others_cannot_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[hooks]\npresent = ['/bin/true', 'a b']").unwrap();
        let read = |mode| {
            file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
            Config::read(Some(file.path()))
        };
        let hooks = read(0o644).unwrap().hooks;
        assert_eq!(hooks.present.unwrap().arguments(), ["a b"]);
        for mode in [0o664, 0o646] {
            let error = read(mode).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains("others can write it"), "{error}");
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(file.path(), Some(65534), None).unwrap();
            let error = read(0o644).unwrap_err();
            assert!(error.message().contains("belongs to user 65534"), "{error}");
        }
        // Everything else may stand there.
        std::fs::write(file.path(), "initiator = 'iqn.x'").unwrap();
        assert!(read(0o666).is_ok());
    }

    #[test]
    fn a_hook_that_is_none_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, said) in [
            ("revoke = []", "without a program"),
            ("revoke = ['bin/revoke']", "whole path"),
            ("revoke = 'revoke --all'", "sequence"),
            ("undo = ['/bin/true']", "undo"),
        ] {
            std::fs::write(file.path(), format!("[hooks]\n{text}")).unwrap();
            let error = Config::read(Some(file.path())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(said), "{error}");
        }
    }
}
