//! Saved URLs with a short name.

use crate::config_file::{ConfigFile, FileError};
use crate::url::ChanUrl;

/// The user's saved URLs: `$XDG_CONFIG_HOME/chan-client/urls`, or in `~/.config/chan-client`.
///
/// A line is `name url`. Empty lines and lines that begin with `#` are kept.
#[derive(Clone, Debug)]
pub struct Bookmarks {
    file: ConfigFile,
}

impl Bookmarks {
    /// Returns the bookmarks of the user.
    ///
    /// # Errors
    ///
    /// Returns [`FileError::NoHome`] if there is no home directory.
    pub fn of_user() -> Result<Self, FileError> {
        Ok(Self { file: ConfigFile::of_user("urls")? })
    }

    /// Returns the URL saved under a name. Reads the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, the name is unknown, or its URL is invalid.
    pub fn url(&self, name: &str) -> Result<ChanUrl, BookmarkError> {
        let text = self.file.read()?;
        let Some((_, url)) = entries(&text).find(|(known, _)| *known == name) else {
            return Err(unknown(&text, name));
        };
        url.parse().map_err(|what| BookmarkError::Url { name: name.into(), what })
    }

    /// Returns the saved names and URLs, in the order of the file. Reads the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn all(&self) -> Result<Vec<(String, String)>, BookmarkError> {
        let text = self.file.read()?;
        Ok(entries(&text).map(|(name, url)| (name.to_owned(), url.to_owned())).collect())
    }

    /// Deletes the URL saved under a name. Waits while another program writes the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is unknown or the file cannot be written.
    pub fn delete(&self, name: &str) -> Result<(), BookmarkError> {
        self.file.change(|text| {
            if !has(text, name) {
                return Err(unknown(text, name));
            }
            Ok(Some(without(text, name)))
        })
    }

    /// Saves a URL. With `replace`, it replaces the URL that has the name. The path of a CA file becomes absolute. Waits
    /// while another program writes the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the name is invalid, if it is taken and `replace` is `false`, or if the file cannot be written.
    pub fn save(&self, name: &str, url: ChanUrl, replace: bool) -> Result<bool, BookmarkError> {
        if !is_bookmark(name) {
            return Err(BookmarkError::Name);
        }
        let url = url.absolute().map_err(|source| FileError::Io { path: ".".into(), source })?;
        let mut changed = false;
        self.file.change(|text| {
            let saved = entries(text).find(|(known, _)| *known == name);
            if saved.is_some_and(|(_, saved)| saved.parse::<ChanUrl>().is_ok_and(|saved| saved == url)) {
                return Ok(None);
            }
            if !replace && saved.is_some() {
                return Err(BookmarkError::Taken { name: name.into() });
            }
            changed = true;
            Ok(Some(format!("{}{name} {url}\n", without(text, name))))
        })?;
        Ok(changed)
    }
}

fn has(text: &str, name: &str) -> bool {
    entries(text).any(|(known, _)| known == name)
}

/// Returns the lines of all other names.
fn without(text: &str, name: &str) -> String {
    let others = text.lines().filter(|line| line.split_whitespace().next() != Some(name));
    others.map(|line| format!("{line}\n")).collect()
}

fn unknown(text: &str, name: &str) -> BookmarkError {
    let known = entries(text).map(|(known, _)| known).collect::<Vec<_>>().join(", ");
    BookmarkError::Unknown { name: name.into(), known: known.into() }
}

fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(char::is_whitespace)).map(|(name, url)| (name, url.trim_start()))
}

fn is_bookmark(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The reason that a saved URL cannot be used, or a URL cannot be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookmarkError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name is invalid.
    #[error("a name for a URL is 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name,
    /// Another URL has this name.
    #[error("{name} has a URL already; replace it with --replace, or choose another name")]
    Taken {
        /// The name.
        name: Box<str>,
    },
    /// No URL has this name.
    #[error("no URL is saved as {name}; {}", advice(known))]
    Unknown {
        /// The name.
        name: Box<str>,
        /// The saved names.
        known: Box<str>,
    },
    /// The text saved under the name is not a valid URL.
    #[error("the text saved as {name} is not a valid URL ({what}); save it again")]
    Url {
        /// The name.
        name: Box<str>,
        /// The mistake in the URL.
        what: crate::url::UrlError,
    },
}

fn advice(known: &str) -> String {
    match known {
        "" => "save one: chan-client save NAME URL".into(),
        known => format!("saved names: {known}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookmarks(directory: &tempfile::TempDir) -> Bookmarks {
        Bookmarks { file: ConfigFile::at(directory.path().join("urls")) }
    }

    fn url(text: &str) -> ChanUrl {
        text.parse().unwrap()
    }

    #[test]
    fn saves_replaces_and_deletes_urls() {
        let directory = tempfile::tempdir().unwrap();
        let saved = bookmarks(&directory);
        assert!(saved.save("one", url("chan://h:1/s?tofu"), false).unwrap());
        assert!(saved.save("two", url("chan://h:2/s?tofu"), false).unwrap());
        assert!(!saved.save("one", url("chan://h:1/s?tofu"), false).unwrap(), "it has this URL already");
        let taken = saved.save("one", url("chan://h:3/s?tofu"), false).unwrap_err();
        assert!(matches!(&taken, BookmarkError::Taken { .. }) && taken.to_string().contains("--replace"));
        assert_eq!(saved.url("one").unwrap(), url("chan://h:1/s?tofu"));
        saved.save("one", url("chan://h:3/s?tofu"), true).unwrap();
        assert_eq!(saved.url("one").unwrap(), url("chan://h:3/s?tofu"));
        assert_eq!(saved.url("two").unwrap(), url("chan://h:2/s?tofu"));
        assert_eq!(saved.file.read().unwrap().lines().count(), 2);
        saved.delete("two").unwrap();
        assert!(matches!(saved.delete("two"), Err(BookmarkError::Unknown { .. })));
        assert_eq!(saved.all().unwrap(), [("one".to_owned(), "chan://h:3/s?tofu".to_owned())]);
    }

    #[test]
    fn saves_ca_file_as_absolute_path() {
        let directory = tempfile::tempdir().unwrap();
        let saved = bookmarks(&directory);
        saved.save("one", url("chan://h:1/s?ca=ca.pem"), false).unwrap();
        assert!(saved.file.read().unwrap().starts_with("one chan://h:1/s?ca=/"));
    }

    #[test]
    fn unknown_name_lists_known_ones() {
        let directory = tempfile::tempdir().unwrap();
        let saved = bookmarks(&directory);
        assert!(saved.url("x").unwrap_err().to_string().contains("chan-client save"));
        saved.save("one", url("chan://h:1/s?tofu"), false).unwrap();
        saved.save("two", url("chan://h:1/s?tofu"), false).unwrap();
        assert!(saved.url("x").unwrap_err().to_string().ends_with("saved names: one, two"));
    }

    #[test]
    fn refuses_invalid_names() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "a b", "#a", "@a", "a\nb", &"a".repeat(65)] {
            let saved = bookmarks(&directory).save(name, url("chan://h:1/s?tofu"), false);
            assert!(matches!(saved, Err(BookmarkError::Name)), "{name:?}");
        }
    }
}
