//! Descriptions of types, as they are on the wire.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A type that an argument or a reply of a protocol may have: it can describe its form on the wire.
///
/// Derive it beside serde's two traits. The derive macro understands serde's attributes `rename`, `rename_all`, `skip`,
/// `default`, `transparent` and `deny_unknown_fields`, and refuses all others. Two types that serde encodes alike have the
/// same description: `Arc<T>` is described as `T`, and a set as a `Vec`.
///
/// ```
/// use lib_chan::protocol::{Schema, describe};
///
/// #[derive(Schema)]
/// struct Job {
///     id: u64,
///     tags: std::collections::BTreeSet<String>,
/// }
///
/// assert_eq!(describe::<Job>(), "struct Job{id: u64, tags: Vec<String>}");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument or a reply of a protocol, because it has no `Schema`",
    note = "add `#[derive(lib_chan::protocol::Schema)]` to the type, beside serde's two traits"
)]
pub trait Schema: 'static {
    /// Describes the type.
    fn describe(to: &mut Describer);
}

/// Collects the description of a type.
///
/// The content of a struct or enum is written where it occurs first, and its name alone after that. So a type may contain
/// itself, and no description grows out of proportion. A second type of the same name is written with a number, as `Job'2`.
#[derive(Debug, Default)]
pub struct Describer {
    text: String,
    /// The names under which types were written.
    known: HashMap<TypeId, Box<str>>,
    /// The number of types of each name.
    names: HashMap<Box<str>, usize>,
    /// Something was written since the last bracket was opened.
    follows: bool,
}

impl Describer {
    /// Returns what was written.
    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Writes the name of a type without content.
    pub fn name(&mut self, name: &str) {
        self.text.push_str(name);
    }

    /// Writes a type with parameters: `Option<…>`.
    pub fn generic(&mut self, name: &str, parameters: impl FnOnce(&mut Self)) {
        self.name(name);
        self.open("<");
        parameters(self);
        self.close(">");
    }

    /// Writes a parameter, an element of a tuple (with an empty name), or a field.
    pub fn field<T: Schema>(&mut self, name: &str) {
        self.separate();
        if !name.is_empty() {
            let _ = write!(self.text, "{name}: ");
        }
        T::describe(self);
        self.follows = true;
    }

    /// Writes a variant of an enum; `content` writes its fields, in brackets.
    pub fn variant(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.separate();
        self.name(name);
        content(self);
        self.follows = true;
    }

    /// Writes a struct or an enum: `kind`, its name, and its content unless that was written before.
    pub fn composite<T: 'static>(&mut self, kind: &str, name: &str, content: impl FnOnce(&mut Self)) {
        let id = TypeId::of::<T>();
        if let Some(known) = self.known.get(&id) {
            return self.text.push_str(known);
        }
        let count = self.names.entry(name.into()).or_default();
        *count += 1;
        let name: Box<str> = if *count == 1 { name.into() } else { format!("{name}'{count}").into() };
        let _ = write!(self.text, "{kind} {name}");
        self.known.insert(id, name);
        content(self);
    }

    /// Opens a bracket.
    pub fn open(&mut self, bracket: &str) {
        self.text.push_str(bracket);
        self.follows = false;
    }

    /// Closes a bracket.
    pub fn close(&mut self, bracket: &str) {
        self.text.push_str(bracket);
        self.follows = true;
    }

    fn separate(&mut self) {
        if self.follows {
            self.text.push_str(", ");
        }
    }
}

/// Returns the description of a type.
pub fn describe<T: Schema + ?Sized>() -> String {
    let mut to = Describer::default();
    T::describe(&mut to);
    to.finish()
}

macro_rules! named {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl Schema for $type {
            fn describe(to: &mut Describer) {
                to.name($name);
            }
        })*
    };
}

named! {
    u8 => "u8", u16 => "u16", u32 => "u32", u64 => "u64", u128 => "u128", usize => "u64",
    i8 => "i8", i16 => "i16", i32 => "i32", i64 => "i64", i128 => "i128", isize => "i64",
    f32 => "f32", f64 => "f64", bool => "bool", char => "char", () => "()",
    String => "String", Box<str> => "String", Arc<str> => "String", PathBuf => "String",
    bytes::Bytes => "Bytes",
    IpAddr => "IpAddr", Ipv4Addr => "Ipv4Addr", Ipv6Addr => "Ipv6Addr", SocketAddr => "SocketAddr",
    Duration => "Duration",
    crate::Pid => "Pid",
}

/// A process, by the name of its protocol: the two protocols may name each other.
impl<M: super::Protocol> Schema for crate::Address<M> {
    fn describe(to: &mut Describer) {
        to.generic("Address", |to| to.name(M::NAME));
    }
}

macro_rules! same {
    ($($type:ty),* $(,)?) => {
        $(impl<T: Schema> Schema for $type {
            fn describe(to: &mut Describer) {
                T::describe(to);
            }
        })*
    };
}

same!(Box<T>, Arc<T>);

macro_rules! sequence {
    ($($type:ty),* $(,)?) => {
        $(impl<T: Schema> Schema for $type {
            fn describe(to: &mut Describer) {
                to.generic("Vec", |to| to.field::<T>(""));
            }
        })*
    };
}

sequence!(Vec<T>, VecDeque<T>, BTreeSet<T>, Box<[T]>, Arc<[T]>);

impl<T: Schema, S: 'static> Schema for HashSet<T, S> {
    fn describe(to: &mut Describer) {
        Vec::<T>::describe(to);
    }
}

impl<T: Schema> Schema for Option<T> {
    fn describe(to: &mut Describer) {
        to.generic("Option", |to| to.field::<T>(""));
    }
}

impl<T: Schema, E: Schema> Schema for Result<T, E> {
    fn describe(to: &mut Describer) {
        to.generic("Result", |to| {
            to.field::<T>("");
            to.field::<E>("");
        });
    }
}

impl<K: Schema, V: Schema> Schema for BTreeMap<K, V> {
    fn describe(to: &mut Describer) {
        to.generic("Map", |to| {
            to.field::<K>("");
            to.field::<V>("");
        });
    }
}

impl<K: Schema, V: Schema, S: 'static> Schema for HashMap<K, V, S> {
    fn describe(to: &mut Describer) {
        BTreeMap::<K, V>::describe(to);
    }
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    fn describe(to: &mut Describer) {
        to.open("[");
        to.field::<T>("");
        to.name(&format!("; {N}"));
        to.close("]");
    }
}

macro_rules! tuple {
    ($($name:ident)*) => {
        impl<$($name: Schema),*> Schema for ($($name,)*) {
            fn describe(to: &mut Describer) {
                to.open("(");
                $(to.field::<$name>("");)*
                to.close(")");
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
