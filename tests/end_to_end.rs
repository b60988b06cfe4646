//! The main job from end to end.

mod common;

use common::{Need, can_run};

#[test]
fn loop_devices_are_there() {
    if !can_run("loop_devices_are_there", &[Need::Root, Need::Program("losetup")]) {
        return;
    }
    assert!(std::path::Path::new("/dev/loop-control").exists());
}
