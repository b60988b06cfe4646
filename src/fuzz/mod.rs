//! What the fuzzers of all layers share. Their harnesses stand beside what they try: `iscsi::fuzz`, `volume::fuzz`,
//! `fs::ext::fuzz`; each has a target in `fuzz/` and a test that replays the seeds in `testdata/fuzz`.

mod device;
mod input;

pub(crate) use device::{Device, PIECE};
pub(crate) use input::Input;

/// Waits for what never has to: all devices of the harnesses lie in memory. Tasks that are still under way end with it.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing from the system")
        .block_on(future)
}

/// Gives all seeds of a target to its harness.
#[cfg(test)]
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz").join(target);
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        let seed = seed.unwrap().path();
        println!("{}", seed.display());
        run(&std::fs::read(seed).unwrap());
        count += 1;
    }
    assert!(count >= 5, "{count} seeds of {target}");
}
