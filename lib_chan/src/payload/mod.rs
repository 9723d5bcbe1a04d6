//! What messages are made of: three codecs behind one guard.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// Why a value does not travel, or bytes are not the value expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// More bytes than a payload may have.
    #[error("longer than the {max} bytes a payload may have")]
    TooLong {
        /// The most bytes a payload may have.
        max: usize,
    },
    /// Does not encode or decode.
    #[error("{codec}: {what}")]
    Codec {
        /// The codec that refused it.
        codec: Codec,
        /// What it said.
        what: Box<str>,
    },
}

/// Appends `value` to `out`.
pub fn encode<T: Serialize + ?Sized>(codec: Codec, value: &T, out: &mut Vec<u8>) -> Result<(), PayloadError> {
    encode_within(codec, value, usize::MAX, out)
}

/// Appends `value` to `out` unless it takes more than `max` bytes.
pub fn encode_within<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), PayloadError> {
    let failed = |what: String| PayloadError::Codec { codec, what: what.into() };
    let bytes = match codec {
        Codec::Bincode => bincode::serde::encode_to_vec(value, bincode::config::standard())
            .map_err(|e| failed(e.to_string()))?,
        Codec::Json | Codec::Raw => serde_json::to_vec(value).map_err(|e| failed(e.to_string()))?,
    };
    if bytes.len() > max {
        return Err(PayloadError::TooLong { max });
    }
    out.extend(bytes);
    Ok(())
}

/// The value that all of `bytes` are.
pub fn decode<T: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> Result<T, PayloadError> {
    decode_borrowed(codec, bytes)
}

/// The value that all of `bytes` are, which may borrow from them.
pub fn decode_borrowed<'de, T: Deserialize<'de>>(codec: Codec, bytes: &'de [u8]) -> Result<T, PayloadError> {
    let failed = |what: String| PayloadError::Codec { codec, what: what.into() };
    match codec {
        Codec::Bincode => bincode::serde::borrow_decode_from_slice(bytes, bincode::config::standard())
            .map(|(value, _)| value)
            .map_err(|e| failed(e.to_string())),
        Codec::Json | Codec::Raw => serde_json::from_slice(bytes).map_err(|e| failed(e.to_string())),
    }
}
