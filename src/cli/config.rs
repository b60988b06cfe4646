//! The configuration files: `$XDG_CONFIG_HOME/snapbrowse/config.toml` over `/etc/snapbrowse/config.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::Glob;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

const SYSTEM_FILE: &str = "/etc/snapbrowse/config.toml";

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
    /// Where open-iscsi keeps its nodes, where that is not the usual place.
    pub(crate) node_database: Option<PathBuf>,
    /// Logins by a glob over target names.
    target: BTreeMap<String, TargetConfig>,
    /// Readable names for targets.
    pub(crate) alias: toml::Table,
    /// Commands that present and revoke snapshots.
    pub(crate) hooks: toml::Table,
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
            glob(pattern)?;
        }
        Ok(config)
    }

    /// The table of the longest (so the most exact) glob that matches `target`.
    pub(crate) fn target(&self, target: &str) -> TargetConfig {
        self.target
            .iter()
            .filter(|(pattern, _)| {
                glob(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(target))
            })
            .max_by_key(|(pattern, _)| pattern.len())
            .map(|(_, config)| config.clone())
            .unwrap_or_default()
    }
}

fn glob(pattern: &str) -> Result<Glob> {
    Glob::new(pattern).map_err(|error| {
        Error::new(
            ErrorKind::Usage,
            format!("configuration: [target.{pattern:?}]: {}", error.kind()),
        )
    })
}

/// `$XDG_CONFIG_HOME/snapbrowse/config.toml`, where there is a home at all.
fn user_file() -> Option<PathBuf> {
    xdg_directory("XDG_CONFIG_HOME", ".config").map(|directory| directory.join("config.toml"))
}

/// Our directory under an XDG base directory: the variable where it is absolute, else `fallback` in `$HOME`.
pub(crate) fn xdg_directory(variable: &str, fallback: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)))?;
    Some(base.join("snapbrowse"))
}

fn read_table(path: &Path) -> Result<Option<toml::Table>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
    };
    text.parse::<toml::Table>().map(Some).map_err(|error| {
        Error::new(ErrorKind::Usage, format!("{}: {}", path.display(), one_line(&error)))
    })
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
    use super::*;

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
    fn the_longest_matching_glob_decides() {
        let config = parse(
            "[target.'iqn.*']\nuser = 'any'\n[target.'iqn.2001-05.com.*:snap-*']\nuser = 'snap'\n[target.'x']\nuser = 'x'",
        );
        assert_eq!(config.target("iqn.2001-05.com.example:snap-1").user.as_deref(), Some("snap"));
        assert_eq!(config.target("iqn.2001-05.com.example:data").user.as_deref(), Some("any"));
        assert_eq!(config.target("eui.00").user, None);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "initator = 'typo'").unwrap();
        let error = Config::read(Some(file.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.message().contains("initator"), "{error}");
    }
}
