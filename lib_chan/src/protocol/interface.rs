//! Interfaces: the methods of a protocol, as text, as a hash, and compared with another version.

use std::fmt::{self, Write};
use std::str::FromStr;

use aws_lc_rs::digest;

use super::describe::{Schema, describe};
use crate::{payload::Codec, wire::InterfaceHash};

/// The methods of a protocol, and the types of their arguments and replies.
///
/// Its [text](Self::text) is canonical: two protocols with the same text have the same form on the wire. It can be
/// [parsed](FromStr) again. Docs are not part of it, but of the [documented](Self::documented) text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
    docs: String,
    methods: Vec<Method>,
}

/// One method of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    name: String,
    docs: String,
    arguments: Vec<(String, String)>,
    /// The type of the answer; `None` for a cast.
    reply: Option<String>,
}

impl Interface {
    #[doc(hidden)]
    pub fn new(name: &str, docs: &str) -> Self {
        Self { name: name.into(), docs: docs.into(), methods: Vec::new() }
    }

    #[doc(hidden)]
    pub fn add(&mut self, method: Method) {
        self.methods.push(method);
    }

    /// Returns the name of the protocol.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the documentation of the protocol.
    pub fn docs(&self) -> &str {
        &self.docs
    }

    /// Returns the methods, in the order of their indices on the wire.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Returns the canonical text: the name of the protocol, then a line for each method.
    pub fn text(&self) -> String {
        let lines = self.methods.iter().map(|method| format!("{method}\n"));
        format!("protocol {}\n{}", self.name, lines.collect::<String>())
    }

    /// Returns the text with the docs: as comments, in lines that begin with `#`, in front of the protocol and the methods.
    pub fn documented(&self) -> String {
        let mut text = String::new();
        comment(&mut text, &self.docs);
        let _ = writeln!(text, "protocol {}", self.name);
        for method in &self.methods {
            comment(&mut text, &method.docs);
            let _ = writeln!(text, "{method}");
        }
        text
    }

    /// Returns the form in which a client states this interface.
    pub fn to_hash(&self) -> InterfaceHash {
        InterfaceHash { methods: self.methods.len() as u64, hash: self.hash(self.methods.len()) }
    }

    /// Returns `true` if the first methods are those that the client states. A client that states no method has none in
    /// common.
    pub(crate) fn begins_with(&self, client: &InterfaceHash) -> bool {
        let count = usize::try_from(client.methods).unwrap_or(usize::MAX);
        (1..=self.methods.len()).contains(&count) && self.hash(count) == client.hash
    }

    /// Returns the SHA-256 of the text of the first `count` methods, without the name of the protocol. A service that has
    /// the same hash for the number of methods of its client decodes everything that the client sends in bincode.
    pub fn hash(&self, count: usize) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        for method in self.methods.iter().take(count) {
            hash.update(method.to_string().as_bytes());
            hash.update(b"\n");
        }
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(hash.finish().as_ref()) {
            *to = *from;
        }
        bytes
    }

    /// Checks that a service with this interface understands a client with another one, in one codec.
    ///
    /// For `Raw`, no protocol fits.
    ///
    /// # Errors
    ///
    /// The first difference that matters.
    pub fn accepts(&self, client: &Self, codec: Codec) -> Result<(), Incompatible> {
        for (at, theirs) in client.methods.iter().enumerate() {
            let ours = match codec {
                Codec::Bincode => self.methods.get(at),
                _ => self.methods.iter().find(|ours| ours.name == theirs.name),
            };
            let difference = match ours {
                _ if codec == Codec::Raw => Some("a protocol cannot be raw".into()),
                None => Some(format!("{}: the service has no such method", theirs.name)),
                Some(ours) => ours.difference(theirs, codec),
            };
            if let Some(difference) = difference {
                return Err(Incompatible(difference.into()));
            }
        }
        Ok(())
    }
}

impl Method {
    #[doc(hidden)]
    pub fn new(name: &str, docs: &str) -> Self {
        Self { name: name.into(), docs: docs.into(), arguments: Vec::new(), reply: None }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn argument<T: Schema>(mut self, name: &str) -> Self {
        // The types that occur in earlier arguments are expanded again: each argument is compared alone.
        self.arguments.push((name.into(), describe::<T>()));
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub fn reply<T: Schema>(mut self) -> Self {
        self.reply = Some(describe::<T>());
        self
    }

    /// Returns the name on the wire.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the documentation of the method.
    pub fn docs(&self) -> &str {
        &self.docs
    }

    /// Returns the names and types of the arguments.
    pub fn arguments(&self) -> impl Iterator<Item = (&str, &str)> {
        self.arguments.iter().map(|(name, ty)| (name.as_str(), ty.as_str()))
    }

    /// Returns the type of the answer, or `None` for a cast.
    pub fn answer(&self) -> Option<&str> {
        self.reply.as_deref()
    }

    /// Returns the first difference between this method of a service and that of a client.
    fn difference(&self, theirs: &Self, codec: Codec) -> Option<String> {
        let name = &self.name;
        if *name != theirs.name {
            return Some(format!("{}: the service has {name} in this place", theirs.name));
        }
        let kind = |method: &Self| if method.reply.is_some() { "a call" } else { "a cast" };
        if kind(self) != kind(theirs) {
            return Some(format!(
                "{name}: {} at the service, and {} at the client",
                kind(self),
                kind(theirs)
            ));
        }
        let arguments = match codec {
            Codec::Bincode => self.differing_position(theirs),
            _ => self.differing_name(theirs),
        };
        if arguments.is_some() {
            return arguments;
        }
        match (&self.reply, &theirs.reply) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                Some(format!("{name}: the reply is {ours} at the service, and {theirs} at the client"))
            }
            _ => None,
        }
    }

    fn differing_position(&self, theirs: &Self) -> Option<String> {
        let name = &self.name;
        let longer = self.arguments.len().max(theirs.arguments.len());
        (0..longer).find_map(|at| match (self.arguments.get(at), theirs.arguments.get(at)) {
            (Some((ours, _)), None) => Some(format!("{name}: the client does not send the argument {ours}")),
            (None, Some((theirs, _))) => Some(format!("{name}: the service has no argument {theirs}")),
            (Some((ours, _)), Some((theirs, _))) if ours != theirs => Some(format!(
                "{name}: argument {} is {ours} at the service, and {theirs} at the client",
                at + 1
            )),
            (Some((argument, ours)), Some((_, theirs))) if ours != theirs => Some(format!(
                "{name}: the argument {argument} is {ours} at the service, and {theirs} at the client"
            )),
            _ => None,
        })
    }

    /// Arguments that are not known are ignored in JSON, and one that is missing is a `None`.
    fn differing_name(&self, theirs: &Self) -> Option<String> {
        let name = &self.name;
        self.arguments.iter().find_map(|(argument, ours)| {
            match theirs.arguments.iter().find(|(other, _)| other == argument) {
                Some((_, theirs)) if ours != theirs => Some(format!(
                    "{name}: the argument {argument} is {ours} at the service, and {theirs} at the client"
                )),
                None if !ours.starts_with("Option<") => {
                    Some(format!("{name}: the client does not send the argument {argument}"))
                }
                _ => None,
            }
        })
    }
}

/// Appends docs as comments.
fn comment(text: &mut String, docs: &str) {
    for line in docs.lines() {
        let printable = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        let _ = writeln!(text, "{}", format!("# {}", printable.collect::<String>()).trim_end());
    }
}

/// The canonical line of a method.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.reply.is_some() { "call" } else { "cast" };
        write!(f, "{kind} {}(", self.name)?;
        for (at, (name, ty)) in self.arguments.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{name}: {ty}")?;
        }
        f.write_str(")")?;
        self.reply.iter().try_for_each(|reply| write!(f, " -> {reply}"))
    }
}

/// Reads the canonical text. Lines that begin with `#` are the docs of the line that follows. Elsewhere, the text behind a
/// `#` does not count, and neither do empty lines.
impl FromStr for Interface {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let mut interface: Option<Self> = None;
        let mut docs: Vec<&str> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let error = |expected| SyntaxError { line: number, expected };
            if line.contains(char::is_control) {
                return Err(error("no control characters"));
            }
            if let Some(comment) = line.strip_prefix('#') {
                docs.push(comment.trim());
                continue;
            }
            let line = line.split('#').next().unwrap_or_default().trim();
            match (&mut interface, line) {
                (_, "") => docs.clear(),
                (None, line) => {
                    let name =
                        line.strip_prefix("protocol ").ok_or_else(|| error("`protocol` and a name"))?;
                    interface = Some(Self::new(name.trim(), &docs.join("\n")));
                    docs.clear();
                }
                (Some(interface), line) => {
                    let mut method = parse_method(line)
                        .ok_or_else(|| error("a method, as `Interface::text` writes it"))?;
                    method.docs = docs.join("\n");
                    docs.clear();
                    interface.add(method);
                }
            }
        }
        interface.ok_or(SyntaxError { line: 1, expected: "`protocol` and a name" })
    }
}

fn parse_method(line: &str) -> Option<Method> {
    let (kind, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once('(')?;
    let (mut arguments, rest) = split_bracket(rest)?;
    let mut method = Method::new(name, "");
    while !arguments.is_empty() {
        let end = top_level_comma(arguments).unwrap_or(arguments.len());
        let (argument, rest) = arguments.split_at_checked(end)?;
        let (name, ty) = argument.split_once(": ")?;
        method.arguments.push((name.trim().into(), ty.trim().into()));
        arguments = rest.strip_prefix(',').unwrap_or_default();
    }
    method.reply = match (kind, rest.trim().strip_prefix("-> ")) {
        ("cast", None) if rest.trim().is_empty() => None,
        ("call", Some(reply)) => Some(reply.into()),
        _ => return None,
    };
    Some(method)
}

/// Splits what is inside a bracket that was opened from what comes after it.
fn split_bracket(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(..at)?, text.get(at + letter.len_utf8()..)?));
        }
    }
    None
}

fn top_level_comma(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, letter)| {
        match letter {
            '(' | '{' | '[' | '<' => depth += 1,
            ')' | '}' | ']' | '>' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

/// The text is no interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct SyntaxError {
    line: usize,
    expected: &'static str,
}

/// The first difference by which a service does not understand a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Incompatible(Box<str>);
