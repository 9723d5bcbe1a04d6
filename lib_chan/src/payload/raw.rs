//! The codec without a format: a payload is the bytes of the value.

use std::{fmt, slice};

use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor},
    forward_to_deserialize_any,
    ser::{self, Impossible, Serializer},
};

use super::{
    guard::{Seed, Value},
    sink::{Full, Sink},
};

pub(super) fn encode<T: Serialize + ?Sized>(value: Value<'_, T>, sink: &mut Sink<'_>) -> Result<(), Unfit> {
    value.serialize(Payload(sink))
}

pub(super) fn decode<'de, T: Deserialize<'de>>(seed: Seed<'_, T>, bytes: &'de [u8]) -> Result<T, Unfit> {
    seed.deserialize(Whole(bytes))
}

/// The reason why a value or a payload does not fit.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("carries bytes only: send and expect Bytes, Vec<u8>, String or (), or use bincode or json")]
    NoBytes,
    #[error("{0} bytes too many")]
    Trailing(usize),
    #[error("text that is not UTF-8")]
    NoText,
    #[error(transparent)]
    Full(#[from] Full),
    #[error("{0}")]
    Custom(Box<str>),
}

impl ser::Error for Unfit {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Custom(text.to_string().into())
    }
}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Custom(text.to_string().into())
    }
}

macro_rules! refuse {
    ($($method:ident($value:ty))*) => {$(
        fn $method(self, _: $value) -> Result<(), Unfit> {
            Err(Unfit::NoBytes)
        }
    )*};
}

/// Refuses the types that neither a payload nor a byte of one can have.
macro_rules! refuse_what_is_no_bytes {
    () => {
        type Ok = ();
        type Error = Unfit;
        type SerializeTupleStruct = Impossible<(), Unfit>;
        type SerializeTupleVariant = Impossible<(), Unfit>;
        type SerializeMap = Impossible<(), Unfit>;
        type SerializeStruct = Impossible<(), Unfit>;
        type SerializeStructVariant = Impossible<(), Unfit>;

        refuse! {
            serialize_bool(bool)
            serialize_i8(i8)
            serialize_i16(i16)
            serialize_i32(i32)
            serialize_i64(i64)
            serialize_i128(i128)
            serialize_u16(u16)
            serialize_u32(u32)
            serialize_u64(u64)
            serialize_u128(u128)
            serialize_f32(f32)
            serialize_f64(f64)
            serialize_char(char)
        }

        fn serialize_none(self) -> Result<(), Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<(), Unfit> {
            value.serialize(self)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Unfit> {
            Err(Unfit::NoBytes)
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, Unfit> {
            Err(Unfit::NoBytes)
        }

        fn is_human_readable(&self) -> bool {
            false
        }
    };
}

/// Serializes a whole payload.
struct Payload<'a, 'b>(&'a mut Sink<'b>);

impl Serializer for Payload<'_, '_> {
    type SerializeSeq = Self;
    type SerializeTuple = Self;

    refuse_what_is_no_bytes! {}

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Unfit> {
        Ok(self.0.push(bytes)?)
    }

    fn serialize_str(self, text: &str) -> Result<(), Unfit> {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_unit(self) -> Result<(), Unfit> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unfit> {
        Ok(())
    }

    fn serialize_u8(self, _: u8) -> Result<(), Unfit> {
        Err(Unfit::NoBytes)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Unfit> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Unfit> {
        Ok(self)
    }
}

impl ser::SerializeSeq for Payload<'_, '_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unfit> {
        value.serialize(Byte(self.0))
    }

    fn end(self) -> Result<(), Unfit> {
        Ok(())
    }
}

impl ser::SerializeTuple for Payload<'_, '_> {
    type Ok = ();
    type Error = Unfit;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unfit> {
        value.serialize(Byte(self.0))
    }

    fn end(self) -> Result<(), Unfit> {
        Ok(())
    }
}

/// Serializes one byte of a sequence.
struct Byte<'a, 'b>(&'a mut Sink<'b>);

impl Serializer for Byte<'_, '_> {
    type SerializeSeq = Impossible<(), Unfit>;
    type SerializeTuple = Impossible<(), Unfit>;

    refuse_what_is_no_bytes! {}

    refuse! {
        serialize_bytes(&[u8])
        serialize_str(&str)
        serialize_unit_struct(&'static str)
    }

    fn serialize_unit(self) -> Result<(), Unfit> {
        Err(Unfit::NoBytes)
    }

    fn serialize_u8(self, byte: u8) -> Result<(), Unfit> {
        Ok(self.0.push(&[byte])?)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unfit> {
        Err(Unfit::NoBytes)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unfit> {
        Err(Unfit::NoBytes)
    }
}

/// Deserializes a whole payload.
struct Whole<'de>(&'de [u8]);

impl<'de> Whole<'de> {
    fn elements<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let mut bytes = self.0.iter();
        let value = visitor.visit_seq(Elements(&mut bytes))?;
        match bytes.len() {
            0 => Ok(value),
            left => Err(Unfit::Trailing(left)),
        }
    }
}

impl<'de> Deserializer<'de> for Whole<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unfit> {
        Err(Unfit::NoBytes)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_borrowed_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_borrowed_str(str::from_utf8(self.0).map_err(|_| Unfit::NoText)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.0.len() {
            0 => visitor.visit_unit(),
            left => Err(Unfit::Trailing(left)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.elements(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Unfit> {
        self.elements(visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char option tuple_struct map struct enum identifier
        ignored_any
    }
}

/// The bytes of a payload as a sequence.
struct Elements<'a, 'de>(&'a mut slice::Iter<'de, u8>);

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Unfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Unfit> {
        self.0.next().map(|byte| seed.deserialize(Element(*byte))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// Deserializes one byte of a sequence: a `u8`, and no other integer, as the other direction has it.
struct Element(u8);

impl<'de> Deserializer<'de> for Element {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unfit> {
        Err(Unfit::NoBytes)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_u8(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}
