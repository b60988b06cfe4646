//! Password files: the first line of a file that nobody but its owner can read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use secrecy::zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::iscsi::ChapSecret;

/// More than any CHAP secret needs; a wrong file must not be read whole.
const LONGEST: u64 = 4096;

/// Reads the secret from the first line of `path`, without its newline.
///
/// # Errors
/// [`ErrorKind::Permission`] for a file that group or others can read, [`ErrorKind::Usage`] for an empty line and where there
/// is no such file.
pub(crate) fn read(path: &Path) -> Result<ChapSecret> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| match error.kind() {
        // Not what was looked for in the snapshot is missing.
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::Usage, format!("password file {shown}: no such file"))
        }
        _ => Error::io(format!("open {shown}"), error),
    })?;
    let metadata = file.metadata().map_err(|error| Error::io(format!("stat {shown}"), error))?;
    // A pipe (`--password-file <(pass san)`) has no reader but us; only a file has a mode that matters.
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(Error::new(
            ErrorKind::Permission,
            format!(
                "{shown}: password file with mode {:04o} is open to others",
                metadata.mode() & 0o7777
            ),
        )
        .with_hint(format!("chmod 600 {shown}")));
    }
    // The capacity is never exceeded, so no copy is left behind by growing.
    let mut contents = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 32));
    file.take(LONGEST)
        .read_to_end(&mut contents)
        .map_err(|error| Error::io(format!("read {shown}"), error))?;
    let line = contents.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{shown}: the password is not UTF-8 text"))
    })?;
    if line.is_empty() {
        return Err(Error::new(ErrorKind::Usage, format!("{shown}: the first line is empty")));
    }
    Ok(ChapSecret::from(line))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::*;

    fn file(contents: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(contents).unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn the_first_line_without_its_newline() {
        for contents in [&b"secret"[..], b"secret\n", b"secret\r\n", b"secret\nmore\n"] {
            let secret = read(file(contents, 0o600).path()).unwrap();
            assert_eq!(secret.0.expose_secret(), "secret");
        }
    }

    #[test]
    fn a_file_open_to_others_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o777] {
            let error = read(file(b"secret\n", mode).path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Permission);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn an_empty_line_is_no_password() {
        let error = read(file(b"\nsecret\n", 0o400).path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
