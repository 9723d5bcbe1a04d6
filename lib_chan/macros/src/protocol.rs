//! The attribute `protocol`: reads and checks the trait. `generate.rs` writes the code.

mod generate;

use proc_macro2::{Ident, TokenStream};
use syn::ext::IdentExt;
use syn::{Attribute, Error, FnArg, ItemTrait, Pat, ReturnType, TraitItem, TraitItemFn, Type, parse2};

/// The methods that `Remote`, `Address` or `Within` have, or may get. A method of a protocol with such a name would be
/// hidden behind it. A test of `lib_chan` compares the list with its sources.
pub(crate) const RESERVED: &[&str] = &[
    "call",
    "call_into",
    "call_within",
    "cast",
    "cast_all",
    "cast_events",
    "cast_latest",
    "children",
    "clone",
    "close",
    "codec",
    "connection",
    "connection_changed",
    "draining",
    "end",
    "ended",
    "flush",
    "fmt",
    "grant",
    "hand_out",
    "handed",
    "info",
    "is_far",
    "max_payload_len",
    "monitor_connection",
    "pid",
    "revoke",
    "send",
    "start_child",
    "stop",
    "stop_child",
    "taken",
    "try_cast",
    "try_send",
    "wait_draining",
    "within",
];

struct Method {
    name: Ident,
    /// The variant of the message, which is also the name on the wire.
    variant: Ident,
    attributes: Vec<Attribute>,
    arguments: Vec<(Ident, Type)>,
    /// The type of the answer of a call; `None` for a cast.
    reply: Option<Type>,
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "`protocol` takes no arguments"));
    }
    let item: ItemTrait =
        parse2(item).map_err(|error| Error::new(error.span(), "`protocol` belongs on a trait"))?;
    let mut problems = Problems(None);
    check_trait(&item, &mut problems);
    let mut methods: Vec<Method> = Vec::new();
    for entry in &item.items {
        match entry {
            TraitItem::Fn(function) => match Method::read(function) {
                Ok(method) => {
                    if let Some(other) = methods.iter().find(|other| other.variant == method.variant) {
                        problems.add(Error::new(
                            method.name.span(),
                            format!(
                                "`{}` and `{}` have the same name on the wire, `{}`",
                                other.name, method.name, method.variant
                            ),
                        ));
                    }
                    methods.push(method);
                }
                Err(error) => problems.add(error),
            },
            other => problems.add(Error::new_spanned(other, "a protocol has methods only")),
        }
    }
    if item.items.is_empty() {
        problems.add(Error::new(item.ident.span(), "a protocol needs a method"));
    }
    problems.none()?;
    Ok(generate::generate(&item, &methods))
}

/// All mistakes are reported together.
struct Problems(Option<Error>);

impl Problems {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn none(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

fn check_trait(item: &ItemTrait, problems: &mut Problems) {
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        problems.add(Error::new_spanned(&item.generics, "a protocol has no generic parameters"));
    }
    if !item.supertraits.is_empty() {
        problems.add(Error::new_spanned(&item.supertraits, "a protocol has no supertraits"));
    }
    if let Some(unsafety) = &item.unsafety {
        problems.add(Error::new_spanned(unsafety, "a protocol is not `unsafe`"));
    }
    check_attributes(&item.attrs, problems);
}

fn check_attributes(attributes: &[Attribute], problems: &mut Problems) {
    for attribute in attributes {
        if !["doc", "deprecated", "allow", "expect"].iter().any(|name| attribute.path().is_ident(name)) {
            let text = "a protocol takes only the attributes `doc`, `deprecated`, `allow` and `expect`";
            problems.add(Error::new_spanned(attribute, text));
        }
    }
}

impl Method {
    fn read(function: &TraitItemFn) -> syn::Result<Self> {
        let mut problems = Problems(None);
        let signature = &function.sig;
        let name = &signature.ident;
        check_attributes(&function.attrs, &mut problems);
        if RESERVED.iter().any(|reserved| name.unraw() == reserved) {
            let text = format!("`{name}` is a method of every `Remote` or `Address`: choose another name");
            problems.add(Error::new(name.span(), text));
        }
        if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
            problems.add(Error::new_spanned(
                &signature.generics,
                "a method of a protocol has no generic parameters: its messages have one form on the wire",
            ));
        }
        if let Some(body) = &function.default {
            let text = "a method of a protocol has no body: the service answers its message";
            problems.add(Error::new_spanned(body, text));
        }
        if let Some(word) =
            [signature.constness.map(|word| word.span), signature.unsafety.map(|word| word.span)]
                .into_iter()
                .flatten()
                .next()
        {
            problems
                .add(Error::new(word, "a method of a protocol is `fn` for a cast or `async fn` for a call"));
        }
        let reply = match (&signature.asyncness, &signature.output) {
            (None, ReturnType::Default) => None,
            (None, ReturnType::Type(_, answer)) => {
                let text = format!("a cast has no answer: make `{name}` an `async fn`, which is a call");
                problems.add(Error::new_spanned(answer, text));
                None
            }
            (Some(_), ReturnType::Default) => Some(syn::parse_quote!(())),
            (Some(_), ReturnType::Type(_, answer)) => {
                check_owned(answer, "an answer", &mut problems);
                Some((**answer).clone())
            }
        };
        let mut arguments = Vec::new();
        for input in &signature.inputs {
            match Self::argument(input, &mut problems) {
                Ok(argument) => arguments.push(argument),
                Err(error) => problems.add(error),
            }
        }
        problems.none()?;
        let variant = Ident::new(&camel_case(&name.unraw().to_string()), name.span());
        Ok(Self { name: name.clone(), variant, attributes: function.attrs.clone(), arguments, reply })
    }

    fn argument(input: &FnArg, problems: &mut Problems) -> syn::Result<(Ident, Type)> {
        let FnArg::Typed(typed) = input else {
            let text = "a method of a protocol is declared without `self`: the trait for callers gets it";
            return Err(Error::new_spanned(input, text));
        };
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(Error::new_spanned(&typed.pat, "an argument of a protocol is a name"));
        };
        let plain = pattern.by_ref.is_none() && pattern.mutability.is_none() && pattern.subpat.is_none();
        if !plain || !typed.attrs.is_empty() {
            return Err(Error::new_spanned(typed, "an argument of a protocol is a name and a type"));
        }
        if pattern.ident.unraw() == "reply" {
            let text = "`reply` is the field of a message that answers its call: choose another name";
            problems.add(Error::new(pattern.ident.span(), text));
        }
        check_owned(&typed.ty, "an argument", problems);
        Ok((pattern.ident.clone(), (*typed.ty).clone()))
    }

    /// Returns the documentation, one line after the other.
    fn docs(&self) -> String {
        docs(&self.attributes)
    }
}

fn check_owned(ty: &Type, what: &str, problems: &mut Problems) {
    match ty {
        Type::Reference(reference) => {
            let text = match &*reference.elem {
                Type::Path(path) if path.path.is_ident("str") => {
                    format!("{what} is owned: write `String`")
                }
                _ => format!("{what} is owned, because it travels: remove the `&`"),
            };
            problems.add(Error::new_spanned(ty, text));
        }
        Type::ImplTrait(_) => {
            problems.add(Error::new_spanned(ty, format!("{what} has a type with one form on the wire")));
        }
        _ => {}
    }
}

fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `store_all` becomes `StoreAll`.
fn camel_case(name: &str) -> String {
    let mut text = String::new();
    for word in name.split('_') {
        let mut letters = word.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.extend(letters);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use syn::{ImplItem, Item, Visibility};

    use super::*;

    /// The public methods of the types that implement the traits of protocols.
    fn methods(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                methods(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
                found.extend(file.items.iter().flat_map(methods_of));
            }
        }
    }

    fn methods_of(item: &Item) -> Vec<String> {
        let Item::Impl(block) = item else { return Vec::new() };
        let Type::Path(path) = &*block.self_ty else { return Vec::new() };
        let name = path.path.segments.last().unwrap().ident.to_string();
        if block.trait_.is_some() || !["Remote", "Address", "Within"].contains(&name.as_str()) {
            return Vec::new();
        }
        let public = block.items.iter().filter_map(|item| match item {
            ImplItem::Fn(function) if matches!(function.vis, Visibility::Public(_)) => {
                Some(function.sig.ident.to_string())
            }
            _ => None,
        });
        public.collect()
    }

    #[test]
    fn every_method_of_a_caller_is_reserved() {
        let mut found = BTreeSet::new();
        methods(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut found);
        assert!(found.contains("call_within") && found.contains("send"), "{found:?}");
        let missing: Vec<_> = found.iter().filter(|name| !RESERVED.contains(&name.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn names_become_variants() {
        for (name, variant) in [("store", "Store"), ("store_all", "StoreAll"), ("a_b_c", "ABC"), ("_x", "X")]
        {
            assert_eq!(camel_case(name), variant);
        }
    }
}
