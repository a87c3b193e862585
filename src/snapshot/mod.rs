//! Lineage and deadlists.
