//! Words that people write in a configuration: what they probably meant, and how a message shows them.

/// The candidate that was probably meant.
pub(crate) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// A word from the file as a message may show it: on one line, and not long.
pub(crate) fn shown(word: &str) -> String {
    let mut text: String = word.chars().take(80).flat_map(char::escape_debug).collect();
    if word.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_nearest_word_only() {
        let known = ["password", "password_file", "mfa"];
        assert_eq!(nearest("pasword", known.into_iter()), Some("password"));
        assert_eq!(nearest("passwordfile", known.into_iter()), Some("password_file"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest("x", known.into_iter()), None);
    }
}
