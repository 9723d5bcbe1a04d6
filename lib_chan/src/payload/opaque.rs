//! Messages that are passed on as they are.

use std::any::Any;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::{Carried, Codec, PayloadError, decode, encode_guarded, encode_within, guard::Allowance};

/// A whole message in the codec of the session, as bytes that are neither decoded nor copied.
///
/// As the `In`, `Out` or reply type of a channel it suits relays, tools, and services that pass messages on. The
/// sender must make sure that the bytes are a message in the session's codec. Inside another value it is plain bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Opaque(pub Bytes);

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(Self)
    }
}

/// Appends a message to `out`, as [`encode_within`] does, or as it is if it is opaque.
///
/// # Errors
/// Those of [`encode_within`].
pub fn encode_message<T: Serialize + 'static>(
    codec: Codec,
    message: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), PayloadError> {
    match (message as &dyn Any).downcast_ref() {
        Some(Opaque(bytes)) if bytes.len() > max => Err(PayloadError::TooLong { max }),
        Some(Opaque(bytes)) => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        None => encode_within(codec, message, max, out),
    }
}

/// Appends a message of a session, as [`encode_message`] does. Returns the processes in it.
///
/// # Errors
/// Those of [`encode_message`](super::encode_message).
#[doc(hidden)]
pub fn encode_in_message<T: Serialize + 'static>(
    codec: Codec,
    message: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<Carried, PayloadError> {
    match (message as &dyn Any).downcast_ref() {
        Some(opaque @ Opaque(_)) => encode_message(codec, opaque, max, out).map(|()| Carried::default()),
        None => encode_value_in_message(codec, message, max, out),
    }
}

/// Does what [`encode_in_message`] does for a value that is not opaque.
///
/// # Errors
/// Those of [`encode_within`].
#[doc(hidden)]
pub fn encode_value_in_message<T: Serialize + ?Sized>(
    codec: Codec,
    value: &T,
    max: usize,
    out: &mut Vec<u8>,
) -> Result<Carried, PayloadError> {
    encode_guarded(codec, value, max, out, Allowance::of_message(max))
}

/// Returns the message in all of `bytes`: decoded, or unchanged if it is opaque.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_message<T: DeserializeOwned + 'static>(codec: Codec, bytes: &Bytes) -> Result<T, PayloadError> {
    let mut message: Option<T> = None;
    if let Some(opaque) = (&mut message as &mut dyn Any).downcast_mut() {
        *opaque = Some(Opaque(bytes.clone()));
    }
    message.map_or_else(|| decode(codec, bytes), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_is_same_bytes_in_every_codec() {
        for codec in [Codec::Bincode, Codec::Json, Codec::Raw] {
            let message = Opaque(Bytes::from_static(b"{\"a\":1}"));
            let mut out = Vec::new();
            encode_message(codec, &message, 7, &mut out).unwrap();
            assert_eq!(out, b"{\"a\":1}");
            assert_eq!(decode_message(codec, &Bytes::from(out)), Ok(message.clone()));
            let too_long = encode_message(codec, &message, 6, &mut Vec::new());
            assert_eq!(too_long, Err(PayloadError::TooLong { max: 6 }));
        }
    }

    #[test]
    fn another_message_goes_through_the_codec() {
        let mut out = Vec::new();
        encode_message(Codec::Json, &vec![1, 2], usize::MAX, &mut out).unwrap();
        assert_eq!(out, b"[1,2]");
        assert_eq!(decode_message::<Vec<u8>>(Codec::Json, &Bytes::from(out)), Ok(vec![1, 2]));
    }
}
