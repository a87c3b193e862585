//! A pool: recovery, checkpoint, catalog, volumes.
