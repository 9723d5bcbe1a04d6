//! The arguments of an `mfa`, as a typed value.

use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use toml::de::{DeArray, ValueDeserializer};

/// Decodes what stands behind module and function: `()` from nothing, `(A,)` from one value, `(A, B)` from two, a
/// list from any number.
pub(super) fn decode<A: DeserializeOwned>(args: DeArray<'_>) -> Result<A, ArgsError> {
    A::deserialize(Args(args))
}

/// The reason that a function does not take the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgsError {
    message: String,
    /// The position of the argument, if a single one is wrong.
    pub(crate) span: Option<Range<usize>>,
}

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ArgsError {}

impl de::Error for ArgsError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), span: None }
    }
}

struct Args<'i>(DeArray<'i>);

impl<'de> Args<'de> {
    fn exactly(&self, wanted: usize) -> Result<(), ArgsError> {
        if self.0.len() == wanted {
            return Ok(());
        }
        let plural = if wanted == 1 { "" } else { "s" };
        Err(ArgsError::custom(format!("takes {wanted} argument{plural}, not {}", self.0.len())))
    }
}

impl<'de> Deserializer<'de> for Args<'de> {
    type Error = ArgsError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgsError> {
        let mut items = Items(self.0.into_iter());
        let value = visitor.visit_seq(&mut items)?;
        match items.0.len() {
            0 => Ok(value),
            more => Err(ArgsError::custom(format!("takes {more} arguments less"))),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgsError> {
        self.exactly(0)?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgsError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, ArgsError> {
        self.exactly(len)?;
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, ArgsError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgsError> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgsError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option seq map enum
        identifier ignored_any
    }
}

/// The arguments one after the other. An error is put where its argument stands.
struct Items<I>(I);

impl<'de, I> SeqAccess<'de> for &mut Items<I>
where
    I: ExactSizeIterator<Item = toml::Spanned<toml::de::DeValue<'de>>>,
{
    type Error = ArgsError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ArgsError> {
        let Some(item) = self.0.next() else { return Ok(None) };
        let span = item.span();
        match seed.deserialize(ValueDeserializer::from(item)) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let span = Some(error.span().unwrap_or(span));
                Err(ArgsError { message: error.message().into(), span })
            }
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded<A: DeserializeOwned>(text: &str) -> Result<A, String> {
        let toml::de::DeValue::Array(args) = toml::de::DeValue::parse(text).unwrap().into_inner() else {
            panic!("not an array")
        };
        decode(args).map_err(|error| error.to_string())
    }

    #[test]
    fn as_many_arguments_as_the_type_has_fields() {
        assert_eq!(decoded::<()>("[]"), Ok(()));
        assert_eq!(decoded::<(String,)>("['a']"), Ok(("a".into(),)));
        assert_eq!(decoded::<(String, u16)>("['a', 7]"), Ok(("a".into(), 7)));
        assert_eq!(decoded::<Vec<u8>>("[1, 2, 3]"), Ok(vec![1, 2, 3]));
        assert_eq!(decoded::<()>("[1]"), Err("takes 0 arguments, not 1".into()));
        assert_eq!(decoded::<(u8,)>("[]"), Err("takes 1 argument, not 0".into()));
        assert_eq!(decoded::<(u8, u8)>("[1]"), Err("takes 2 arguments, not 1".into()));
    }

    #[test]
    fn struct_takes_fields_by_order_or_name() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Place {
            host: String,
            port: u16,
        }
        let place = || Place { host: "h".into(), port: 1 };
        assert_eq!(decoded::<Place>("['h', 1]"), Ok(place()));
        assert_eq!(decoded::<(Place,)>("[{ port = 1, host = 'h' }]"), Ok((place(),)));
    }

    #[test]
    fn a_wrong_type_is_refused_where_it_stands() {
        let text = "[1, 'x']";
        let toml::de::DeValue::Array(args) = toml::de::DeValue::parse(text).unwrap().into_inner() else {
            panic!("not an array")
        };
        let error = decode::<(u8, u8)>(args).unwrap_err();
        assert_eq!(error.span, Some(4..7));
    }
}
