//! POSIX semantics of a volume and of its snapshot views.
