//! What a fuzzer calls; compiled for it alone.

use super::decode::{Header, Operation, Request};

/// Decodes bytes as a request, with a header that says their length.
pub fn request(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
    if let Some(field) = bytes.first_chunk_mut::<4>() {
        *field = len;
    }
    let Ok((header, body, extensions)) = Header::decode(&bytes) else { return };
    let _ = header.wants_reply();
    if let Ok(request) = Request::decode_body(header, body, extensions)
        && let Operation::BatchForget { forgets } = request.operation
    {
        forgets.for_each(|_, _| {});
    }
}
