#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| snapbrowse::fs::ext::fuzz::xattrs(bytes));
