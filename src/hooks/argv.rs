//! A program with its arguments.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A program with its arguments, as `execvp` takes them: no shell sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Argv(Vec<String>);

impl Argv {
    /// The program: an absolute path, or a name to be looked for on the PATH.
    pub fn program(&self) -> &str {
        &self.0[0]
    }

    /// The arguments after the program's name.
    pub fn arguments(&self) -> &[String] {
        &self.0[1..]
    }
}

impl TryFrom<Vec<String>> for Argv {
    type Error = Error;

    fn try_from(argv: Vec<String>) -> Result<Self, Error> {
        let wrong = |why: String| Error::new(ErrorKind::Usage, why);
        let program = argv.first().ok_or_else(|| wrong("a hook without a program".to_owned()))?;
        // A process in the background has left the directory that a relative path was meant from.
        if program.is_empty() || program.contains('/') && !Path::new(program).is_absolute() {
            return Err(wrong(format!("hook {program:?}: write the whole path of the program")));
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Err(wrong(format!("hook {program:?}: an argument holds a zero byte")));
        }
        Ok(Self(argv))
    }
}

impl From<Argv> for Vec<String> {
    fn from(argv: Argv) -> Self {
        argv.0
    }
}

/// The program alone: arguments are the user's business.
impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_name_or_a_whole_path() {
        let argv = |words: &[&str]| {
            Argv::try_from(words.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(argv(&["ssh", "san", "show"]).is_ok());
        assert_eq!(argv(&["/bin/true", "a b"]).unwrap().arguments(), ["a b"]);
        for wrong in [&[][..], &[""], &["./present"], &["~/bin/present"], &["true", "a\0b"]] {
            assert_eq!(argv(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong:?}");
        }
    }
}
