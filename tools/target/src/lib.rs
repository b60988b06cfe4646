//! A small, read-only, scriptable iSCSI target.
