//! A volume on a real mount: what programs see. One file per class of operations.
//!
//! A mount that cannot be made fails the test: without /dev/fuse and the right to mount there is
//! nothing here that could be called tested.

mod acls;
mod attributes;
mod compare;
mod controls;
mod data;
mod direct;
mod directories;
mod full;
mod handles;
mod idmapped;
mod lifecycle;
mod listing;
mod locks;
#[path = "../support/mapping.rs"]
mod mapping;
mod names;
mod namespaces;
mod p1;
mod paths;
mod privileges;
mod programs;
#[path = "../support/random.rs"]
mod random;
mod ranges;
mod snapshots;
mod stacked;
mod support;
mod sys;
mod times;
mod twin;
mod unlinked;
mod unnamed;
mod unprivileged;
mod watches;
mod xattrs;
