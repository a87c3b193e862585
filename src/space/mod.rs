//! Which blocks of the data file are free.
