//! The names in a login.

use std::fmt;

/// The name of a service: 1 to 64 bytes of `A`-`Z`, `a`-`z`, `0`-`9`, `.`, `_` and `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Box<str>);

/// The name of a client: 0 to 64 bytes of the same characters. Empty under a shared password.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Box<str>);

/// The most bytes of a name.
pub(crate) const MAX_NAME_LEN: usize = 64;

impl ServiceName {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is empty, too long, or contains another character.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        checked(name).map(Self)
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClientId {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is too long, or contains another character.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        checked(name).map(Self)
    }

    /// Returns the name, which may be empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn checked(name: &str) -> Result<Box<str>, InvalidName> {
    if name.len() > MAX_NAME_LEN {
        return Err(InvalidName::TooLong);
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err(InvalidName::Character);
    }
    Ok(name.into())
}

macro_rules! prints_as_its_text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    )*};
}

prints_as_its_text!(ServiceName ClientId);

/// The reason that a text is not the name of a service or client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The name is empty. Only a client's name may be.
    #[error("the name of a service is empty")]
    Empty,
    /// The name has more than 64 bytes.
    #[error("the name is longer than {MAX_NAME_LEN} bytes")]
    TooLong,
    /// The name contains another character.
    #[error("a name consists of letters, digits, `.`, `_` and `-`")]
    Character,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_characters_and_its_length() {
        for byte in 0..=u8::MAX {
            let text = char::from(byte).to_string();
            let allowed = matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
            assert_eq!(ServiceName::new(&text).is_ok(), allowed, "{byte}");
            assert_eq!(ClientId::new(&text).is_ok(), allowed, "{byte}");
        }
        assert_eq!(ServiceName::new(""), Err(InvalidName::Empty));
        assert_eq!(ClientId::new(""), Ok(ClientId::default()));
        assert!(ServiceName::new(&"x".repeat(64)).is_ok());
        assert_eq!(ServiceName::new(&"x".repeat(65)), Err(InvalidName::TooLong));
        assert_eq!(ClientId::new(&"x".repeat(65)), Err(InvalidName::TooLong));
    }
}
