//! JSON as users type and read it.

use lib_chan::payload::{Codec, PayloadError, decode};

/// Returns JSON on one line, without white space and without characters that a terminal would interpret.
///
/// Numbers and the order of fields stay as written; a parsed tree would not keep them. Refuses JSON that no receiver
/// accepts: values nested too deeply, and numbers that are too large (PROTOCOL.md, section 16).
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
        match is_control(c) {
            // In valid JSON they occur inside strings only, and all are in the basic plane.
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    Ok(out)
}

/// Returns whether a terminal does more with this character than show it: moves the cursor, changes colours, or reverses
/// the text beside it.
fn is_control(c: char) -> bool {
    let turns = ['\u{61c}', '\u{200e}', '\u{200f}'];
    c.is_control()
        || turns.contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// Escapes a text of another program, so that it is part of one line on a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let shown = |c: char| match is_control(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_space_outside_strings_only() {
        let text =
            "{ \"a b\" : [ 1.50 ,\n\t\"\\\" \\\\\" , { } ], \"z\":1e300, \"a b\":12345678901234567890123 }";
        let short = r#"{"a b":[1.50,"\" \\",{}],"z":1e300,"a b":12345678901234567890123}"#;
        assert_eq!(compact(text).unwrap(), short);
        assert_eq!(compact(short).unwrap(), short);
    }

    #[test]
    fn reports_place_of_fault() {
        for (text, place) in
            [("{\"a\":", "line 1 column 5"), ("", "column 0"), ("1 2", "column 3"), ("a", "column 1")]
        {
            let error = compact(text).unwrap_err().to_string();
            assert!(error.ends_with(place), "{text}: {error}");
        }
    }

    #[test]
    fn refuses_depth_and_numbers_beyond_protocol() {
        assert!(compact(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
        for text in [format!("{}{}", "[".repeat(65), "]".repeat(65)), "1e400".into(), "[-1e400]".into()] {
            assert!(compact(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn escapes_control_characters() {
        assert_eq!(compact("\"\u{9b}31m\u{7f}ö\"").unwrap(), "\"\\u009b31m\\u007fö\"");
        assert_eq!(one_line("a\x1b[31m\nö"), "a\\u{1b}[31m\\nö");
    }

    #[test]
    fn escapes_characters_that_reverse_text() {
        assert_eq!(one_line("a\u{202e}b\u{2066}\u{9b}é"), "a\\u{202e}b\\u{2066}\\u{9b}é");
        assert_eq!(compact("\"\u{202e}\"").unwrap(), "\"\\u202e\"");
    }
}
