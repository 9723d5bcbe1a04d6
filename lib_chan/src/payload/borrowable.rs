//! Messages that can be read without a copy.

use bytes::Bytes;
use serde::Deserialize;

/// A type of messages with a form that borrows from the received bytes, for
/// [`Channel::recv_with`](crate::Channel::recv_with).
///
/// Both forms must be read from the same payload: the same variants and fields in the same order. Bytes can be borrowed in
/// `raw` and bincode, text in all codecs, in JSON only if it contains no escapes; what cannot be borrowed does not decode.
///
/// ```
/// use lib_chan::payload::Borrowable;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Request {
///     Store { key: String, value: Vec<u8> },
///     Forget(String),
/// }
///
/// #[derive(Deserialize)]
/// enum RequestRef<'a> {
///     Store { key: &'a str, value: &'a [u8] },
///     Forget(&'a str),
/// }
///
/// impl Borrowable for Request {
///     type Borrowed<'a> = RequestRef<'a>;
/// }
/// ```
pub trait Borrowable {
    /// The form that borrows.
    type Borrowed<'a>: Deserialize<'a>;
}

impl Borrowable for String {
    type Borrowed<'a> = &'a str;
}

impl Borrowable for Vec<u8> {
    type Borrowed<'a> = &'a [u8];
}

impl Borrowable for Bytes {
    type Borrowed<'a> = &'a [u8];
}
