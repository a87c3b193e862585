//! Requests as `/dev/fuse` gives them, made of an input's bytes: the kernel's structures with what the input
//! says in their fields, and at times no such structure at all.

use amberfs::fuse::fuzzing::{IN_HEADER_BYTES, MAX_PAYLOAD_BYTES, RESENT, opcode};

use super::Input;
use super::operations::{attribute, name};

/// Every opcode, and some again, so that there is something that the others can be done with.
const CODES: [u32; 56] = [
    opcode::LOOKUP,
    opcode::FORGET,
    opcode::GETATTR,
    opcode::SETATTR,
    opcode::READLINK,
    opcode::SYMLINK,
    opcode::MKNOD,
    opcode::MKDIR,
    opcode::UNLINK,
    opcode::RMDIR,
    opcode::RENAME,
    opcode::LINK,
    opcode::OPEN,
    opcode::READ,
    opcode::WRITE,
    opcode::STATFS,
    opcode::RELEASE,
    opcode::FSYNC,
    opcode::SETXATTR,
    opcode::GETXATTR,
    opcode::LISTXATTR,
    opcode::REMOVEXATTR,
    opcode::FLUSH,
    opcode::OPENDIR,
    opcode::READDIR,
    opcode::RELEASEDIR,
    opcode::FSYNCDIR,
    opcode::ACCESS,
    opcode::CREATE,
    opcode::INTERRUPT,
    opcode::BMAP,
    opcode::DESTROY,
    opcode::NOTIFY_REPLY,
    opcode::BATCH_FORGET,
    opcode::FALLOCATE,
    opcode::READDIRPLUS,
    opcode::RENAME2,
    opcode::LSEEK,
    opcode::COPY_FILE_RANGE,
    opcode::SYNCFS,
    opcode::TMPFILE,
    opcode::STATX,
    opcode::COPY_FILE_RANGE_64,
    opcode::LOOKUP,
    opcode::MKDIR,
    opcode::MKDIR,
    opcode::CREATE,
    opcode::CREATE,
    opcode::CREATE,
    opcode::CREATE,
    opcode::WRITE,
    opcode::WRITE,
    opcode::WRITE,
    opcode::READ,
    opcode::SETXATTR,
    opcode::READDIRPLUS,
];

/// What the kernel would know by now.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) nodes: Vec<u64>,
    pub(crate) handles: Vec<u64>,
}

/// Puts fields behind each other.
struct Body(Vec<u8>);

impl Body {
    fn u16(mut self, field: u16) -> Body {
        self.0.extend(field.to_ne_bytes());
        self
    }

    fn u32(mut self, field: u32) -> Body {
        self.0.extend(field.to_ne_bytes());
        self
    }

    fn u64(mut self, field: u64) -> Body {
        self.0.extend(field.to_ne_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Body {
        self.0.extend(bytes);
        self
    }

    /// A name and the NUL behind it, which is left out at times.
    fn name(mut self, input: &mut Input<'_>) -> Body {
        self.0.extend(name(input));
        if input.u8() < 250 {
            self.0.push(0);
        }
        self
    }

    fn attribute(mut self, input: &mut Input<'_>) -> Body {
        self.0.extend(attribute(input));
        self.0.push(0);
        self
    }
}

fn edge32(input: &mut Input<'_>) -> u32 {
    input.edge() as u32
}

/// Mostly one of `usual`, or any.
fn flags(input: &mut Input<'_>, usual: &[u32]) -> u32 {
    match input.u8() {
        at @ 0..224 => usual[usize::from(at) % usual.len()],
        _ => edge32(input),
    }
}

impl Known {
    fn node(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() {
            at @ 0..240 => self.nodes[usize::from(at) % self.nodes.len()],
            _ => input.edge(),
        }
    }

    fn handle(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() {
            at @ 0..224 => self.handles[usize::from(at) % self.handles.len()],
            _ => input.edge(),
        }
    }

    /// The next request of the input, with the number `unique` or that of one sent again.
    pub(crate) fn request(&self, input: &mut Input<'_>, unique: u64) -> Vec<u8> {
        let code = match input.u8() {
            at @ 0..252 => CODES[usize::from(at) % CODES.len()],
            _ => edge32(input),
        };
        let node = self.node(input);
        let odd = input.u8();
        let unique = if odd & 7 == 7 { unique | RESENT } else { unique };
        let ids = match odd & 24 {
            24 => [edge32(input), edge32(input), [0, 1 << 31, u32::MAX][input.below(3)]],
            _ => [0, 0, std::process::id()],
        };
        let body = match odd {
            250.. => input.take(usize::from(odd)).to_vec(),
            _ => self.body(input, code, node),
        };
        let head =
            Body(Vec::new()).u32((IN_HEADER_BYTES + body.len()) as u32).u32(code).u64(unique);
        let head = head.u64(node).u32(ids[0]).u32(ids[1]).u32(ids[2]).u16(0).u16(0);
        let bytes = head.bytes(&body).0;
        if odd & 0xe0 == 0x60 { distorted(input, bytes) } else { bytes }
    }

    fn body(&self, input: &mut Input<'_>, code: u32, node: u64) -> Vec<u8> {
        let body = Body(Vec::new());
        let body = match code {
            opcode::LOOKUP | opcode::UNLINK | opcode::RMDIR => body.name(input),
            opcode::FORGET => body.u64(input.edge()),
            opcode::BATCH_FORGET => self.forgets(input, node),
            opcode::GETATTR => body.u32(flags(input, &[0, 1])).u32(0).u64(self.handle(input)),
            opcode::SETATTR => self.attributes(input),
            opcode::SYMLINK => {
                let target = vec![b't'; input.u16() % 5000];
                body.name(input).bytes(&target).bytes(b"\0")
            }
            opcode::MKNOD => {
                let kinds = [0o100_644, 0o10_600, 0o140_777, 0o20_666, 0o60_600, 0o40_755];
                let (mode, device) = (flags(input, &kinds), edge32(input));
                body.u32(mode).u32(device).u32(edge32(input)).u32(0).name(input)
            }
            opcode::MKDIR => {
                body.u32(flags(input, &[0o755, 0o7777])).u32(edge32(input)).name(input)
            }
            opcode::RENAME => body.u64(self.node(input)).name(input).name(input),
            opcode::RENAME2 => {
                let body = body.u64(self.node(input)).u32(flags(input, &[0, 1, 2, 4])).u32(0);
                body.name(input).name(input)
            }
            opcode::LINK => body.u64(self.node(input)).name(input),
            opcode::SETXATTR => setxattr(input),
            opcode::GETXATTR => {
                body.u32(flags(input, &[0, 1, 4096, 65536])).u32(0).attribute(input)
            }
            opcode::LISTXATTR => body.u32(flags(input, &[0, 1, 4096, 65536])).u32(0),
            opcode::REMOVEXATTR => body.attribute(input),
            opcode::INTERRUPT => body.u64(input.edge()),
            opcode::BMAP => body.u64(input.edge()).u32(edge32(input)).u32(0),
            opcode::ACCESS => body.u32(edge32(input)).u32(0),
            opcode::SYNCFS => body.u64(0),
            opcode::STATX => body.u32(edge32(input)).u32(0).u64(self.handle(input)).u64(0),
            _ => self.open_file(input, code),
        };
        body.0
    }

    /// Bodies of what makes or uses a handle.
    fn open_file(&self, input: &mut Input<'_>, code: u32) -> Body {
        /// O_RDONLY, O_WRONLY, O_RDWR; O_CREAT, O_EXCL, O_TRUNC, O_APPEND with the last.
        const OPEN: [u32; 7] = [0, 1, 2, 0o102, 0o302, 0o1102, 0o2002];
        let body = Body(Vec::new());
        match code {
            opcode::OPEN | opcode::OPENDIR => {
                body.u32(flags(input, &OPEN)).u32(flags(input, &[0, 1]))
            }
            opcode::CREATE | opcode::TMPFILE => {
                let mode = flags(input, &[0o100_644, 0o106_777]);
                let body = body.u32(flags(input, &OPEN)).u32(mode);
                body.u32(flags(input, &[0o22, 0])).u32(0).name(input)
            }
            opcode::READ | opcode::READDIR | opcode::READDIRPLUS => {
                let (handle, offset) = (self.handle(input), input.edge());
                let size = flags(input, &[4096, 1, 100, 65536, 0, 1 << 17, 1 << 20, 1 << 31]);
                body.u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0)
            }
            opcode::WRITE => self.write(input),
            opcode::RELEASE | opcode::RELEASEDIR => {
                body.u64(self.handle(input)).u32(edge32(input)).u32(edge32(input)).u64(0)
            }
            opcode::FSYNC | opcode::FSYNCDIR => {
                body.u64(self.handle(input)).u32(flags(input, &[0, 1])).u32(0)
            }
            opcode::FLUSH => body.u64(self.handle(input)).u32(0).u32(0).u64(0),
            opcode::FALLOCATE => {
                let body = body.u64(self.handle(input)).u64(input.edge()).u64(input.edge());
                body.u32(flags(input, &[0, 1, 3, 0x10, 0x11])).u32(0)
            }
            opcode::LSEEK => {
                let body = body.u64(self.handle(input)).u64(input.edge());
                body.u32(flags(input, &[3, 4])).u32(0)
            }
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => {
                let body = body.u64(self.handle(input)).u64(input.edge()).u64(self.node(input));
                let body = body.u64(self.handle(input)).u64(input.edge()).u64(input.edge());
                body.u64(if input.u8() < 240 { 0 } else { input.edge() })
            }
            _ => {
                let len = input.below(64);
                body.bytes(input.take(len))
            }
        }
    }

    fn forgets(&self, input: &mut Input<'_>, node: u64) -> Body {
        let pairs: Vec<u64> = (0..input.below(4))
            .flat_map(|_| [self.node(input), input.edge()])
            .chain([node, 1])
            .collect();
        let count = match input.u8() {
            0..224 => pairs.len() as u32 / 2,
            _ => edge32(input),
        };
        let body = Body(Vec::new()).u32(count).u32(0);
        pairs.into_iter().fold(body, Body::u64)
    }

    fn attributes(&self, input: &mut Input<'_>) -> Body {
        // FATTR_MODE, _UID, _GID, _SIZE; all times; with the flags that go with a change of size.
        let valid = flags(input, &[1, 2, 4, 8, 0x30, 0x1b0, 0x408, 0x80f]);
        let body = Body(Vec::new()).u32(valid).u32(0).u64(self.handle(input)).u64(input.edge());
        let body = body.u64(0).u64(input.edge()).u64(input.edge()).u64(input.edge());
        let nanoseconds = edge32(input);
        let body = body.u32(nanoseconds).u32(nanoseconds).u32(nanoseconds);
        let mode = flags(input, &[0o100_644, 0o106_777]);
        body.u32(mode).u32(0).u32(edge32(input)).u32(edge32(input)).u32(0)
    }

    fn write(&self, input: &mut Input<'_>) -> Body {
        let body = Body(Vec::new()).u64(self.handle(input)).u64(input.edge());
        let len = match input.u8() {
            0..248 => input.u16() % 20_000,
            248..252 => MAX_PAYLOAD_BYTES,
            _ => MAX_PAYLOAD_BYTES + 1,
        };
        let size = match input.u8() {
            0..240 => len as u32,
            _ => edge32(input),
        };
        // FUSE_WRITE_CACHE, FUSE_WRITE_KILL_SUIDGID; O_DIRECT.
        let body = body.u32(size).u32(flags(input, &[0, 1, 4])).u64(0);
        body.u32(flags(input, &[2, 0o40_002])).u32(0).bytes(&vec![input.u8(); len])
    }
}

fn setxattr(input: &mut Input<'_>) -> Body {
    let value = vec![input.u8(); [1, 44, 300, 4096, 0, 65535, 65536, 65537][input.below(8)]];
    let size = match input.u8() {
        0..240 => value.len() as u32,
        _ => edge32(input),
    };
    let body = Body(Vec::new()).u32(size).u32(flags(input, &[0, 1, 2]));
    body.u32(flags(input, &[0, 1])).u32(0).attribute(input).bytes(&value)
}

/// The request with a wrong length, cut off, with bytes behind it, or with extensions.
fn distorted(input: &mut Input<'_>, mut bytes: Vec<u8>) -> Vec<u8> {
    let say = |bytes: &mut Vec<u8>| {
        let len = bytes.len() as u32;
        if let Some(field) = bytes.first_chunk_mut::<4>() {
            *field = len.to_ne_bytes();
        }
    };
    match input.u8() % 8 {
        0 => bytes[..4].copy_from_slice(&edge32(input).to_ne_bytes()),
        1 => {
            bytes.truncate(1 + input.below(IN_HEADER_BYTES));
            say(&mut bytes);
        }
        2 | 3 => {
            bytes.truncate((IN_HEADER_BYTES + input.below(64)).min(bytes.len()));
            say(&mut bytes);
        }
        4 => {
            bytes.extend(vec![input.u8(); 1 + input.u8() as usize]);
            say(&mut bytes);
        }
        5 => bytes[36..38].copy_from_slice(&(input.edge() as u16).to_ne_bytes()),
        // FUSE_EXT_GROUPS, mostly as many as it says.
        _ => {
            let count = flags(input, &[1, 0, 3, 31, 33]);
            let listed = count.min(40) & !1 | 1;
            let size = flags(input, &[12 + 4 * listed]);
            let mut extension = Body(Vec::new()).u32(size).u32(flags(input, &[32])).u32(count);
            for _ in 0..listed {
                extension = extension.u32(edge32(input));
            }
            let units = extension.0.len() as u16 / 8;
            bytes.extend(extension.0);
            bytes[36..38].copy_from_slice(&units.to_ne_bytes());
            say(&mut bytes);
        }
    }
    bytes
}
