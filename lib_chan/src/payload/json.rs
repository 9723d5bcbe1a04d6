//! The codec for people and other languages.

use serde::{Deserialize, Serialize, de::DeserializeSeed};
use serde_json::{Deserializer, Error, Serializer};

use super::{
    guard::{Seed, Value},
    sink::Sink,
};

pub(super) fn encode<T: Serialize + ?Sized>(value: Value<'_, T>, sink: &mut Sink<'_>) -> Result<(), Error> {
    value.serialize(&mut Serializer::new(sink))
}

pub(super) fn decode<'de, T: Deserialize<'de>>(seed: Seed<'_, T>, bytes: &'de [u8]) -> Result<T, Error> {
    let mut deserializer = Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}
