//! The codec between Rust programs.

use std::fmt;

use ::bincode::{
    config::{self, Configuration},
    error::{DecodeError, EncodeError},
    serde::{
        DecodeError as SerdeError, EncodeError as SerdeEncodeError, encode_into_writer,
        seed_decode_from_slice,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    guard::{Seed, Value},
    sink::Sink,
};

/// Little-endian, variable-length integers.
const CONFIG: Configuration = config::standard();

pub(super) fn encode<T: Serialize + ?Sized>(
    value: Value<'_, T>,
    sink: &mut Sink<'_>,
) -> Result<(), Unencodable> {
    encode_into_writer(value, sink, CONFIG).map_err(Unencodable)
}

pub(super) fn decode<'de, T: Deserialize<'de>>(seed: Seed<'_, T>, bytes: &'de [u8]) -> Result<T, Wrong> {
    let (value, read) = seed_decode_from_slice(seed, bytes, CONFIG).map_err(Wrong::Bytes)?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(Wrong::Trailing(left)),
    }
}

/// The reason why a value cannot be encoded. (bincode displays its errors as Rust's debug output.)
pub(super) struct Unencodable(EncodeError);

impl fmt::Display for Unencodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EncodeError::Other(text) => f.write_str(text),
            EncodeError::OtherString(text) => f.write_str(text),
            EncodeError::Serde(SerdeEncodeError::SequenceMustHaveLength) => f.write_str(
                "a sequence or map of unknown length, as `flatten` makes it, cannot be encoded: use json, or collect it first",
            ),
            other => write!(f, "{other}"),
        }
    }
}

/// The reason why a payload cannot be decoded.
pub(super) enum Wrong {
    Bytes(DecodeError),
    Trailing(usize),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::Bytes(error) => error,
            Self::Trailing(left) => {
                return write!(f, "{left} bytes too many: are the types of both ends the same?");
            }
        };
        match error {
            DecodeError::Other(text) => f.write_str(text),
            DecodeError::OtherString(text) => f.write_str(text),
            DecodeError::UnexpectedEnd { .. } => {
                f.write_str("ends inside a value: are the types of both ends the same?")
            }
            DecodeError::InvalidIntegerType { expected, found } => {
                write!(f, "an integer as wide as {found:?} where {expected:?} is expected")
            }
            DecodeError::InvalidBooleanValue(found) => write!(f, "{found} where a bool is expected"),
            DecodeError::UnexpectedVariant { found, type_name, .. } => {
                write!(f, "{found} where a variant of {type_name} is expected")
            }
            DecodeError::Utf8 { .. } | DecodeError::InvalidCharEncoding(_) => f.write_str("text that is not UTF-8"),
            DecodeError::Serde(
                SerdeError::AnyNotSupported | SerdeError::IdentifierNotSupported | SerdeError::IgnoredAnyNotSupported,
            ) => f.write_str(
                "the type asks what comes next (untagged, flatten, tag, Value and the like), which bincode does not say: use json",
            ),
            other => write!(f, "{other}"),
        }
    }
}
