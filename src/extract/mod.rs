//! Copies files and trees out of a [`crate::fs::Filesystem`], faithfully and never outside the destination.
