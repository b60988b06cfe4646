//! A line on a terminal that says how far the work is.

use std::convert::Infallible;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::extract::Report;

use super::settings::Settings;

/// How often the line is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A bar on standard error, where that is a terminal; how much there is to do is not known beforehand.
pub(crate) fn bar(settings: &Settings) -> ProgressBar {
    if settings.quiet || settings.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}, {bytes} ({bytes_per_sec})");
    ProgressBar::new_spinner().with_style(style.expect("the template is well formed"))
}

/// Does `work` with the bar up to date.
pub(crate) async fn show<T>(
    bar: &ProgressBar,
    report: &Report,
    work: impl Future<Output = T>,
) -> T {
    let result = tokio::select! {
        result = work => result,
        never = keep_up(bar, report) => match never {},
    };
    bar.finish_and_clear();
    result
}

async fn keep_up(bar: &ProgressBar, report: &Report) -> Infallible {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        bar.set_message(format!("{} files", report.files()));
        bar.set_position(report.bytes());
        bar.tick();
    }
}
