//! What the log says of portals that do not let us in: each reason once, however often they are tried.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use crate::error::Error;

use super::Portal;
use super::proto::Notices;

/// So many reasons are told of a portal; one that has more makes them up.
const MAX_REASONS: usize = 16;

/// What was told of the portals of a session.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<Portal, Lines>);

#[derive(Debug, Default)]
struct Lines {
    reasons: HashSet<String>,
    redirects: HashSet<String>,
    notices: Notices,
}

impl Told {
    /// A login through the portal has failed, and the next one is tried.
    pub(super) fn passed_over(&mut self, portal: &Portal, error: &Error) {
        let Lines { reasons, notices, .. } = self.0.entry(portal.clone()).or_default();
        tell("passed over", error.to_string(), reasons, notices);
    }

    /// The portal has sent us elsewhere.
    pub(super) fn redirected(&mut self, portal: &Portal, line: String) {
        let Lines { redirects, notices, .. } = self.0.entry(portal.clone()).or_default();
        tell("redirected", line, redirects, notices);
    }

    /// A login through the portal has succeeded: what comes after that is news.
    pub(super) fn serves(&mut self, portal: &Portal) {
        if let Some(lines) = self.0.get_mut(portal) {
            lines.reasons.clear();
        }
    }
}

fn tell(event: &'static str, line: String, told: &mut HashSet<String>, notices: &mut Notices) {
    // What is passed over because of the one before is told when it comes back.
    let is_news = told.len() < MAX_REASONS && !told.contains(&line);
    if is_news && notices.allow(event, Instant::now()).is_some() {
        tracing::info!("{line}");
        told.insert(line);
    }
}
