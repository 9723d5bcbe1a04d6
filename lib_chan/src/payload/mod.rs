//! Encodes and decodes messages: three codecs behind one guard.
//!
//! Every session states one [`Codec`]. Arguments, messages and answers are values of Rust types that serde encodes and
//! decodes. A service need not know which codec its client chose, as long as the codec supports its types.
//!
//! # Bounds of a payload
//!
//! The guard stands between serde and the codec, in both directions and for every type. The sender already refuses a
//! value outside of these bounds, and says why.
//!
//! - **Depth.** Values are nested at most [`MAX_DEPTH`] deep. Sequences, maps, tuples, structs, newtypes, enums and
//!   `Some` count one each; the tuple or the fields of a variant count one more. Numbers, text, bytes, `None` and unit
//!   do not count. Skipped values (unknown fields in JSON) count like others.
//! - **Elements.** All sequences and maps of a payload together have at most as many elements as the payload has bytes.
//!   This affects only elements without a size: every other element takes at least one byte. So a `Vec<()>` of two,
//!   which is one byte in bincode, is refused there. Fields, and elements of arrays and tuples, are not counted: their
//!   number comes from the type.
//! - **Allocation.** Nothing is allocated because of a length that a payload states. A stated length is deducted from
//!   the remaining elements before a visitor sees it; text and bytes are cut from the payload and copied once.
//! - **End.** A payload is the value and nothing after it. (White space may surround JSON.)
//!
//! The guard cannot bound a type that contains itself only through `Option` or a newtype, inside `untagged`, `flatten`
//! or a tag: serde keeps such a value in its own buffer and decodes it from there repeatedly, in any format.
//!
//! # The codecs
//!
//! **bincode** is [bincode 2](https://docs.rs/bincode/2.0.1) in its standard configuration, through serde:
//!
//! - Unsigned integers of 16 bits and more, lengths and the indices of variants: below 251, one byte; else the byte
//!   251, 252, 253 or 254, and the number in 2, 4, 8 or 16 bytes, little-endian. A longer form than needed is read too,
//!   if it is no wider than the type, so payloads are not canonical. Signed integers are first turned into unsigned
//!   ones: `n` into `2n`, and below zero into `-2n - 1`. `u8` and `i8` are one byte, `usize` and `isize` have 64 bits.
//! - Floats are IEEE 754, little-endian, 4 or 8 bytes; `bool` is 0 or 1; `char` is its UTF-8.
//! - Text and bytes: length, content. Sequences: length, elements. Maps: length, then key and value in turn.
//! - `None` is 0, `Some` is 1 and the value. Enums: the index of the variant as a `u32`, then what it holds.
//! - Structs, tuples, arrays: their fields one after the other. Newtypes: what is in them. Unit: nothing.
//!
//! **json** is serde's JSON. Structs are objects, and are also read from arrays. `Request::Lookup { key }` is
//! `{"Lookup":{"key":…}}`, a variant without content is its name. Newtypes are their content, bytes an array of
//! numbers, unit is `null`. Keys are text; numbers and `bool` become text as keys. A field that comes twice is an
//! error. Of two equal keys of a map, the last counts. An empty payload is an error: missing arguments are `null`.
//!
//! **raw** is bytes as they are: `bytes::Bytes` and other types that serde calls bytes, `Vec<u8>`, `[u8; N]` (exactly
//! N), `String` (UTF-8), newtypes of these, and `()`, which is no bytes. Prefer `Bytes`: a `Vec<u8>` goes through
//! serde one byte at a time, here and in the other codecs.
//!
//! # Which Rust types travel
//!
//! | type | bincode | json |
//! |---|---|---|
//! | numbers, text, bytes, tuples, structs, enums, `Option`, `Result`, collections | yes | yes |
//! | `u128`, `i128`, `Duration`, `IpAddr`, `PathBuf` (UTF-8) | yes | yes |
//! | maps whose keys are no text, number, `bool` or variant without content | yes | not encoded |
//! | NaN and infinity | yes | **arrive as `null`** |
//! | `Some(None)`, `Some(())` | yes | **arrive as `None`** |
//! | `untagged`, `tag`, `tag` with `content` | not decoded | yes |
//! | `serde_json::Value`, and all else that asks what comes next | not decoded | yes |
//! | `flatten`, sequences of unknown length | not encoded | yes |
//! | `skip_serializing_if` on a field with a name | not encoded if left out | yes |
//! | `skip_serializing_if` on a field without a name | **later fields move up** | not decoded |
//! | `skip_serializing` without `skip_deserializing` | **later fields move up** | yes, with `default` |
//! | `skip` on a field | yes, as its default | yes, as its default |
//! | `skip` on a variant | **later variants move up**; as the last, yes | yes |
//! | another type, or the same with a field more | an error **or another value** | an error; a field more is ignored, a field less needs `default` |
//! | an enum with a variant more at its end | yes, but for that variant | yes, but for that variant |
//!
//! The entries in bold go wrong without an error: the bytes do not reveal them. A value that is *not decoded* is
//! refused by the receiver only, and a cast refused there ends the session. Try each message type once in a test of
//! your own.

mod bincode;
mod borrowable;
mod error;
mod guard;
mod handle;
mod json;
mod opaque;
mod raw;
mod sink;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use borrowable::Borrowable;
pub use error::PayloadError;
use guard::{Allowance, Exceeded, Level, Seed};
#[doc(hidden)]
pub use handle::Carried;
#[cfg(feature = "io")]
pub(crate) use handle::{deserialize_place, serialize_process};
pub use opaque::{Opaque, decode_message, encode_message};
#[doc(hidden)]
pub use opaque::{encode_in_message, encode_value_in_message};
use sink::Sink;

/// The encoding of all payloads of a session. The client states it in its `Start`; the service decides which ones it
/// accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// For Rust programs with the same types: short and fast. Both sides must have the same fields.
    Bincode = 1,
    /// For people and other languages, and for types that change.
    Json = 2,
    /// Plain bytes, for relays.
    Raw = 3,
}

impl Codec {
    /// Returns the codec with this code on the wire, or `None` if there is none.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Bincode,
            2 => Self::Json,
            3 => Self::Raw,
            _ => return None,
        })
    }

    /// Returns the code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bincode => "bincode",
            Self::Json => "json",
            Self::Raw => "raw",
        })
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        [Self::Bincode, Self::Json, Self::Raw]
            .into_iter()
            .find(|codec| codec.to_string() == name)
            .ok_or(UnknownCodec)
    }
}

/// A name that belongs to no codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown codec: expected bincode, json or raw")]
pub struct UnknownCodec;

/// The deepest nesting of values in a payload.
pub const MAX_DEPTH: u8 = 64;

/// Appends `value` to `out`.
///
/// # Errors
///
/// Returns [`PayloadError::Codec`] if `codec` cannot encode the value. `out` is unchanged then.
pub fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T, out: &mut Vec<u8>) -> Result<(), PayloadError> {
    encode_within(codec, value, usize::MAX, out)
}

/// Appends `value` to `out` if it takes at most `max` bytes. Stops at the first byte too many, so a value that is far
/// too long costs no more than one that is just too long.
///
/// # Errors
///
/// Returns [`PayloadError::TooLong`] if the value takes more bytes, and [`PayloadError::Codec`] if `codec` cannot
/// encode it. `out` is unchanged then.
pub fn encode_within<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), PayloadError> {
    encode_guarded(codec, value, max, out, Allowance::new(max)).map(drop)
}

/// Does what [`encode_within`] does, within a budget for `max` elements. Returns the processes in the value.
fn encode_guarded<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
    budget: Allowance,
) -> Result<Carried, PayloadError> {
    let guarded = guard::Value::new(value, Level::top(&budget));
    let mut sink = Sink::new(out, max);
    let encoded = match codec {
        Codec::Bincode => bincode::encode(guarded, &mut sink).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Json => json::encode(guarded, &mut sink).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Raw => raw::encode(guarded, &mut sink).map_err(|e| PayloadError::codec(codec, e)),
    };
    if sink.overflowed() {
        return Err(PayloadError::TooLong { max });
    }
    encoded?;
    if max - budget.elements() > sink.len() {
        return Err(PayloadError::codec(codec, Exceeded::Elements));
    }
    sink.keep();
    Ok(budget.into_carried())
}

/// Decodes a value from all of `bytes`. Trailing bytes are an error, except for white space in JSON.
///
/// # Errors
///
/// Returns [`PayloadError::Codec`] if `bytes` are no such value, or exceed the bounds of a payload.
pub fn decode<T: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> Result<T, PayloadError> {
    decode_borrowed(codec, bytes)
}

/// Decodes like [`decode`] a value that may borrow from `bytes`: a `&[u8]` in `raw` and bincode, a `&str` in all codecs
/// (in JSON only if it contains no escapes).
///
/// # Errors
///
/// Those of [`decode`].
pub fn decode_borrowed<'de, T: Deserialize<'de>>(codec: Codec, bytes: &'de [u8]) -> Result<T, PayloadError> {
    let budget = Allowance::new(bytes.len());
    let seed = Seed::new(Level::top(&budget));
    match codec {
        Codec::Bincode => bincode::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Json => json::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Raw => raw::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
    }
}

#[cfg(test)]
mod tests;
