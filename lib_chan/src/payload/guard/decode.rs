//! The guard around a `Deserializer`.

use std::{fmt, marker::PhantomData};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::Level;

/// Decodes a `T` through the guard, from whatever deserializer it is given.
pub(in crate::payload) struct Seed<'a, T> {
    level: Level<'a>,
    value: PhantomData<T>,
}

impl<'a, T> Seed<'a, T> {
    /// A seed that keeps to what `level` allows.
    pub(in crate::payload) fn new(level: Level<'a>) -> Self {
        Self { level, value: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(DecodeGuard { inner: deserializer, level: self.level })
    }
}

/// A deserializer, an enum, a variant or a seed at its level.
struct DecodeGuard<'a, I> {
    inner: I,
    level: Level<'a>,
}

impl<'a, I> DecodeGuard<'a, I> {
    /// The visitor of a type whose size comes from the payload.
    fn counted<V>(level: Level<'a>, visitor: V) -> GuardVisitor<'a, V> {
        GuardVisitor { inner: visitor, level, counted: true }
    }

    /// The visitor of a type that has as many fields as its declaration says: they may well outnumber the bytes.
    fn fixed<V>(level: Level<'a>, visitor: V) -> GuardVisitor<'a, V> {
        GuardVisitor { inner: visitor, level, counted: false }
    }
}

macro_rules! forward_deserialize {
    ($($asked:ident => $method:ident)*) => {$(
        #[inline]
        fn $asked<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            self.inner.$method(Self::counted(self.level, visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for DecodeGuard<'_, D> {
    type Error = D::Error;

    // The owned forms are asked for as borrowed ones: bincode allocates for an owned string or byte buffer what its
    // length prefix says, and looks at the payload later; a borrowed one it cuts from the payload. Every visitor of
    // the owned form takes the borrowed one too, and copies it.
    forward_deserialize! {
        deserialize_any => deserialize_any
        deserialize_bool => deserialize_bool
        deserialize_i8 => deserialize_i8
        deserialize_i16 => deserialize_i16
        deserialize_i32 => deserialize_i32
        deserialize_i64 => deserialize_i64
        deserialize_i128 => deserialize_i128
        deserialize_u8 => deserialize_u8
        deserialize_u16 => deserialize_u16
        deserialize_u32 => deserialize_u32
        deserialize_u64 => deserialize_u64
        deserialize_u128 => deserialize_u128
        deserialize_f32 => deserialize_f32
        deserialize_f64 => deserialize_f64
        deserialize_char => deserialize_char
        deserialize_str => deserialize_str
        deserialize_string => deserialize_str
        deserialize_bytes => deserialize_bytes
        deserialize_byte_buf => deserialize_bytes
        deserialize_option => deserialize_option
        deserialize_unit => deserialize_unit
        deserialize_seq => deserialize_seq
        deserialize_map => deserialize_map
        deserialize_identifier => deserialize_identifier
    }

    /// Skipped values are bounded like kept ones: a format's own way of skipping would bypass the guard.
    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let visitor = Self::counted(self.level, visitor);
        if self.inner.is_human_readable() {
            self.inner.deserialize_any(visitor)
        } else {
            self.inner.deserialize_ignored_any(visitor)
        }
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_unit_struct(name, Self::counted(self.level, visitor))
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_newtype_struct(name, Self::counted(self.level, visitor))
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_tuple(len, Self::fixed(self.level, visitor))
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_tuple_struct(name, len, Self::fixed(self.level, visitor))
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_struct(name, fields, Self::fixed(self.level, visitor))
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.deserialize_enum(name, variants, Self::fixed(self.level, visitor))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for DecodeGuard<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(DecodeGuard { inner: deserializer, level: self.level })
    }
}

/// At the level of what is in the enum.
impl<'de, 'a, A: EnumAccess<'de>> EnumAccess<'de> for DecodeGuard<'a, A> {
    type Error = A::Error;
    type Variant = DecodeGuard<'a, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Self::Error> {
        let (value, variant) = self.inner.variant_seed(DecodeGuard { inner: seed, level: self.level })?;
        Ok((value, DecodeGuard { inner: variant, level: self.level }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for DecodeGuard<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Self::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Self::Error> {
        self.inner.newtype_variant_seed(DecodeGuard { inner: seed, level: self.level })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.inner.tuple_variant(len, Self::fixed(self.level, visitor))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.inner.struct_variant(fields, Self::fixed(self.level, visitor))
    }
}

/// A visitor at its level.
struct GuardVisitor<'a, V> {
    inner: V,
    level: Level<'a>,
    /// Whether the number of elements comes from the payload, and so is claimed.
    counted: bool,
}

macro_rules! forward_visit {
    ($($method:ident($value:ty))*) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for GuardVisitor<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    forward_visit! {
        visit_bool(bool)
        visit_i8(i8)
        visit_i16(i16)
        visit_i32(i32)
        visit_i64(i64)
        visit_i128(i128)
        visit_u8(u8)
        visit_u16(u16)
        visit_u32(u32)
        visit_u64(u64)
        visit_u128(u128)
        visit_f32(f32)
        visit_f64(f64)
        visit_char(char)
        visit_str(&str)
        visit_borrowed_str(&'de str)
        visit_string(String)
        visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8])
        visit_byte_buf(Vec<u8>)
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let level = self.level.inside().map_err(Error::custom)?;
        self.inner.visit_some(DecodeGuard { inner: deserializer, level })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let level = self.level.inside().map_err(Error::custom)?;
        self.inner.visit_newtype_struct(DecodeGuard { inner: deserializer, level })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let stated = access.size_hint();
        self.inner.visit_seq(GuardAccess::new(access, stated, self.level, self.counted)?)
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let stated = access.size_hint();
        self.inner.visit_map(GuardAccess::new(access, stated, self.level, self.counted)?)
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let level = self.level.inside().map_err(Error::custom)?;
        self.inner.visit_enum(DecodeGuard { inner: access, level })
    }
}

/// A sequence or map, at the level of what is in it.
struct GuardAccess<'a, A> {
    inner: A,
    level: Level<'a>,
    /// Elements that may come without a claim, because it was made before or none is needed.
    claimed: usize,
}

impl<'a, A> GuardAccess<'a, A> {
    /// A stated number of elements is claimed as a whole, before the visitor hears of it: then all that all visitors
    /// of a payload ever reserve is bounded by its length, and a false statement fails at once.
    #[inline]
    fn new<E: Error>(inner: A, stated: Option<usize>, level: Level<'a>, counted: bool) -> Result<Self, E> {
        let level = level.inside().map_err(Error::custom)?;
        if !counted {
            return Ok(Self { inner, level, claimed: usize::MAX });
        }
        let claimed = stated.unwrap_or(0);
        level.claim(claimed).map_err(Error::custom)?;
        Ok(Self { inner, level, claimed })
    }

    /// Counts the element that has come.
    #[inline]
    fn count<E: Error>(&mut self) -> Result<(), E> {
        match self.claimed.checked_sub(1) {
            Some(left) => self.claimed = left,
            None => self.level.claim(1).map_err(Error::custom)?,
        }
        Ok(())
    }

    fn seed<S>(&self, seed: S) -> DecodeGuard<'a, S> {
        DecodeGuard { inner: seed, level: self.level }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for GuardAccess<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Self::Error> {
        let seed = self.seed(seed);
        let element = self.inner.next_element_seed(seed)?;
        if element.is_some() {
            self.count()?;
        }
        Ok(element)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|hint| hint.min(self.claimed))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for GuardAccess<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Self::Error> {
        let seed = self.seed(seed);
        let key = self.inner.next_key_seed(seed)?;
        if key.is_some() {
            self.count()?;
        }
        Ok(key)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Self::Error> {
        let seed = self.seed(seed);
        self.inner.next_value_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|hint| hint.min(self.claimed))
    }
}
