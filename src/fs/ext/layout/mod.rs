//! On-disk structures of ext2/3/4: pure functions from bytes to validated values, one file per structure.

pub mod jbd2;
