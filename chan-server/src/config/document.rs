//! Reads a TOML document key by key, and says of each mistake where it is and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::words::{nearest, shown};

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1; 0 where it is the file itself.
    pub line: usize,
    /// The mistake, with its key and the correction. Never contains a secret.
    pub text: String,
}

/// Something in a configuration that is allowed, and that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The mistake, its place, and the correction.
    pub problem: Problem,
    /// Some clients are refused by it already.
    pub is_fatal: bool,
}

/// Everything that is wrong with a configuration, in the order of its lines.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:", self.file.display())?;
            if problem.line > 0 {
                write!(f, "{}:", problem.line)?;
            }
            write!(f, " {}", problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A place in the text.
pub(super) type Span = Range<usize>;

/// Collects what is wrong while a document is read.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new(), warnings: Vec::new() }
    }

    /// Parses the text; syntax errors are reported, and what could be read is returned all the same.
    pub(super) fn parse(&mut self) -> Table<'t> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or_default();
            // Only the message: the error's own display repeats the line, which may hold a password.
            let text = match (error.message(), self.text.get(span.clone())) {
                ("duplicate key", Some(key)) => format!("\"{}\" appears twice; remove one", shown(key)),
                (message, _) => format!("not TOML: {message}"),
            };
            self.add(&span, text);
        }
        Table::new("the top-level table", root.span(), root.into_inner())
    }

    pub(super) fn add(&mut self, span: &Span, text: String) {
        self.found.push(Problem { line: self.line(span), text });
    }

    /// Notes something that is allowed, and that the owner should know.
    pub(super) fn warn(&mut self, span: &Span, text: String, is_fatal: bool) {
        self.warnings.push(Warning { problem: Problem { line: self.line(span), text }, is_fatal });
    }

    /// The warnings so far, in the order of their lines.
    pub(super) fn take_warnings(&mut self) -> Vec<Warning> {
        self.warnings.sort_by_key(|warning| warning.problem.line);
        std::mem::take(&mut self.warnings)
    }

    /// The line on which a place begins.
    pub(super) fn line(&self, span: &Span) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        1 + before.bytes().filter(|&byte| byte == b'\n').count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The value, if nothing was wrong.
    pub(super) fn settle<T>(mut self, file: &Path, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|problem| problem.line);
                Err(ConfigError { file: file.into(), problems: self.found })
            }
        }
    }
}

/// One table, of which each key is taken once; what is left is unknown.
pub(super) struct Table<'t> {
    /// The name of the table in messages, such as `[[service]]`.
    pub(super) name: &'static str,
    /// The table's header.
    pub(super) span: Span,
    entries: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    fn new(name: &'static str, span: Span, entries: DeTable<'t>) -> Self {
        Self { name, span, entries, known: Vec::new() }
    }

    /// Returns `true` if the table has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes the value of a key, which is known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Entry<'t>> {
        self.known.push(key);
        let (name, value) = self.entries.remove_entry(key)?;
        Some(Entry { key, key_span: name.span(), value })
    }

    /// Takes a value of a given type; a wrong type is reported.
    pub(super) fn value<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        expected: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Spanned<T>> {
        self.take(key)?.value(expected, problems)
    }

    /// Takes a value that must be there.
    pub(super) fn required<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        expected: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Spanned<T>> {
        let Some(entry) = self.take(key) else {
            problems.add(&self.span, format!("{} has no \"{key}\"; add: {key} = {expected}", self.name));
            return None;
        };
        entry.value(expected, problems)
    }

    /// Takes a table inside this one.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let entry = self.take(key)?;
        let span = entry.value.span();
        match entry.value.into_inner() {
            DeValue::Table(entries) => Some(Table::new(name, span, entries)),
            _ => {
                problems
                    .add(&entry.key_span, format!("\"{key}\" is a table; write {name} on a line of its own"));
                None
            }
        }
    }

    /// Takes an array of tables inside this one; empty when there is none.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Problems<'_>,
    ) -> Vec<Self> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let mut tables = Vec::new();
        if let DeValue::Array(items) = entry.value.into_inner() {
            for item in items {
                let span = item.span();
                if let DeValue::Table(entries) = item.into_inner() {
                    tables.push(Table::new(name, span, entries));
                }
            }
        }
        if tables.is_empty() {
            let wrong =
                format!("\"{key}\" is an array of tables; write {name} with two brackets on each side");
            problems.add(&entry.key_span, wrong);
        }
        tables
    }

    /// Refuses what was not taken.
    pub(super) fn finish(self, problems: &mut Problems<'_>) {
        for key in self.entries.keys() {
            let instead = match nearest(key.get_ref(), self.known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("expected {}", self.known.join(", ")),
            };
            problems.add(
                &key.span(),
                format!("unknown key \"{}\" in {}; {instead}", shown(key.get_ref()), self.name),
            );
        }
    }
}

/// A key with its value.
pub(super) struct Entry<'t> {
    pub(super) key: &'static str,
    pub(super) key_span: Span,
    value: Spanned<DeValue<'t>>,
}

impl<'t> Entry<'t> {
    /// The value, if it is of the type wanted; `expected` says how such a value is written.
    pub(super) fn value<T: DeserializeOwned>(
        self,
        expected: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Spanned<T>> {
        let found = self.value.get_ref().type_str();
        match Spanned::<T>::deserialize(toml::de::ValueDeserializer::from(self.value)) {
            Ok(value) => Some(value),
            Err(_) => {
                problems.add(
                    &self.key_span,
                    format!("\"{}\" cannot be this {found}; write {} = {expected}", self.key, self.key),
                );
                None
            }
        }
    }

    /// The elements, if it is an array.
    pub(super) fn array(self, expected: &str, problems: &mut Problems<'_>) -> Option<Spanned<DeArray<'t>>> {
        let (span, found) = (self.value.span(), self.value.get_ref().type_str());
        match self.value.into_inner() {
            DeValue::Array(items) => Some(Spanned::new(span, items)),
            _ => {
                problems.add(
                    &self.key_span,
                    format!("\"{}\" cannot be this {found}; write {} = {expected}", self.key, self.key),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_error_does_not_repeat_line() {
        let mut problems = Problems::new("a = 1\npassword = \"hunter2hunter2\" x\n");
        problems.parse();
        let error = problems.settle::<()>(Path::new("c.toml"), None).unwrap_err().to_string();
        assert!(error.starts_with("c.toml:2: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
