//! `.snapbrowse/status`: what each target is doing, for people and for programs.

use serde_json::{Value, json};

use super::Shared;
use super::target::{Report, Target};
use super::tree::{Kind, ROOT};

impl Shared {
    /// The whole text of the status file.
    pub(super) fn status(&self, json: bool) -> String {
        let targets: Vec<(String, Report)> = {
            let tree = self.read();
            let targets = tree.children(ROOT, 0).filter_map(|(_, node)| match &node.kind {
                Kind::Target(target) => Some((node.name.clone(), Target::report(target))),
                _ => None,
            });
            targets.collect()
        };
        let failures: Vec<String> =
            self.read_failures().iter().map(|(_, failure)| failure.to_string()).collect();
        if json {
            let targets: Vec<Value> =
                targets.iter().map(|(name, report)| target_json(name, report)).collect();
            let document = json!({ "targets": targets, "portal_failures": failures });
            return format!("{document:#}\n");
        }
        let mut text = String::new();
        for failure in failures {
            text += &format!("portal: {failure}\n");
        }
        for (name, report) in &targets {
            text += &target_text(name, report);
        }
        text
    }
}

fn state(report: &Report) -> &'static str {
    match (&report.live, &report.failure) {
        (Some(_), _) if report.in_use > 0 => "in use",
        (Some(_), _) => "idle",
        (None, Some(_)) => "failed",
        (None, None) => "logged out",
    }
}

fn target_text(name: &str, report: &Report) -> String {
    let mut text = format!("{name}: {}", state(report));
    if report.live.is_some() && report.in_use == 0 {
        text += &format!(" for {} s", report.idle.as_secs());
    }
    text.push('\n');
    if let Some(live) = &report.live {
        for volume in &live.open.volumes {
            let path = if volume.path.is_empty() { ".".to_owned() } else { volume.path.join("/") };
            text += &format!("  {path}: {}\n", volume.summary);
        }
        for note in &live.open.notes {
            text += &format!("  note: {note}\n");
        }
        for path in (live.open.paths)() {
            text += &format!("  path: {path}\n");
        }
        text += &format!("  bytes read: {}\n", (live.open.bytes_read)());
    }
    if let Some((error, wait)) = &report.failure {
        text += &format!("  last error: {error}\n");
        if !wait.is_zero() {
            text += &format!("  tried again in {} s at the earliest\n", wait.as_secs() + 1);
        }
    }
    text
}

fn target_json(name: &str, report: &Report) -> Value {
    let volumes = report.live.iter().flat_map(|live| &live.open.volumes);
    let volumes: Vec<Value> = volumes
        .map(|volume| json!({ "path": volume.path.join("/"), "summary": volume.summary }))
        .collect();
    json!({
        "target": name,
        "state": state(report),
        "logins": report.logins,
        "volumes": volumes,
        "notes": report.live.as_ref().map(|live| &live.open.notes),
        "paths": report.live.as_ref().map(|live| (live.open.paths)()),
        "bytes_read": report.live.as_ref().map(|live| (live.open.bytes_read)()),
        "last_error": report.failure.as_ref().map(|(error, _)| error.to_string()),
    })
}
