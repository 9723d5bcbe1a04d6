//! The guard around a `Serializer`.

use std::fmt;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{super::handle::MARKER, Level};

/// A value that serializes through the guard, to whatever serializer it is given.
pub(in crate::payload) struct Value<'a, T: ?Sized> {
    value: &'a T,
    level: Level<'a>,
}

impl<'a, T: ?Sized> Value<'a, T> {
    /// `value`, kept to what `level` allows.
    pub(in crate::payload) fn new(value: &'a T, level: Level<'a>) -> Self {
        Self { value, level }
    }
}

impl<T: Serialize + ?Sized> Serialize for Value<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(EncodeGuard { inner: serializer, level: self.level })
    }
}

/// A serializer at its level.
struct EncodeGuard<'a, S> {
    inner: S,
    level: Level<'a>,
}

impl<'a, S: Serializer> EncodeGuard<'a, S> {
    /// The level of what is inside.
    #[inline]
    fn inside(&self) -> Result<Level<'a>, S::Error> {
        self.level.inside().map_err(Error::custom)
    }

    /// A tuple or struct, whose fields are not counted.
    #[inline]
    fn fixed<C>(self, open: impl FnOnce(S) -> Result<C, S::Error>) -> Result<GuardCompound<'a, C>, S::Error> {
        self.sized(None, open)
    }

    /// The tuple or fields of a variant, which are one value in the enum, another.
    #[inline]
    fn variant<C>(
        mut self,
        open: impl FnOnce(S) -> Result<C, S::Error>,
    ) -> Result<GuardCompound<'a, C>, S::Error> {
        self.level = self.inside()?;
        self.fixed(open)
    }

    /// A sequence or map of which it may be stated how many elements it has.
    #[inline]
    fn sized<C>(
        self,
        stated: Option<usize>,
        open: impl FnOnce(S) -> Result<C, S::Error>,
    ) -> Result<GuardCompound<'a, C>, S::Error> {
        let level = self.inside()?;
        let positional = !self.inner.is_human_readable();
        let left = stated.filter(|_| positional);
        Ok(GuardCompound { inner: open(self.inner)?, level, positional, left })
    }
}

macro_rules! forward_serialize {
    ($($method:ident($value:ty))*) => {$(
        #[inline]
        fn $method(self, value: $value) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<'a, S: Serializer> Serializer for EncodeGuard<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = GuardCompound<'a, S::SerializeSeq>;
    type SerializeTuple = GuardCompound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = GuardCompound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = GuardCompound<'a, S::SerializeTupleVariant>;
    type SerializeMap = GuardCompound<'a, S::SerializeMap>;
    type SerializeStruct = GuardCompound<'a, S::SerializeStruct>;
    type SerializeStructVariant = GuardCompound<'a, S::SerializeStructVariant>;

    forward_serialize! {
        serialize_bool(bool)
        serialize_i8(i8)
        serialize_i16(i16)
        serialize_i32(i32)
        serialize_i64(i64)
        serialize_i128(i128)
        serialize_u8(u8)
        serialize_u16(u16)
        serialize_u32(u32)
        serialize_u64(u64)
        serialize_u128(u128)
        serialize_f32(f32)
        serialize_f64(f64)
        serialize_char(char)
        serialize_str(&str)
        serialize_bytes(&[u8])
        serialize_unit_struct(&'static str)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let level = self.inside()?;
        self.inner.serialize_some(&Value { value, level })
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let level = self.inside()?;
        if std::ptr::eq(name, MARKER) {
            let inner = self.inner;
            return level.budget.place(|| inner.serialize_newtype_struct(name, &Value { value, level }));
        }
        self.inner.serialize_newtype_struct(name, &Value { value, level })
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inside()?;
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let level = self.inside()?;
        self.inner.serialize_newtype_variant(name, index, variant, &Value { value, level })
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.sized(len, |inner| inner.serialize_seq(len))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.sized(len, |inner| inner.serialize_map(len))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.fixed(|inner| inner.serialize_tuple(len))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.fixed(|inner| inner.serialize_tuple_struct(name, len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.variant(|inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.fixed(|inner| inner.serialize_struct(name, len))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.variant(|inner| inner.serialize_struct_variant(name, index, variant, len))
    }

    #[inline]
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A sequence, map, tuple or struct, at the level of what is in it.
struct GuardCompound<'a, C> {
    inner: C,
    level: Level<'a>,
    /// Whether the codec tells fields by their position, so that none may be missing.
    positional: bool,
    /// Elements stated and not yet come, where the codec writes the statement.
    left: Option<usize>,
}

impl<'a, C> GuardCompound<'a, C> {
    /// Counts an element that has been written.
    #[inline]
    fn count<E: Error>(&mut self) -> Result<(), E> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or_else(Self::misstated)?;
        }
        self.level.claim(1).map_err(Error::custom)
    }

    /// Refuses an end before all elements have come that were stated.
    #[inline]
    fn complete<E: Error>(&self) -> Result<(), E> {
        if self.left.is_some_and(|left| left != 0) { Err(Self::misstated()) } else { Ok(()) }
    }

    #[cold]
    fn misstated<E: Error>() -> E {
        E::custom("a sequence or map with another number of elements than it stated")
    }

    /// The codec would write nothing, and the other end would take the next field for this one.
    #[inline]
    fn may_skip<E: Error>(&self, key: &'static str) -> Result<(), E> {
        if self.positional {
            return Err(E::custom(format_args!(
                "the field `{key}` is left out (skip_serializing_if), but fields are told by their position: use json"
            )));
        }
        Ok(())
    }

    #[inline]
    fn value<'v, T: ?Sized>(&self, value: &'v T) -> Value<'v, T>
    where
        'a: 'v,
    {
        Value { value, level: self.level }
    }
}

impl<C: SerializeSeq> SerializeSeq for GuardCompound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let value = self.value(value);
        self.inner.serialize_element(&value)?;
        self.count()
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.complete()?;
        self.inner.end()
    }
}

impl<C: SerializeMap> SerializeMap for GuardCompound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        let key = self.value(key);
        self.inner.serialize_key(&key)?;
        self.count()
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let value = self.value(value);
        self.inner.serialize_value(&value)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.complete()?;
        self.inner.end()
    }
}

impl<C: SerializeTuple> SerializeTuple for GuardCompound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let value = self.value(value);
        self.inner.serialize_element(&value)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

macro_rules! forward_tuple_fields {
    ($($compound:ident)*) => {$(
        impl<C: $compound> $compound for GuardCompound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let value = self.value(value);
                self.inner.serialize_field(&value)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

forward_tuple_fields! { SerializeTupleStruct SerializeTupleVariant }

macro_rules! forward_struct_fields {
    ($($compound:ident)*) => {$(
        impl<C: $compound> $compound for GuardCompound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                let value = self.value(value);
                self.inner.serialize_field(key, &value)
            }

            #[inline]
            fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                self.may_skip(key)?;
                self.inner.skip_field(key)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

forward_struct_fields! { SerializeStruct SerializeStructVariant }
