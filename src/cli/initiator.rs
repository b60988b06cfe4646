//! Our iSCSI name: what the SAN's access lists must allow.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

use super::config::state_directory;

/// The longest iSCSI name, in bytes (RFC 7143 section 4.2.7.1).
const LONGEST_NAME: usize = 223;

/// open-iscsi's file; on many systems only root can read it.
const SYSTEM_FILE: &str = "/etc/iscsi/initiatorname.iscsi";

/// The name from the system's file, else the one that was generated for this user, now or earlier.
///
/// # Errors
/// [`ErrorKind::Usage`] where a name can neither be found nor kept.
pub(crate) fn default_name() -> Result<String> {
    if let Some(name) = std::fs::read_to_string(SYSTEM_FILE).ok().as_deref().and_then(parse) {
        return Ok(name);
    }
    let directory = state_directory().ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            "no initiator name, and no home directory to keep a generated one",
        )
        .with_hint("use --initiator IQN")
    })?;
    kept_name(&directory)
}

/// Whether `name` can be an iSCSI name (RFC 7143 section 4.2.7); else why not.
pub(crate) fn check_name(name: &str) -> std::result::Result<(), String> {
    if !["iqn.", "eui.", "naa."].iter().any(|form| name.starts_with(form)) {
        return Err("those begin with iqn., eui. or naa.".to_owned());
    }
    // Some targets allow an underscore, which the RFC does not.
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    if let Some(c) = name.chars().find(|c| !fits(*c)) {
        return Err(format!("it has a {c:?}"));
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("it has more than {LONGEST_NAME} bytes"));
    }
    Ok(())
}

/// The `InitiatorName=` line of open-iscsi's file.
fn parse(text: &str) -> Option<String> {
    let name = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="))?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The name kept in `directory`, generated at first use. A SAN's access list holds it, so it must never change.
fn kept_name(directory: &Path) -> Result<String> {
    let path = directory.join("initiatorname");
    let failed = |what: &str, error| {
        Error::io(format!("{what} {}", path.display()), error).with_hint("use --initiator IQN")
    };
    let existing = || std::fs::read_to_string(&path).ok().as_deref().and_then(parse);
    if let Some(name) = existing() {
        return Ok(name);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| failed("make the directory of", error))?;
    let name = generate()?;
    // Written aside and linked: two processes that start at once agree on one name.
    let aside = directory.join(format!(".initiatorname.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| writeln!(file, "InitiatorName={name}"));
    let linked = written.and_then(|()| std::fs::hard_link(&aside, &path));
    // The file aside has served its purpose, or never came to be.
    let _ = std::fs::remove_file(&aside);
    match linked {
        Ok(()) => Ok(name),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            existing().ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{}: no InitiatorName= line", path.display()))
            })
        }
        Err(error) => Err(failed("write", error)),
    }
}

/// A new name (RFC 7143 section 4.2.7.4: iqn, a date, a naming authority, then what the authority chooses): the
/// host name for people, random digits for uniqueness.
fn generate() -> Result<String> {
    let mut random = [0; 4];
    getrandom::fill(&mut random)
        .map_err(|error| Error::new(ErrorKind::Io, format!("random numbers: {error}")))?;
    let host: String = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_ascii_lowercase()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        .take(64)
        .collect();
    Ok(format!("iqn.2026-11.io.snapbrowse:{host}:{:08x}", u32::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_iscsis_file() {
        assert_eq!(
            parse("## comment\nInitiatorName=iqn.1993-08.org.debian:01:abc \n").as_deref(),
            Some("iqn.1993-08.org.debian:01:abc")
        );
        assert_eq!(parse("GenerateName=yes\n"), None);
    }

    #[test]
    fn a_generated_name_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/snapbrowse");
        let name = kept_name(&state).unwrap();
        assert!(name.starts_with("iqn.2026-11.io.snapbrowse:"), "{name}");
        assert_eq!(kept_name(&state).unwrap(), name);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_new_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("initiatorname"), "garbage").unwrap();
        assert_eq!(kept_name(directory.path()).unwrap_err().kind(), ErrorKind::Usage);
    }
}
