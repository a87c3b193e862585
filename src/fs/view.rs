//! Snapshots that are being looked into, by number.

use std::collections::HashMap;

use super::error::Error;
use super::{Filesystem, NodeId};
use crate::pool::{SnapshotInfo, Source};
use crate::threads::RwLock;

/// Snapshots that were looked into, with the states to read from.
pub(super) type Views = RwLock<HashMap<u32, Source>>;

/// Views that are kept open at most; then those that are gone are dropped, or all of them.
const MAX_VIEWS: usize = 4096;

impl Filesystem {
    /// The state of a snapshot; [`Error::Stale`] when it has been deleted.
    pub(super) fn view(&self, number: u32) -> Result<Source, Error> {
        if let Some(source) = self.views.read().get(&number) {
            return Ok(source.clone());
        }
        let pool = self.volume.pool();
        let info =
            pool.snapshot_by_number(self.volume.id(), number).map_err(
                |error| match Error::from(error) {
                    Error::NotFound => Error::Stale,
                    other => other,
                },
            )?;
        self.view_of(&info)
    }

    /// The state of a snapshot that was just found by name.
    pub(super) fn view_of(&self, info: &SnapshotInfo) -> Result<Source, Error> {
        if let Some(source) = self.views.read().get(&info.number) {
            return Ok(source.clone());
        }
        let source = self.volume.pool().view(info.member)?;
        let mut views = self.views.write();
        if views.len() >= MAX_VIEWS {
            views.clear();
        }
        views.insert(info.number, source.clone());
        Ok(source)
    }

    /// Lets go of a snapshot that has been deleted.
    pub(super) fn drop_view(&self, number: u32) {
        self.views.write().remove(&number);
    }

    /// Lets go of deleted snapshots when one turns out to be stale.
    pub(super) fn stale(&self, node: NodeId) {
        if let super::NodeKind::View { snapshot, .. } = node.kind() {
            self.drop_view(snapshot);
        }
    }
}
