//! Errors of values that cannot be encoded or decoded, in words that may be logged and sent.

use std::fmt::{self, Write};

use super::Codec;

/// The reason why a value cannot be sent, or why bytes are not the expected value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// More bytes than a payload may have.
    #[error("longer than the {max} bytes a payload may have")]
    TooLong {
        /// The most bytes a payload may have.
        max: usize,
    },
    /// The value cannot be encoded or decoded.
    #[error("{codec}: {what}")]
    Codec {
        /// The codec that refused it.
        codec: Codec,
        /// The message of the codec: at most [`MAX_WHAT_LEN`](PayloadError::MAX_WHAT_LEN) bytes, with `"…"` for every
        /// string in double quotes, because codecs quote the contents of the payload there.
        what: Box<str>,
    },
}

impl PayloadError {
    /// The most bytes of `what`.
    pub const MAX_WHAT_LEN: usize = 256;

    /// Creates the error of a process that cannot travel.
    #[cfg(feature = "io")]
    pub(crate) fn process(codec: Codec, what: &str) -> Self {
        Self::codec(codec, what)
    }

    /// Creates the error of a codec.
    pub(super) fn codec(codec: Codec, what: impl fmt::Display) -> Self {
        let mut words = Words::default();
        // Writing fails if the text is full or the error cannot be displayed. The text so far is kept.
        let _ = write!(words, "{what}");
        Self::Codec { codec, what: words.text.into() }
    }
}

/// Collects the text of an error, without its quotations and as far as there is room.
#[derive(Default)]
struct Words {
    text: String,
    quoted: bool,
    escaped: bool,
}

impl Words {
    fn push(&mut self, c: char) -> fmt::Result {
        if self.text.len() + c.len_utf8() > PayloadError::MAX_WHAT_LEN {
            return Err(fmt::Error);
        }
        self.text.push(c);
        Ok(())
    }
}

impl Write for Words {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            match (self.quoted, c) {
                (true, _) if self.escaped => self.escaped = false,
                (true, '\\') => self.escaped = true,
                (true, '"') => {
                    self.quoted = false;
                    self.push('…')?;
                    self.push('"')?;
                }
                (true, _) => {}
                (false, c) => {
                    self.quoted = c == '"';
                    self.push(c)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(text: &str) -> String {
        match PayloadError::codec(Codec::Json, text) {
            PayloadError::Codec { what, .. } => what.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_words_are_cut_between_characters() {
        assert_eq!(what(&"é".repeat(500)).len(), 256);
        assert_eq!(what(&format!("x{}", "é".repeat(500))).len(), 255);
    }

    #[test]
    fn advice_omits_quoted_text() {
        assert_eq!(
            what(r#"invalid type: string "hunter2 \" \\", expected u32 at column 9"#),
            r#"invalid type: string "…", expected u32 at column 9"#
        );
        assert_eq!(what(r#"never closed: "secret"#), r#"never closed: ""#);
    }
}
