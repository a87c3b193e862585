//! Files, memory, and for tests recording and faulty devices.
