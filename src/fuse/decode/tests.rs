//! Every field of every request, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

/// Every opcode that the adapter knows, and some that it does not.
const OPCODES: std::ops::RangeInclusive<u32> = 0..=60;

/// Builds a request; `extensions` must be whole units of 8 bytes.
fn request(opcode: u32, body: &[u8], extensions: &[u8]) -> Vec<u8> {
    let len = abi::IN_HEADER_BYTES + body.len() + extensions.len();
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(len).unwrap().to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    for word in [77u64, 5] {
        bytes.extend(word.to_ne_bytes());
    }
    for word in [1000u32, u32::MAX, 42] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(u16::try_from(extensions.len() / 8).unwrap().to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(body);
    bytes.extend(extensions);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn decoded(opcode: u32, body: &[u8]) -> String {
    format!("{:?}", Request::decode(&request(opcode, body, &[])).unwrap().operation)
}

#[test]
fn header_fields_are_where_the_kernel_puts_them() {
    let bytes = request(opcode::READLINK, &[], &[]);
    let header = Request::decode(&bytes).unwrap().header;
    assert_eq!((header.unique, header.node, header.pid), (77, 5, 42));
    assert_eq!((header.uid, header.gid), (1000, u32::MAX));
}

#[test]
fn length_must_be_what_was_read() {
    let mut bytes = request(opcode::READLINK, &[], &[]);
    bytes.push(0);
    assert!(Request::decode(&bytes).is_err());
    bytes.truncate(39);
    assert!(Request::decode(&bytes).is_err());
}

#[test]
fn names_end_at_their_nul() {
    assert_eq!(decoded(opcode::LOOKUP, b"ab\0"), format!("Lookup {{ name: {:?} }}", b"ab"));
    assert!(Request::decode(&request(opcode::LOOKUP, b"ab", &[])).is_err());
    let mut body = words(&[9, 0, 2, 0]);
    body.extend(b"old\0new\0");
    let bytes = request(opcode::RENAME2, &body, &[]);
    let Operation::Rename { name, new_parent, new_name, flags } =
        Request::decode(&bytes).unwrap().operation
    else {
        panic!("not a rename")
    };
    assert_eq!((name, new_parent, new_name, flags), (&b"old"[..], 9, &b"new"[..], 2));
}

#[test]
fn setattr_keeps_seconds_before_1970_and_takes_only_what_is_valid() {
    let mut body = words(&[fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW | fattr::UID, 0]);
    for word in [0u64, 4096, 0, (-5i64).cast_unsigned(), 7, 8] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(words(&[11, 12, 13, 0o644, 0, 1, 2, 0]));
    let bytes = request(opcode::SETATTR, &body, &[]);
    let Operation::SetAttr(set) = Request::decode(&bytes).unwrap().operation else {
        panic!("not a setattr")
    };
    let expected = SetAttr {
        uid: Some(1),
        atime: Some(SetTime::At(Timestamp { sec: -5, nsec: 11 })),
        mtime: Some(SetTime::Now),
        ..SetAttr::default()
    };
    assert_eq!(format!("{set:?}"), format!("{expected:?}"));
}

#[test]
fn setxattr_has_the_extended_header() {
    let mut body = words(&[3, 1, flag::SETXATTR_ACL_KILL_SGID, 0]);
    body.extend(b"user.a\0xyz");
    let bytes = request(opcode::SETXATTR, &body, &[]);
    let Operation::SetXattr { name, value, flags, kill_sgid } =
        Request::decode(&bytes).unwrap().operation
    else {
        panic!("not a setxattr")
    };
    assert_eq!((name, value, flags, kill_sgid), (&b"user.a"[..], &b"xyz"[..], 1, true));
}

#[test]
fn write_carries_its_payload() {
    let mut body = Vec::new();
    for word in [4u64, 4096] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(words(&[3, flag::WRITE_CACHE, 0, 0, libc::O_DIRECT.cast_unsigned(), 0]));
    body.extend(b"abc");
    let bytes = request(opcode::WRITE, &body, &[]);
    let Operation::Write { handle, offset, data, cached, kill_suidgid, direct } =
        Request::decode(&bytes).unwrap().operation
    else {
        panic!("not a write")
    };
    assert_eq!((handle, offset, data), (4, 4096, &b"abc"[..]));
    assert!(cached && direct && !kill_suidgid);
    // One byte fewer than announced.
    assert!(Request::decode(&request(opcode::WRITE, &body[..body.len() - 1], &[])).is_err());
}

#[test]
fn groups_come_from_the_extension_and_others_are_passed_over() {
    let extensions = words(&[8, 40, 16, abi::EXT_GROUPS, 1, 77]);
    let mut body = words(&[0o755, 0o22]);
    body.extend(b"d\0");
    let request_bytes = request(opcode::MKDIR, &body, &extensions);
    assert_eq!(Request::decode(&request_bytes).unwrap().groups, [77]);
    let too_many = words(&[16, abi::EXT_GROUPS, u32::MAX, 0]);
    assert!(Request::decode(&request(opcode::MKDIR, &body, &too_many)).is_err());
    let no_header = words(&[4, abi::EXT_GROUPS]);
    assert!(Request::decode(&request(opcode::MKDIR, &body, &no_header)).is_err());
}

#[test]
fn batch_forget_stops_at_what_is_there() {
    let mut body = words(&[2, 0]);
    for word in [5u64, 1, 6, 2] {
        body.extend(word.to_ne_bytes());
    }
    let bytes = request(opcode::BATCH_FORGET, &body, &[]);
    let parsed = Request::decode(&bytes).unwrap();
    assert!(!parsed.header.wants_reply());
    let Operation::BatchForget { forgets } = parsed.operation else { panic!("not a forget") };
    let mut seen = Vec::new();
    forgets.for_each(|node, count| seen.push((node, count)));
    assert_eq!(seen, [(5, 1), (6, 2)]);
    body[0] = 3;
    assert!(Request::decode(&request(opcode::BATCH_FORGET, &body, &[])).is_err());
}

#[test]
fn copies_are_read_alike_with_both_widths_of_reply() {
    let body: Vec<u8> = (1..=7u64).flat_map(u64::to_ne_bytes).collect();
    for (opcode, wide) in [(opcode::COPY_FILE_RANGE, false), (opcode::COPY_FILE_RANGE_64, true)] {
        let bytes = request(opcode, &body, &[]);
        let Operation::CopyFileRange(copy) = Request::decode(&bytes).unwrap().operation else {
            panic!("not a copy")
        };
        let expected = CopyIn { offset_in: 2, node_out: 3, offset_out: 5, len: 6, flags: 7, wide };
        assert_eq!(copy, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bodies_never_panic(
        opcode in OPCODES,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        extensions in proptest::collection::vec(any::<[u8; 8]>(), 0..4),
    ) {
        let bytes = request(opcode, &body, extensions.as_flattened());
        if let Ok(Request { operation: Operation::BatchForget { forgets }, .. }) =
            Request::decode(&bytes)
        {
            forgets.for_each(|_, _| ());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
    }

    #[test]
    fn every_cut_of_a_request_is_an_error_or_a_request(
        opcode in OPCODES,
        body in proptest::collection::vec(any::<u8>(), 0..80),
        cut in 0usize..120,
    ) {
        let mut bytes = request(opcode, &body, &[]);
        bytes.truncate(cut);
        let _ = Request::decode(&bytes);
        if let (Some(len), Ok(new_len)) = (bytes.first_chunk_mut(), u32::try_from(cut)) {
            *len = new_len.to_ne_bytes();
        }
        let _ = Request::decode(&bytes);
    }
}
