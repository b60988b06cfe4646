//! Medians, ratios and the table.

use std::fmt;
use std::time::Duration;

use crate::process::Cost;

/// One line of the table.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    /// Figures by name, ours first; of each the runs.
    pub(crate) figures: Vec<(String, Vec<f64>)>,
    /// What else was counted.
    pub(crate) notes: Vec<String>,
}

impl Line {
    pub(crate) fn new(work: impl Into<String>, unit: &'static str) -> Self {
        Self { work: work.into(), unit, ..Self::default() }
    }

    /// Adds a run of one of the programs.
    pub(crate) fn add(&mut self, name: &str, figure: f64) {
        match self.figures.iter_mut().find(|(known, _)| known == name) {
            Some((_, runs)) => runs.push(figure),
            None => self.figures.push((name.to_owned(), vec![figure])),
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The costs of several runs: the median of CPU, the most of memory.
    pub(crate) fn note_costs(&mut self, name: &str, costs: &[Cost], bytes: u64) {
        let per_gb = |cost: &Cost| cost.cpu.as_secs_f64() * 1e12 / bytes as f64;
        let cpu = median(&costs.iter().map(per_gb).collect::<Vec<_>>());
        let peak = costs.iter().map(|cost| cost.peak).max().unwrap_or(0) >> 20;
        self.note(format!("{name}: {cpu:.0} ms CPU/GB, {peak} MiB"));
    }
}

impl fmt::Display for Line {
    /// A row of a Markdown table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.figures.first().map_or(f64::NAN, |(_, runs)| median(runs));
        write!(f, "| {} | {}", self.work, self.unit)?;
        for (column, (name, runs)) in self.figures.iter().enumerate() {
            let median = median(runs);
            let lowest = runs.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let separator = if column < 2 { "|" } else { "<br>" };
            let show = Number;
            write!(f, " {separator} {name} {}", show(median))?;
            if runs.len() > 1 {
                write!(f, " ({} to {})", show(lowest), show(highest))?;
            }
            if column > 0 {
                write!(f, ", ours is {:.2} x", ours / median)?;
            }
        }
        if self.figures.len() < 2 {
            write!(f, " |")?;
        }
        write!(f, " | {} |", self.notes.join("; "))
    }
}

/// As many digits as mean something.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >= 100.0 {
            0
        } else if self.0 >= 10.0 {
            1
        } else {
            3
        };
        write!(f, "{:.digits$}", self.0)
    }
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// MB/s, with MB = 10^6.
pub(crate) fn rate(bytes: u64, wall: Duration) -> f64 {
    bytes as f64 / 1e6 / wall.as_secs_f64()
}
