//! What messages are made of: three codecs behind one guard.

mod bincode;
mod error;
mod guard;
mod json;
mod raw;
mod sink;

use std::{cell::Cell, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use error::PayloadError;
use guard::{Exceeded, Level, Seed};
use sink::Sink;

/// How payloads of a session are encoded. Stated by the client in its `Start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Between Rust programs with the same types.
    Bincode = 1,
    /// For people and other languages.
    Json = 2,
    /// Bytes as they are.
    Raw = 3,
}

impl Codec {
    /// The codec of a code from the wire; `None` for an unknown one.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Bincode,
            2 => Self::Json,
            3 => Self::Raw,
            _ => return None,
        })
    }

    /// The code on the wire.
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

/// A name that is no codec's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a codec: there are bincode, json and raw")]
pub struct UnknownCodec;

/// Values inside one another that a payload may have at most.
pub const MAX_DEPTH: u8 = 64;

/// Appends `value` to `out`.
///
/// # Errors
///
/// [`PayloadError::Codec`] if the value does not travel in `codec`. `out` is then as it was.
pub fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T, out: &mut Vec<u8>) -> Result<(), PayloadError> {
    encode_within(codec, value, usize::MAX, out)
}

/// Appends `value` to `out` if it takes at most `max` bytes. Stops at the first byte too many, so a value that is
/// far too long costs no more than one that is just too long.
///
/// # Errors
///
/// [`PayloadError::TooLong`] if it takes more bytes, [`PayloadError::Codec`] if it does not travel in `codec`. `out`
/// is then as it was.
pub fn encode_within<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), PayloadError> {
    let elements = Cell::new(max);
    let guarded = guard::Value::new(value, Level::top(&elements));
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
    if max - elements.get() > sink.len() {
        return Err(PayloadError::codec(codec, Exceeded::Elements));
    }
    sink.keep();
    Ok(())
}

/// The value that all of `bytes` are. Trailing bytes are an error (in JSON, white space is none).
///
/// # Errors
///
/// [`PayloadError::Codec`] if they are no such value, or go beyond what a payload may make a decoder do.
pub fn decode<T: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> Result<T, PayloadError> {
    decode_borrowed(codec, bytes)
}

/// As [`decode`], for a value that may borrow from `bytes`: a `&[u8]` in `raw` and bincode, a `&str` in all codecs
/// (in JSON only where nothing in it is escaped).
///
/// # Errors
///
/// Those of [`decode`].
pub fn decode_borrowed<'de, T: Deserialize<'de>>(codec: Codec, bytes: &'de [u8]) -> Result<T, PayloadError> {
    let elements = Cell::new(bytes.len());
    let seed = Seed::new(Level::top(&elements));
    match codec {
        Codec::Bincode => bincode::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Json => json::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
        Codec::Raw => raw::decode(seed, bytes).map_err(|e| PayloadError::codec(codec, e)),
    }
}
