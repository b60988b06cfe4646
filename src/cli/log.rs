//! Messages while the work goes on: on standard error, and in the system's log where nobody reads that.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Error, ErrorKind, Result};

/// Shows warnings; with `verbosity` 1 what is done, with 2 and more how; with `quiet` errors only.
pub(crate) fn start(verbosity: u8, quiet: bool) {
    let level = match (quiet, verbosity) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::WARN,
        (false, 1) => Level::INFO,
        (false, 2) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Sink)
        .with_ansi(false)
        .event_format(OneLine)
        .init();
}

/// `snapbrowse: warning: ...`; details say which part of the program speaks.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("snapbrowse: ")?;
        match *event.metadata().level() {
            Level::ERROR => {}
            Level::WARN => writer.write_str("warning: ")?,
            Level::INFO => {}
            Level::DEBUG | Level::TRACE => write!(writer, "[{}] ", event.metadata().target())?,
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The socket of syslogd or journald, once messages go there.
static SYSLOG: OnceLock<UnixDatagram> = OnceLock::new();

/// From here on messages go to the system's log too, where there is one.
pub(crate) fn to_syslog() {
    let connected = UnixDatagram::unbound().and_then(|socket| {
        socket.connect("/dev/log")?;
        // A log that is stuck must not hold up a read.
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    if let Ok(socket) = connected {
        // A second call changes nothing.
        let _ = SYSLOG.set(socket);
    }
}

/// The file that messages are appended to, once there is one.
static FILE: OnceLock<PathBuf> = OnceLock::new();

/// From here on messages go to a file, which only its owner can read, and no more to the system's log.
///
/// # Errors
/// Where it cannot be opened or made.
pub(crate) fn to_file(path: &Path) -> Result<()> {
    // In the background the directory is another one.
    let path = std::path::absolute(path)
        .map_err(|error| Error::io(format!("log file {}", path.display()), error))?;
    append(&path, b"").map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let shown = path.display();
            Error::new(ErrorKind::Usage, format!("log file {shown}: there is no such directory"))
        }
        _ => Error::io(format!("log file {}", path.display()), error),
    })?;
    // A second call changes nothing.
    let _ = FILE.set(path);
    Ok(())
}

/// Opens the file for each line: whoever renames it need not tell us.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    File::options().append(true).create(true).mode(0o600).open(path)?.write_all(line)
}

/// A line as the file has it: with the time, in UTC.
fn stamped(line: &[u8]) -> Vec<u8> {
    let now = jiff::Timestamp::now();
    let mut stamped = format!("{now:.3} ").into_bytes();
    stamped.extend_from_slice(line.strip_prefix(b"snapbrowse: ").unwrap_or(line));
    stamped
}

/// Writes one whole line. There is nobody to tell of a failure.
pub(crate) fn line(level: Level, line: &str) {
    let _ = Line(level).write_all(line.as_bytes());
}

struct Sink;

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line(*metadata.level())
    }
}

/// Takes one line, in one write.
struct Line(Level);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(path) = FILE.get() {
            // Where the disk is full nobody can be told so.
            let _ = append(path, &stamped(line));
        } else if let Some(socket) = SYSLOG.get() {
            // Whoever reads standard error is told in any case.
            let _ = socket.send(&datagram(self.0, line));
        }
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message as `/dev/log` takes it (RFC 3164, without the time, which the log adds): facility daemon (3).
fn datagram(level: Level, line: &[u8]) -> Vec<u8> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let text = line.strip_prefix(b"snapbrowse: ").unwrap_or(line).trim_ascii_end();
    let mut datagram =
        format!("<{}>snapbrowse[{}]: ", 3 << 3 | severity, std::process::id()).into_bytes();
    datagram.extend_from_slice(text);
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_log_gets_a_priority_and_no_newline() {
        let datagram = datagram(Level::WARN, b"snapbrowse: warning: read inode 5: gone\n");
        let text = String::from_utf8(datagram).unwrap();
        assert!(text.starts_with("<28>snapbrowse["), "{text}");
        assert!(text.ends_with("]: warning: read inode 5: gone"), "{text}");
    }
}
