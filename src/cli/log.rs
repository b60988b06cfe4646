//! Messages on standard error while the work goes on.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
        .with_writer(std::io::stderr)
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
