//! The other reader beside ours.

use std::sync::Arc;

use snapbrowse::fs::ext::Ext;
use snapbrowse_images::engines::{Comparison, Condition, compare};

/// Compares all that both engines tell of a sound file system: they may differ by faults of the other one that are known.
pub async fn assert_readers_agree(fs: Ext, name: &str) -> Comparison {
    let comparison = compare(Arc::new(fs), Condition::Clean).await.unwrap();
    println!("{name}: {} paths; {:?}", comparison.paths, comparison.faults);
    assert!(comparison.unexplained.is_empty(), "{name}: {:#?}", comparison.unexplained);
    comparison
}
