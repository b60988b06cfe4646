//! Comparisons of file systems that a tool and the tests share.

pub mod engines;
