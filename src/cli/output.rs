//! What goes to standard output: names that cannot drive a terminal, JSON, and quiet ends of pipes.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::Timestamp;

/// Buffered standard output.
pub(crate) struct Output {
    out: BufWriter<Apart>,
    terminal: bool,
}

impl Output {
    /// Standard output, which may be a terminal.
    pub(crate) fn new() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal();
        Self { out: BufWriter::with_capacity(64 << 10, Apart(out)), terminal }
    }

    /// Writes text and a newline.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<()> {
        writeln!(self.out, "{text}").map_err(failed)
    }

    /// Writes a name from the image, and nothing after it: escaped for a terminal, byte for byte otherwise.
    pub(crate) fn name(&mut self, name: &[u8]) -> Result<()> {
        if self.terminal {
            self.out.write_all(printable(name).as_bytes()).map_err(failed)
        } else {
            self.out.write_all(name).map_err(failed)
        }
    }

    /// Writes text and nothing after it.
    pub(crate) fn text(&mut self, text: impl std::fmt::Display) -> Result<()> {
        write!(self.out, "{text}").map_err(failed)
    }

    /// Writes a value as JSON, and nothing after it.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| failed(error.into()))
    }

    /// Writes one line of JSON.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<()> {
        self.json(value)?;
        self.line("")
    }

    /// Writes one document of JSON, for people to read too.
    pub(crate) fn json_document(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value).map_err(|error| failed(error.into()))?;
        self.line("")
    }

    /// Hands everything to the system.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(failed)
    }
}

/// Standard output, written without holding up the runtime: whoever reads it may never do so, and a signal and the
/// sessions must be attended to meanwhile.
struct Apart(Stdout);

impl Write for Apart {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        apart(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        apart(|| self.0.flush())
    }
}

/// Does what may block. Outside a runtime, and in one without workers, there is nobody to hold up.
fn apart<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A failed write to standard output.
pub(crate) fn failed(error: std::io::Error) -> Error {
    Error::io("write to standard output", error)
}

/// Whether the reader of our output went away, which is its right (`| head`).
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    error.kind() == ErrorKind::Io
        && source
            .is_some_and(|source: &std::io::Error| source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A name for people: control characters, invisible direction marks and bytes that are not UTF-8 as escapes.
pub(crate) fn printable(name: &[u8]) -> String {
    let mut shown = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            // U+202A..U+202E and U+2066..U+2069 reorder what follows them on the line.
            if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A name in JSON: `(text, bytes)`, the second in base64 where the first cannot hold the name without loss.
pub(crate) fn json_name(name: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(name) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(name).into_owned(), Some(BASE64.encode(name))),
    }
}

/// A time as RFC 3339 has it, in UTC with nanoseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    match jiff_time(time) {
        Some(time) => format!("{time:.9}"),
        None => format!("{}.{:09}", time.seconds, time.nanoseconds),
    }
}

/// A time for people, in the local time zone.
pub(crate) fn local_time(time: Timestamp) -> String {
    match jiff_time(time) {
        Some(time) => {
            let zoned = time.to_zoned(jiff::tz::TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M").to_string()
        }
        None => time.seconds.to_string(),
    }
}

fn jiff_time(time: Timestamp) -> Option<jiff::Timestamp> {
    let nanoseconds = i32::try_from(time.nanoseconds).ok()?;
    // Our nanoseconds count forwards also before 1970; jiff normalises mixed signs.
    jiff::Timestamp::new(time.seconds, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(printable(b"plain \xc3\xa4"), "plain \u{e4}");
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable(b"bad\xff"), "bad\\xff");
        assert_eq!(printable("x\u{202e}gpj.exe".as_bytes()), "x\\u{202e}gpj.exe");
        assert_eq!(printable("\u{9b}2J".as_bytes()), "\\u{9b}2J");
    }

    #[test]
    fn names_that_are_not_utf8_lose_nothing_in_json() {
        assert_eq!(json_name(b"ok"), ("ok".to_owned(), None));
        assert_eq!(json_name(b"a\xff"), ("a\u{fffd}".to_owned(), Some("Yf8=".to_owned())));
    }

    #[test]
    fn times_as_rfc3339() {
        let at = |seconds, nanoseconds| rfc3339(Timestamp { seconds, nanoseconds });
        assert_eq!(at(0, 1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(at(-1, 500_000_000), "1969-12-31T23:59:59.500000000Z");
        assert_eq!(at(15_032_385_535, 0), "2446-05-10T22:38:55.000000000Z");
        assert_eq!(at(-2_147_483_648, 0), "1901-12-13T20:45:52.000000000Z");
    }

    #[test]
    fn only_a_pipe_without_a_reader_ends_quietly() {
        assert!(is_broken_pipe(&failed(std::io::ErrorKind::BrokenPipe.into())));
        assert!(!is_broken_pipe(&failed(std::io::ErrorKind::StorageFull.into())));
        assert!(!is_broken_pipe(&Error::new(ErrorKind::Io, "broken pipe")));
    }
}
