//! JSON as people type it and as it is shown to them.

use lib_chan::payload::{Codec, PayloadError, decode};

/// A text that is JSON, on one line, without spaces, and with nothing in it that a terminal would obey.
///
/// Numbers and the order of fields stay as they were written, which a parsed tree would not keep. What no receiver may
/// take is refused: values that are too deep inside one another, and numbers that are too large (PROTOCOL.md, section 16).
pub(crate) fn compact(text: &str) -> Result<String, PayloadError> {
    decode::<serde_json::Value>(Codec::Json, text.as_bytes())?;
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
        match is_obeyed(c) {
            // Valid JSON has them inside strings only, and none beyond the basic plane.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    Ok(out)
}

/// Whether a terminal does something for this character besides showing it: moves, colours, or turns around what is
/// beside it.
fn is_obeyed(c: char) -> bool {
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}'];
    c.is_control()
        || turns.contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// A text from elsewhere as part of one line on a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let shown = |c: char| match is_obeyed(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_goes_outside_of_strings_alone() {
        let text =
            "{ \"a b\" : [ 1.50 ,\n\t\"\\\" \\\\\" , { } ], \"z\":1e300, \"a b\":12345678901234567890123 }";
        let short = r#"{"a b":[1.50,"\" \\",{}],"z":1e300,"a b":12345678901234567890123}"#;
        assert_eq!(compact(text).unwrap(), short);
        assert_eq!(compact(short).unwrap(), short);
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        for (text, place) in
            [("{\"a\":", "line 1 column 5"), ("", "column 0"), ("1 2", "column 3"), ("a", "column 1")]
        {
            let error = compact(text).unwrap_err().to_string();
            assert!(error.ends_with(place), "{text}: {error}");
        }
    }

    #[test]
    fn refuses_depth_and_numbers_beyond_the_protocol() {
        assert!(compact(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        for text in [format!("{}{}", "[".repeat(65), "]".repeat(65)), "1e400".into(), "[-1e400]".into()] {
            assert!(compact(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(compact("\"\u{9b}31m\u{7f}ö\"").unwrap(), "\"\\u009b31m\\u007fö\"");
        assert_eq!(one_line("a\x1b[31m\nö"), "a\\u{1b}[31m\\nö");
    }

    #[test]
    fn text_from_elsewhere_cannot_turn_itself_around() {
        assert_eq!(one_line("a\u{202e}b\u{2066}\u{9b}é"), "a\\u{202e}b\\u{2066}\\u{9b}é");
        assert_eq!(compact("\"\u{202e}\"").unwrap(), "\"\\u202e\"");
    }
}
