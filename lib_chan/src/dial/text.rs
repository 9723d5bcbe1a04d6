//! Values that a configuration writes as text.

use std::{
    fmt::{self, Display, Formatter},
    marker::PhantomData,
    str::FromStr,
};

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

/// Deserializes a value from its text. The error names the text and says what was `expected`.
pub(super) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
    deserializer: D,
    expected: impl Display,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(TextVisitor { expected, value: PhantomData })
}

struct TextVisitor<X, T> {
    expected: X,
    value: PhantomData<T>,
}

impl<X: Display, T: FromStr> Visitor<'_> for TextVisitor<X, T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.expected.fmt(f)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}
