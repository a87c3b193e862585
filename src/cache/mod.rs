//! Clean nodes in memory, verified when read.
